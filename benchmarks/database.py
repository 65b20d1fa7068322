"""A database of the benchmarks' own on the Postgres that the product uses."""

import asyncio
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
from attrs import frozen

NAME = "duckmesh_bench"


@frozen
class BenchDatabase:
    """Where the references work, in both spellings of a DSN."""

    uri: str

    @property
    def keywords(self) -> str:
        """Return libpq's ``key=value`` form, which DuckDB's extension takes without quoting troubles."""
        parts = urllib.parse.urlsplit(self.uri)
        values: dict[str, str | None] = {
            "dbname": parts.path.lstrip("/"),
            "host": parts.hostname,
            "port": str(parts.port) if parts.port else None,
            "user": urllib.parse.unquote(parts.username) if parts.username else None,
            "password": urllib.parse.unquote(parts.password) if parts.password else None,
            **dict(urllib.parse.parse_qsl(parts.query)),
        }
        return " ".join(f"{key}={_quoted(value)}" for key, value in values.items() if value)


def _quoted(value: str) -> str:
    if not any(character in value for character in " '\\"):
        return value
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"


def with_database(dsn: str, name: str) -> str:
    """Return the same DSN for another database of the server."""
    return urllib.parse.urlunsplit(urllib.parse.urlsplit(dsn)._replace(path=f"/{name}"))


async def _run(dsn: str, *statements: str) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        for statement in statements:
            await connection.execute(statement)
    finally:
        await connection.close()


async def server_settings(dsn: str) -> dict[str, Any]:
    """Return what a reader needs to judge the figures."""
    connection = await asyncpg.connect(dsn)
    try:
        names = ["server_version", "synchronous_commit", "fsync", "shared_buffers", "max_wal_size"]
        return {name: await connection.fetchval("SELECT current_setting($1)", name) for name in names}
    finally:
        await connection.close()


@contextmanager
def bench_database(dsn: str) -> Iterator[BenchDatabase]:
    """Create the database, and drop it at the end. ``dsn`` names any database whose user may create others."""
    drop = f"DROP DATABASE IF EXISTS {NAME} WITH (FORCE)"
    asyncio.run(_run(dsn, drop, f"CREATE DATABASE {NAME}"))
    database = BenchDatabase(with_database(dsn, NAME))
    settings = asyncio.run(server_settings(database.uri))
    if settings["synchronous_commit"] != "on" or settings["fsync"] != "on":
        raise SystemExit(f"figures without fsync and synchronous_commit mean nothing: {settings}")
    try:
        yield database
    finally:
        asyncio.run(_run(dsn, drop))
