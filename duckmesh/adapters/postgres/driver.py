"""The connection pool, and the one place where the driver's errors become DuckMesh's."""

import logging
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

import asyncpg

from duckmesh.domain.errors import ConfigurationError, DuckMeshError, OutcomeUnknown, Unavailable

Connection = Any
Pool = Any

_CONNECT_TIMEOUT_S: Final = 10.0
_COMMAND_TIMEOUT_S: Final = 60.0
_ACQUIRE_TIMEOUT_S: Final = 15.0

_SESSION: Final = {
    "application_name": "duckmesh",
    "jit": "off",  # it costs more than these short statements take
    # A process that is stopped inside a transaction must not keep a tenant's head locked.
    "idle_in_transaction_session_timeout": "10s",
}

#: The connection broke after the statement was sent: whether it committed is not known.
_BROKEN = (
    asyncpg.PostgresConnectionError,
    asyncpg.OperatorInterventionError,
    asyncpg.IdleInTransactionSessionTimeoutError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # what giving back a connection raises that broke in the middle of an answer
    ConnectionError,
    TimeoutError,
)


def _without_traceback(record: logging.LogRecord) -> bool:
    record.exc_info = None
    return True


# A pool reports in full that it cannot connect while the server restarts; requests say the same with our errors.
logging.getLogger("asyncpg.pool").addFilter(_without_traceback)


@asynccontextmanager
async def open_pool(dsn: str, *, size: int = 10, prepared: bool = True) -> AsyncIterator[Pool]:
    """A pool of connections. ``prepared=False`` is for a pooler in transaction mode, which loses statements."""
    with translated():
        pool = await asyncpg.create_pool(
            dsn,
            min_size=1,
            max_size=size,
            timeout=_CONNECT_TIMEOUT_S,
            command_timeout=_COMMAND_TIMEOUT_S,
            statement_cache_size=256 if prepared else 0,
            server_settings=dict(_SESSION) if prepared else None,
        )
    try:
        yield pool
    finally:
        pool.terminate()


@asynccontextmanager
async def acquired(pool: Pool) -> AsyncIterator[Connection]:
    """A connection of the pool, with errors translated."""
    with translated():
        async with pool.acquire(timeout=_ACQUIRE_TIMEOUT_S) as connection:
            yield connection


@contextmanager
def translated(*, commits: bool = False) -> Iterator[None]:
    """Raise DuckMesh's errors for the driver's.

    With ``commits`` a broken connection is `OutcomeUnknown`, since the commit may have happened; without it is
    `Unavailable`.
    """
    try:
        yield
    except DuckMeshError:
        raise
    except _BROKEN as error:
        broken = OutcomeUnknown if commits else Unavailable
        raise broken(
            "the connection to PostgreSQL broke; try again with the same idempotency keys",
            cause=type(error).__name__,
        ) from error
    except (asyncpg.PostgresError, OSError) as error:
        # What adapters expect they catch themselves. The rest is the server's state, such as too many connections,
        # read-only or a full disk, which passes or is mended: nothing was changed, and nothing is given up.
        raise Unavailable(
            f"PostgreSQL does not take the request now ({type(error).__name__}); try again", cause=type(error).__name__
        ) from error


async def check_server(connection: Connection) -> None:
    """Refuse a server that does not keep what it acknowledged; raises `ConfigurationError`."""
    if await connection.fetchval("SHOW synchronous_commit") == "off":
        raise ConfigurationError(
            "PostgreSQL has synchronous_commit = off: acknowledged writes could be lost; set it to on for this "
            "database or role"
        )
    if await connection.fetchval("SHOW fsync") == "off":
        raise ConfigurationError("PostgreSQL has fsync = off: acknowledged writes could be lost; set it to on")
