"""How the operator's commands reach the database: by settings, or the embedded one of a data directory."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from duckmesh.app.cli.discovery import read_dsn, resolve_data_dir
from duckmesh.app.cli.exit_codes import UsageProblem

if TYPE_CHECKING:
    from duckmesh.app.settings import Settings


def load_operator_settings(config: Path | None, **overrides: Any) -> "Settings":
    """The settings, with what the command line says on top; raises `ConfigurationError`."""
    from duckmesh.app.settings import load_settings  # noqa: PLC0415 - slow to import

    return load_settings(config, **overrides)


@asynccontextmanager
async def operator_dsn(data_dir: Path | None, config: Path | None) -> AsyncIterator[str]:
    """The database to administer: the one of the settings, else the embedded one, started when it is not running."""
    settings = load_operator_settings(config)
    if settings.postgres.dsn is not None and data_dir is None:
        yield settings.postgres.dsn.get_secret_value()
        return
    folder = resolve_data_dir(data_dir).expanduser().absolute()
    running = read_dsn(folder)
    if running is not None and await _answers(running):
        yield running
        return
    async with _embedded(folder) as dsn:
        yield dsn


async def _answers(dsn: str) -> bool:
    import asyncpg  # noqa: PLC0415 - slow to import

    try:
        connection = await asyncpg.connect(dsn, timeout=5)
    except (OSError, TimeoutError, asyncpg.PostgresError):
        return False
    await connection.close()
    return True


@asynccontextmanager
async def _embedded(folder: Path) -> AsyncIterator[str]:
    from duckmesh.adapters.postgres.embedded import EmbeddedPostgres, EmbeddedPostgresError  # noqa: PLC0415

    if not (folder / "postgres").is_dir():
        raise UsageProblem(
            f"there is no DuckMesh in {folder}: name its data directory with --data-dir, or set DUCKMESH_POSTGRES_DSN"
        )
    postgres = EmbeddedPostgres(folder)
    try:
        await postgres.start()
    except EmbeddedPostgresError as error:
        raise UsageProblem(str(error)) from error
    try:
        yield postgres.dsn
    finally:
        await postgres.stop()
