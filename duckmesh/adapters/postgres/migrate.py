"""Versions of the database schema: what is there, what this software needs, and the way between.

Alembic runs the migrations of `migrations/`, over asyncpg like everything else. It is imported only when there is
something to run, since a server that starts on a current database should not wait for it.
"""

import asyncio
from pathlib import Path
from typing import Any, Final

import asyncpg
from attrs import frozen

from duckmesh.adapters.postgres.driver import translated
from duckmesh.domain.errors import ConfigurationError

#: The revision that this version of DuckMesh works on.
CURRENT: Final = "0001"
_LOCK: Final = 0x6475636B6D657368  # two processes that migrate at once take turns
_VERSION: Final = "SELECT version_num FROM duckmesh_version"


@frozen
class SchemaStatus:
    """The revision of the database, None for an empty one, and the one that is needed."""

    found: str | None
    needed: str = CURRENT

    @property
    def current(self) -> bool:
        """Whether this software can work on the database."""
        return self.found == self.needed


def migrations_folder() -> Path:
    """Where the migrations are: in the package when it was installed, beside it in a checkout."""
    package = Path(__file__).parents[2]
    installed = package / "_migrations"
    return installed if installed.is_dir() else package.parent / "migrations"


async def status(dsn: str) -> SchemaStatus:
    """Read the revision of the database; raises `Unavailable`."""
    with translated():
        connection = await asyncpg.connect(dsn, timeout=10)
        try:
            return SchemaStatus(await connection.fetchval(_VERSION))
        except asyncpg.UndefinedTableError:
            return SchemaStatus(None)
        finally:
            await connection.close()


async def require_current(dsn: str) -> None:
    """Refuse a database of another version, and say what to run; raises `ConfigurationError`."""
    state = await status(dsn)
    if state.current:
        return
    if state.found is None or state.found < state.needed:
        raise ConfigurationError(
            f"the catalog is at revision {state.found or 'none'} and this version needs {state.needed}: "
            "run `duckmesh migrate up`"
        )
    raise ConfigurationError(
        f"the catalog is at revision {state.found}, newer than this version of DuckMesh knows ({state.needed}): "
        "run a newer DuckMesh, or `duckmesh migrate down` with it"
    )


async def upgrade(dsn: str, revision: str = "head") -> SchemaStatus:
    """Bring the database to ``revision``; it is safe to run twice, or from two places."""
    await asyncio.to_thread(_run, dsn, "upgrade", revision)
    return await status(dsn)


async def upgrade_if_empty(dsn: str) -> None:
    """Make the schema in a new database; one of another version is left to `require_current` to refuse."""
    if (await status(dsn)).found is None:
        await upgrade(dsn)


async def downgrade(dsn: str, revision: str = "-1") -> SchemaStatus:
    """Take the database back to ``revision``, one step by default. Dropping tables drops what is in them."""
    await asyncio.to_thread(_run, dsn, "downgrade", revision)
    return await status(dsn)


def _run(dsn: str, command: str, revision: str) -> None:
    # An own thread has no running loop, so SQLAlchemy's bridge to asyncpg can have one.
    asyncio.run(_migrate(dsn, command, revision))


async def _migrate(dsn: str, command: str, revision: str) -> None:
    from sqlalchemy import text  # noqa: PLC0415 - slow to import and seldom needed
    from sqlalchemy.ext.asyncio import create_async_engine  # noqa: PLC0415

    async def connect() -> Any:
        return await asyncpg.connect(dsn, timeout=10)

    engine = create_async_engine("postgresql+asyncpg://", async_creator=connect)
    try:
        with translated():
            async with engine.connect() as lock:
                await lock.execute(text(f"SELECT pg_advisory_lock({_LOCK})"))
                async with engine.connect() as connection:
                    await connection.run_sync(_alembic, command, revision)
                    await connection.commit()
    finally:
        await engine.dispose()


def _alembic(connection: Any, command: str, revision: str) -> None:
    from alembic import command as commands  # noqa: PLC0415
    from alembic.config import Config  # noqa: PLC0415

    config = Config()
    config.set_main_option("script_location", str(migrations_folder()))
    config.attributes["connection"] = connection
    getattr(commands, command)(config, revision)
