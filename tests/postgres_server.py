"""A real PostgreSQL for tests: one server a run, one database a test, cloned from a migrated template."""

import asyncio
import itertools
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
from attrs import define, field

from duckmesh.adapters.postgres import migrate
from duckmesh.adapters.postgres.embedded import EmbeddedPostgres

_TEMPLATE = "duckmesh"
_numbers = itertools.count(1)


@define
class PostgresServer:
    """A running server with a migrated template database."""

    dsn: str
    data_dir: Path
    pid: int
    databases: list[str] = field(factory=list)

    async def make_database(self, *, empty: bool = False) -> str:
        """The DSN of a new database: migrated, or with nothing in it."""
        name = f"test_{next(_numbers)}"
        template = "template0" if empty else _TEMPLATE
        await self._administer(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")
        return self.dsn.replace("@/duckmesh?", f"@/{name}?")

    async def drop_database(self, dsn: str) -> None:
        """Drop what `make_database` made, whoever is still connected."""
        name = dsn.partition("@/")[2].partition("?")[0]
        await self._administer(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    async def _administer(self, statement: str) -> None:
        connection = await asyncpg.connect(self.dsn, database="postgres")
        try:
            await connection.execute(statement)
        finally:
            await connection.close()


@contextmanager
def run_postgres_server() -> Iterator[PostgresServer]:
    """Start a server in a fresh folder, stop it and remove the folder at the end."""
    folder = Path(tempfile.mkdtemp(prefix="duckmesh-test-", dir="/tmp"))
    folder.chmod(0o755)  # started as root, PostgreSQL runs as somebody else
    loop = asyncio.new_event_loop()
    postgres = EmbeddedPostgres(folder, shared_buffers="64MB")
    try:
        loop.run_until_complete(postgres.start())
        loop.run_until_complete(migrate.upgrade(postgres.dsn))
        yield PostgresServer(postgres.dsn, folder, postgres.pid or 0)
    finally:
        loop.run_until_complete(postgres.stop())
        loop.close()
        shutil.rmtree(folder, ignore_errors=True)
