"""The log and the catalog on a real PostgreSQL keep every law."""

# ruff: noqa: ARG002 - the hooks have the signature of the suite

from collections.abc import AsyncIterator
from datetime import datetime

import asyncpg
import pytest_asyncio

from duckmesh.adapters.postgres import PostgresBus, PostgresCatalog, open_bus, open_catalog
from duckmesh.domain.leases import Lease
from duckmesh.domain.snapshots import Snapshot
from duckmesh.ports.bus import BusOptions
from duckmesh.testing.bus import IngestBusSuite
from duckmesh.testing.catalog import CatalogSuite


async def _execute(dsn: str, statement: str, *arguments: object) -> None:
    connection = await asyncpg.connect(dsn)
    try:
        await connection.execute(statement, *arguments)
    finally:
        await connection.close()


class TestPostgresBus(IngestBusSuite):
    prepared = True

    @pytest_asyncio.fixture
    async def bus(self, database: str) -> AsyncIterator[PostgresBus]:
        self.dsn = database
        async with open_catalog(database, pool_size=2) as ledger:
            options = BusOptions(database, database, 30.0, 10, self.prepared, ledger, {})
            async with open_bus(options) as bus:
                yield bus

    async def expire_lease(self, bus: PostgresBus, lease: Lease) -> None:
        past = "UPDATE log_lease SET expires_at = clock_timestamp() - interval '1 second' WHERE tenant_id = $1"
        await _execute(self.dsn, past, lease.tenant)


class TestPostgresBusBehindATransactionPooler(TestPostgresBus):
    prepared = False


class TestPostgresCatalog(CatalogSuite):
    @pytest_asyncio.fixture
    async def catalog(self, database: str) -> AsyncIterator[PostgresCatalog]:
        self.dsn = database
        async with open_catalog(database) as catalog:
            yield catalog

    async def set_published_at(self, catalog: PostgresCatalog, snapshot: Snapshot, at: datetime) -> None:
        await _execute(
            self.dsn, "UPDATE snapshot SET published_at = $1 WHERE snapshot_id = $2", at, snapshot.snapshot_id
        )
