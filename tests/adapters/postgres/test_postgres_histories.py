"""Histories of writes, crashes and takeovers on a real PostgreSQL keep the invariants."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import asyncpg
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test
from postgres_server import PostgresServer

from duckmesh.adapters.postgres import open_bus, open_catalog
from duckmesh.domain.leases import Lease
from duckmesh.ports.bus import BusOptions
from duckmesh.testing.stateful import HistoryMachine, System


@asynccontextmanager
async def system(server: PostgresServer) -> AsyncIterator[System]:
    dsn = await server.make_database()

    async def expire(lease: Lease) -> None:
        connection = await asyncpg.connect(dsn)
        past = "UPDATE log_lease SET expires_at = clock_timestamp() - interval '1 second' WHERE tenant_id = $1"
        await connection.execute(past, lease.tenant)
        await connection.close()

    async with open_catalog(dsn, pool_size=4) as catalog:
        options = BusOptions(dsn, dsn, 60.0, 4, prepared_statements=True, ledger=catalog, environment={})
        async with open_bus(options) as bus:
            yield System(bus, catalog, expire)
    await server.drop_database(dsn)


@pytest.mark.timeout(300)
def test_histories_on_postgres_keep_the_invariants(postgres_server: PostgresServer) -> None:
    class PostgresMachine(HistoryMachine):
        def open(self) -> AbstractAsyncContextManager[System]:
            return system(postgres_server)

    run_state_machine_as_test(
        PostgresMachine,
        settings=settings(
            max_examples=10,
            stateful_step_count=25,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.explicit, Phase.reuse, Phase.generate],
        ),
    )
