"""Opens the bus and the catalog, each with connections of its own."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

from duckmesh.adapters.postgres.bus import PostgresBus
from duckmesh.adapters.postgres.catalog import PostgresCatalog
from duckmesh.adapters.postgres.driver import acquired, check_server, open_pool
from duckmesh.adapters.postgres.signals import PostgresSignals
from duckmesh.ports.bus import BusOptions


@asynccontextmanager
async def open_bus(options: BusOptions) -> AsyncIterator[PostgresBus]:
    """The bus, with connections of its own; raises `ConfigurationError` on a server that may lose commits."""
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(
            open_pool(options.dsn, size=options.pool_size, prepared=options.prepared_statements)
        )
        async with acquired(pool) as connection:
            await check_server(connection)
        signals = await stack.enter_async_context(PostgresSignals(options.listen_dsn).open())
        yield PostgresBus(pool, signals, lease_ttl_s=options.lease_ttl_s)


@asynccontextmanager
async def open_catalog(
    dsn: str, *, listen_dsn: str | None = None, pool_size: int = 10, prepared: bool = True
) -> AsyncIterator[PostgresCatalog]:
    """The catalog, with connections of its own."""
    async with AsyncExitStack() as stack:
        pool = await stack.enter_async_context(open_pool(dsn, size=pool_size, prepared=prepared))
        signals = await stack.enter_async_context(PostgresSignals(listen_dsn or dsn).open())
        yield PostgresCatalog(pool, signals)
