"""The whole application over a log in the shape of Kafka's: no code above the ports knows the difference."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
import pytest_asyncio
from attrs import frozen
from caller import record

from duckmesh.adapters.memory import MemoryCatalog
from duckmesh.adapters.memory.partitioned import PartitionedMemoryBus
from duckmesh.app.container import Adapters, compose, memory_adapters
from duckmesh.app.rest.app import RestOptions, create_app
from duckmesh.app.server.serve import rest_services
from duckmesh.app.settings import load_settings

pytestmark = pytest.mark.asyncio


@frozen
class Application:
    """API and coordinator in this process, over one partition that all tenants share."""

    bus: PartitionedMemoryBus
    http: httpx.AsyncClient

    async def call(self, method: str, path: str, body: Any = None, *, tenant: str = "acme", expect: int = 200) -> Any:
        headers = {"x-tenant-id": tenant, "content-type": "application/json"}
        answer = await self.http.request(method, path, content=json.dumps(body), headers=headers)
        assert answer.status_code == expect, answer.text
        return answer.json()

    async def create(self, table: str, *, tenant: str = "acme", key: tuple[str, ...] = ()) -> Any:
        columns = {"id": "BIGINT", "note": "VARCHAR"}
        body = {"table_name": table, "schema_json": columns, "primary_key_cols": list(key)}
        return await self.call("POST", "/v1/tables", body, tenant=tenant, expect=201)

    async def put(self, table: str, *records: Any, tenant: str = "acme", wait: bool = False) -> Any:
        body = {"records": list(records), "wait_for_visibility": wait}
        return await self.call("POST", f"/v1/ingest/{table}", body, tenant=tenant)

    async def rows(self, sql: str, *, tenant: str = "acme", **options: Any) -> list[Any]:
        answer = await self.call("POST", "/v1/query", {"sql": sql, **options}, tenant=tenant)
        found: list[Any] = answer["rows"]
        return found


@pytest_asyncio.fixture
async def application() -> AsyncIterator[Application]:
    settings = load_settings(env={"DUCKMESH_FLUSH_INTERVAL_MS": "20", "DUCKMESH_POLL_INTERVAL_MS": "20"})
    catalog = MemoryCatalog()
    bus = PartitionedMemoryBus(catalog, seed=7)
    async with memory_adapters(settings) as memory:
        adapters = Adapters(bus, catalog, memory.store, memory.engine)
        container = compose(settings, adapters)
        app = create_app(rest_services(container, adapters), RestOptions(auth=False))
        async with (
            container.barrier().open(),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http,
        ):
            working = asyncio.create_task(container.coordinator().run())
            try:
                yield Application(bus, http)
            finally:
                working.cancel()
                with suppress(asyncio.CancelledError):
                    await working


async def test_a_token_is_honoured_although_tenants_share_the_partition(application: Application) -> None:
    for tenant in ("acme", "other"):
        await application.create("t", tenant=tenant)
    tokens: dict[str, list[int]] = {"acme": [], "other": []}
    for number in range(20):
        for tenant, seen in tokens.items():
            receipt = await application.put("t", record({"id": number}), tenant=tenant)
            seen.append(receipt["max_visibility_token"])
            found = await application.rows("SELECT count(*) FROM t", tenant=tenant, min_visibility_token=seen[-1])
            assert found == [[number + 1]]
    for seen in tokens.values():
        assert seen == sorted(set(seen))
        assert seen != list(range(seen[0], seen[0] + 20)), "tokens of one tenant have gaps here"


async def test_a_retry_is_a_duplicate_and_other_content_a_conflict(application: Application) -> None:
    await application.create("t")
    first = await application.put("t", record({"id": 1, "note": "a"}, "k"))
    again = await application.put("t", record({"note": "a", "id": 1}, "k"), record({"id": 2}, "k2"))
    assert (again["accepted_count"], again["duplicate_count"], again["status"]) == (1, 1, "partial_duplicate")
    assert again["max_visibility_token"] > first["max_visibility_token"]
    body = {"records": [record({"id": 1, "note": "b"}, "k")]}
    error = await application.call("POST", "/v1/ingest/t", body, expect=409)
    assert error["error_code"] == "IDEMPOTENCY_CONFLICT"
    found = await application.rows("SELECT id FROM t", min_visibility_token=again["max_visibility_token"])
    assert sorted(found) == [[1], [2]]


async def test_a_write_whose_answer_was_lost_is_there_once_after_a_retry(application: Application) -> None:
    await application.create("t")
    application.bus.append_answer_lost()
    body = {"records": [record({"id": 1}, "k")]}
    lost = await application.call("POST", "/v1/ingest/t", body, expect=503)
    assert (lost["error_code"], lost["retryable"]) == ("OUTCOME_UNKNOWN", True)
    await application.put("t", record({"id": 1}, "k"), wait=True)
    await application.put("t", record({"id": 2}, "k2"), wait=True)
    assert await application.rows("SELECT id FROM t ORDER BY id") == [[1], [2]]


async def test_redelivery_after_a_rebalance_repeats_nothing(application: Application) -> None:
    """Writers retry, answers are lost, and the partition changes hands, while strict readers look."""
    await application.create("t")
    draw = random.Random(3)
    receipts: list[int] = []

    async def write(writer: int) -> None:
        for turn in range(15):
            number = writer * 100 + turn
            if draw.random() < 0.15:
                application.bus.append_answer_lost()
            sent = {"records": [record({"id": number}, f"k{number}")]}
            for _ in range(8):
                answer = await application.http.post("/v1/ingest/t", json=sent, headers={"x-tenant-id": "acme"})
                if answer.status_code == 200:
                    receipts.append(answer.json()["max_visibility_token"])
                    break
                assert answer.json()["error_code"] == "OUTCOME_UNKNOWN"
            else:
                raise AssertionError("every answer was lost")

    async def disturb(writers: "list[asyncio.Task[None]]") -> None:
        while not all(task.done() for task in writers):
            application.bus.rebalance()
            for _ in range(10):
                await asyncio.sleep(0)

    async with asyncio.TaskGroup() as tasks:
        writers = [tasks.create_task(write(writer)) for writer in range(6)]
        tasks.create_task(disturb(writers))
    sql = "SELECT count(*), count(DISTINCT id) FROM t"
    assert await application.rows(sql, min_visibility_token=max(receipts)) == [[90, 90]]


async def test_keyed_tables_and_dropped_tables_behave_the_same(application: Application) -> None:
    await application.create("t", key=("id",))
    await application.put("t", record({"id": 1, "note": "a"}), record({"id": 2, "note": "b"}), wait=True)
    receipt = await application.put("t", record({"id": 1}, op="delete"), record({"id": 2, "note": "c"}), wait=True)
    assert await application.rows("SELECT id, note FROM t") == [[2, "c"]]
    await application.call("DELETE", "/v1/tables/t")
    await application.create("t")
    assert await application.rows("SELECT count(*) FROM t") == [[0]]
    old = receipt["visible_snapshot_id"]
    assert await application.rows("SELECT id, note FROM t", snapshot_id=old) == [[2, "c"]]


async def test_a_schema_change_takes_its_place_among_the_writes(application: Application) -> None:
    await application.create("t")
    columns = {"id": "BIGINT", "note": "VARCHAR", "more": {"type": "BIGINT", "default": 7}}

    async def write(number: int) -> int:
        token: int = (await application.put("t", record({"id": number})))["max_visibility_token"]
        return token

    async with asyncio.TaskGroup() as tasks:
        writes = [tasks.create_task(write(number)) for number in range(20)]
        changed = tasks.create_task(application.call("PATCH", "/v1/tables/t", {"schema_json": columns}))
    assert changed.result()["schema_version"] == 2
    last = await application.put("t", record({"id": 99, "more": 8}))
    tokens = [task.result() for task in writes] + [last["max_visibility_token"]]
    found = await application.rows("SELECT count(*), sum(more) FROM t", min_visibility_token=max(tokens))
    assert found == [[21, str(20 * 7 + 8)]]


async def test_one_write_of_two_tables_is_visible_at_once(application: Application) -> None:
    for name in ("a", "b"):
        await application.create(name)
    tables = {name: {"records": [record({"id": 1})]} for name in ("a", "b")}
    receipt = await application.call("POST", "/v1/ingest", {"tables": tables, "wait_for_visibility": True})
    assert receipt["status"] == "visible"
    assert await application.rows("SELECT a._token - b._token FROM a JOIN b USING (id)") == [[0]]


async def test_tokens_that_no_write_has_are_refused_the_same(application: Application) -> None:
    await application.create("t")
    for token, code in ((0, "VISIBILITY_TOKEN_INVALID"), (10**6, "VISIBILITY_TOKEN_INVALID")):
        body = {"sql": "SELECT 1", "min_visibility_token": token}
        assert (await application.call("POST", "/v1/query", body, expect=400))["error_code"] == code
