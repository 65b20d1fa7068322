"""A publication that is open in the middle while later ones want to commit: no snapshot may jump over it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import pytest
import pytest_asyncio
from attrs import frozen

from duckmesh.adapters.postgres import PostgresBus, PostgresCatalog, open_bus, open_catalog
from duckmesh.adapters.postgres.bus import _STORE, _arguments
from duckmesh.app.container import Adapters, Container, compose, memory_adapters
from duckmesh.app.coordinator.service import Coordinator
from duckmesh.app.query.service import Freshness
from duckmesh.app.settings import load_settings
from duckmesh.domain.errors import ConsistencyTimeout, VisibilityTokenInvalid
from duckmesh.domain.idempotency import all_new
from duckmesh.domain.writes import Accepted, WriteGroup
from duckmesh.ports.bus import BusOptions
from duckmesh.testing.builders import EVENTS, create, group, put, write

TENANT = "acme"
COUNT = "SELECT count(*), coalesce(max(_token), 0) FROM events"


@frozen
class System:
    """Log and catalog on PostgreSQL, everything above them in this process."""

    dsn: str
    bus: PostgresBus
    catalog: PostgresCatalog
    container: Container

    @property
    def coordinator(self) -> Coordinator:
        found: Coordinator = self.container.coordinator()
        return found

    async def publish(self, *keys: str) -> int:
        """Write rows; their token."""
        schema = (await self.bus.head(TENANT)).control_token
        [outcome] = await self.bus.publish(group(TENANT, write(put(EVENTS, *keys)), schema_token=schema))
        assert isinstance(outcome, Accepted)
        return outcome.token

    async def materialise(self) -> None:
        while await self.coordinator.run_once(TENANT):
            pass

    async def count(self, **freshness: Any) -> list[tuple[int, int]]:
        """Number of rows and last token; every snapshot is checked to be a prefix, as every token but 1 is a row."""
        answer = await self.container.queries().query(TENANT, COUNT, freshness=Freshness(**freshness))
        [(rows, last)] = [tuple(row.values()) for row in answer.result.table.to_pylist()]
        assert rows == answer.snapshot.watermark - 1
        return [(rows, last)]

    async def watermark(self) -> int:
        return (await self.catalog.head(TENANT)).watermark


@pytest_asyncio.fixture
async def system(database: str) -> AsyncIterator[System]:
    settings = load_settings(env={})
    async with (
        open_catalog(database, pool_size=4) as catalog,
        open_bus(BusOptions(database, database, 5.0, 10, True, catalog, {})) as bus,
        memory_adapters(settings) as memory,
    ):
        container = compose(settings, Adapters(bus, catalog, memory.store, memory.engine))
        await catalog.create_tenant(TENANT)
        await bus.publish(group(TENANT, create(EVENTS)))
        async with container.barrier().open():
            yield System(database, bus, catalog, container)


@asynccontextmanager
async def open_publication(system: System, *keys: str) -> AsyncIterator[tuple[asyncpg.Connection, Any, int]]:
    """The bus's own statement in a transaction that is still open: connection, transaction, and the token drawn."""
    held: WriteGroup = group(
        TENANT, write(put(EVENTS, *keys)), schema_token=(await system.bus.head(TENANT)).control_token
    )
    connection = await asyncpg.connect(system.dsn)
    try:
        transaction = connection.transaction()
        await transaction.start()
        base = await connection.fetchval(_STORE, TENANT, *_arguments(held, all_new(held, 1)))
        yield connection, transaction, base + 1
    finally:
        await connection.close()


async def blocked(dsn: str, writers: int) -> None:
    """Return when so many statements wait for a lock."""
    connection = await asyncpg.connect(dsn)
    try:
        async with asyncio.timeout(10):
            while (await connection.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                "AND wait_event_type = 'Lock'"
            )) < writers:  # fmt: skip
                await asyncio.sleep(0.01)
    finally:
        await connection.close()


@pytest.mark.asyncio
async def test_no_snapshot_covers_a_token_before_its_write_is_in(system: System) -> None:
    await system.publish("before")
    await system.materialise()
    async with open_publication(system, "held") as (_, transaction, token):
        later = [asyncio.create_task(system.publish(f"later-{number}")) for number in range(4)]
        await blocked(system.dsn, 1)
        await system.materialise()
        assert await system.watermark() == token - 1
        assert await system.count() == [(1, token - 1)]
        with pytest.raises(VisibilityTokenInvalid):  # nobody holds a receipt for it, and waiting would not help
            await system.count(min_visibility_token=token)
        await transaction.commit()
        assert sorted(await asyncio.gather(*later)) == list(range(token + 1, token + 5))
    with pytest.raises(ConsistencyTimeout):
        await system.count(min_visibility_token=token + 4, timeout_s=0)
    await system.materialise()
    assert await system.count(min_visibility_token=token + 4) == [(6, token + 4)]


@pytest.mark.asyncio
async def test_a_publication_that_is_rolled_back_leaves_no_hole(system: System) -> None:
    async with open_publication(system, "held") as (_, transaction, token):
        later = [asyncio.create_task(system.publish(f"later-{number}")) for number in range(4)]
        await blocked(system.dsn, 1)
        await system.materialise()
        assert await system.watermark() == token - 1
        await transaction.rollback()
        assert sorted(await asyncio.gather(*later)) == list(range(token, token + 4))
    await system.materialise()
    assert await system.watermark() == token + 3
    assert await system.count() == [(4, token + 3)]


@pytest.mark.asyncio
async def test_a_publication_whose_connection_dies_leaves_no_hole(system: System) -> None:
    async with open_publication(system, "held") as (connection, _, token):
        later = asyncio.create_task(system.publish("later"))
        await blocked(system.dsn, 1)
        connection.terminate()
        assert await asyncio.wait_for(later, 10) == token
    await system.materialise()
    assert await system.count() == [(1, token)]


@pytest.mark.asyncio
async def test_another_tenant_does_not_wait_for_an_open_publication(system: System) -> None:
    await system.catalog.create_tenant("other")
    async with open_publication(system, "held") as (_, transaction, _token):
        async with asyncio.timeout(10):
            await system.bus.publish(group("other", create(EVENTS)))
            assert await system.coordinator.run_once("other")
        assert (await system.catalog.head("other")).watermark == 1
        await transaction.rollback()


@pytest.mark.asyncio
async def test_random_commits_and_rollbacks_leave_every_snapshot_a_prefix(system: System) -> None:
    """Six writers draw tokens and commit or roll back in any order, while a coordinator publishes all the time."""
    writing = asyncio.Event()
    committed: list[int] = []

    async def writer(number: int) -> None:
        for turn in range(8):
            async with open_publication(system, f"{number}-{turn}") as (_, transaction, token):
                await asyncio.sleep(0)
                if (number + turn) % 3 == 0:
                    await transaction.rollback()
                else:
                    await transaction.commit()
                    committed.append(token)

    async def publisher() -> None:
        while not writing.is_set():
            await system.materialise()
            await system.count()

    await system.materialise()  # the table is there
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(publisher())
        writers = [tasks.create_task(writer(number)) for number in range(6)]
        await asyncio.wait(writers)
        writing.set()
    await system.materialise()
    assert sorted(committed) == list(range(2, len(committed) + 2)), "no token was lost to a rollback"
    assert await system.count() == [(len(committed), len(committed) + 1)]
