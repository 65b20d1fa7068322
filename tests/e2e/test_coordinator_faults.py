"""Planes that are stopped, resumed and killed at the worst moments: the answers stay, and nothing comes twice."""

import asyncio
import contextlib
import json
import signal
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, TypeVar

import asyncpg
import httpx
import pytest
from caller import Caller, new_name, record
from planes import Planes, Running, until
from s3_server import S3Server

COLUMNS = {"id": "BIGINT", "note": "VARCHAR"}
CONTENT = "SELECT id, note FROM facts ORDER BY id"
COORDINATOR_POINTS = ["after_claim", "during_write", "after_upload", "inside_publication", "after_publication"]
Result = TypeVar("Result")


def facts(*numbers: int) -> list[list[Any]]:
    return [[number, f"fact {number}"] for number in numbers]


def fact(number: int) -> dict[str, Any]:
    return record({"id": number, "note": f"fact {number}"}, key=f"fact-{number}")


def put(caller: Caller, *numbers: int, wait: bool = False) -> Any:
    return caller.put("facts", *(fact(number) for number in numbers), wait=wait)


async def fetch(dsn: str, statement: str, *arguments: object) -> list[Any]:
    connection = await asyncpg.connect(dsn)
    try:
        return [tuple(row) for row in await connection.fetch(statement, *arguments)]
    finally:
        await connection.close()


def run(work: Awaitable[Result]) -> Result:
    async def main() -> Result:
        return await work

    return asyncio.run(main())


def holder(dsn: str, tenant: str) -> str | None:
    [(found,)] = run(fetch(dsn, "SELECT holder FROM log_lease WHERE tenant_id = $1", tenant))
    return str(found) if found is not None else None


def holds_lease(plane: Running, dsn: str, tenant: str) -> bool:
    return f":{plane.pid}:" in (holder(dsn, tenant) or "")


def assert_watermarks_grow(caller: Caller) -> None:
    """Newest first, every snapshot has its own watermark, and the one before is its parent."""
    found = caller.call("GET", "/v1/snapshots?limit=1000")["snapshots"]
    watermarks = [snapshot["watermark"] for snapshot in found]
    assert watermarks == sorted(set(watermarks), reverse=True)
    assert [snapshot["parent_id"] for snapshot in found] == [s["snapshot_id"] for s in found[1:]] + [None]


@pytest.mark.parametrize("point", COORDINATOR_POINTS)
def test_a_coordinator_killed_anywhere_is_followed_by_one_that_gives_the_same_answers(
    planes: Planes, point: str
) -> None:
    api = planes.api()
    passage = 2 if point == "during_write" else 3  # the table is the first batch, and has nothing to write
    doomed = planes.coordinator(DUCKMESH_CRASH_AT=f"coordinator.{point}:{passage}")
    with planes.caller(api, new_name("tenant")) as caller:
        caller.create("facts", COLUMNS)
        before = put(caller, 1, 2, wait=True)
        receipt = put(caller, 3, 4)
        assert doomed.until_dead() == -signal.SIGKILL
        assert caller.rows(CONTENT, snapshot_id=before["visible_snapshot_id"]) == facts(1, 2)
        assert put(caller, 4, 3)["duplicate_count"] == 2
        put(caller, 5)
        planes.coordinator()
        token = receipt["max_visibility_token"]
        seen = caller.query(CONTENT, min_visibility_token=token)
        assert seen["rows"][:4] == facts(1, 2, 3, 4)
        last = put(caller, 6, wait=True)
        assert caller.rows(CONTENT) == facts(1, 2, 3, 4, 5, 6)
        assert caller.rows(CONTENT, snapshot_id=before["visible_snapshot_id"]) == facts(1, 2)
        assert caller.rows(CONTENT, snapshot_id=seen["snapshot_id"]) == seen["rows"]
        assert last["status"] == "visible"
        assert_watermarks_grow(caller)


def test_a_coordinator_that_dies_again_and_again_loses_and_repeats_nothing(planes: Planes) -> None:
    """A death at every point, one after the other, with writes in between that only the last one publishes."""
    api = planes.api()
    with planes.caller(api, new_name("tenant")) as caller:
        first = planes.coordinator(DUCKMESH_CRASH_AT="coordinator.after_publication:2")
        caller.create("facts", COLUMNS)
        put(caller, 99)
        first.until_dead()
        for number, point in enumerate(COORDINATOR_POINTS):
            doomed = planes.coordinator(DUCKMESH_CRASH_AT=f"coordinator.{point}")
            put(caller, number)
            assert doomed.until_dead() == -signal.SIGKILL
        planes.coordinator()
        put(caller, 100, wait=True)
        assert caller.rows(CONTENT) == facts(0, 1, 2, 3, 4, 99, 100)
        assert_watermarks_grow(caller)


def test_a_coordinator_stopped_beyond_its_lease_publishes_nothing_when_it_resumes(
    planes: Planes, database: str
) -> None:
    api = planes.api()
    sleeper = planes.coordinator()
    with planes.caller(api, new_name("tenant")) as caller:
        tenant = str(caller.tenant)
        caller.create("facts", COLUMNS)
        put(caller, 1, wait=True)
        assert holds_lease(sleeper, database, tenant)
        sleeper.process.send_signal(signal.SIGSTOP)
        put(caller, 2)
        other = planes.coordinator()
        seen = put(caller, 3, wait=True)
        assert holds_lease(other, database, tenant)
        published = caller.call("GET", "/v1/snapshots")["snapshots"]
        sleeper.process.send_signal(signal.SIGCONT)
        until(lambda: holds_lease(other, database, tenant), 5, "the lease stays")
        assert caller.rows(CONTENT, snapshot_id=seen["visible_snapshot_id"]) == facts(1, 2, 3)
        put(caller, 4, wait=True)
        assert caller.rows(CONTENT) == facts(1, 2, 3, 4)
        now = caller.call("GET", "/v1/snapshots")["snapshots"]
        assert now[-len(published) :] == published, "what was published stays as it was"
        assert_watermarks_grow(caller)


def test_a_coordinator_stopped_with_a_batch_in_hand_changes_nothing_when_it_resumes(
    planes: Planes, database: str
) -> None:
    """It has claimed and read the log; when it goes on, another one has taken over and published the same writes.

    Now and then the read that it is stopped in is only a look for work, made while it ended the batch before: it
    then finds its lease gone before it has a batch. That changes nothing either, and the history is run once more.
    """
    api = planes.api()
    assert any(_overtaken_with_a_batch(planes, api, database) for _ in range(6)), "it was never stopped with a batch"


def _overtaken_with_a_batch(planes: Planes, api: Running, database: str) -> bool:
    """One history of a tenant of its own; whether the coordinator that was stopped tried to publish."""
    sleeper = planes.coordinator(DUCKMESH_FLUSH_INTERVAL_MS="0")  # a claim is the whole batch
    others = []
    with planes.caller(api, new_name("tenant")) as caller:
        try:
            caller.create("facts", COLUMNS)
            put(caller, 1, wait=True)
            sleeper.process.send_signal(signal.SIGSTOP)
            put(caller, 2, 3)
            run(_stop_at(sleeper, database, "LOCK TABLE log_entry IN ACCESS EXCLUSIVE MODE", "FROM log_entry"))
            others.append(planes.coordinator())
            put(caller, 4, wait=True)
            assert holds_lease(others[0], database, str(caller.tenant))
            published = caller.call("GET", "/v1/snapshots")["snapshots"]
            assert caller.rows(CONTENT) == facts(1, 2, 3, 4)
            sleeper.process.send_signal(signal.SIGCONT)
            with contextlib.suppress(AssertionError):
                sleeper.until_said("STALE_EPOCH", 10)
            assert caller.call("GET", "/v1/snapshots")["snapshots"] == published
            put(caller, 5, wait=True)
            assert caller.rows(CONTENT) == facts(1, 2, 3, 4, 5)
            assert_watermarks_grow(caller)
            return "STALE_EPOCH" in sleeper.text
        finally:
            for plane in (sleeper, *others):
                plane.kill()


def test_a_coordinator_stopped_inside_its_publication_does_not_hold_the_tenant_for_ever(
    planes: Planes, database: str
) -> None:
    """Its transaction holds the catalog's head. The database ends it, and another coordinator goes on."""
    api = planes.api()
    sleeper = planes.coordinator()
    with planes.caller(api, new_name("tenant")) as caller:
        caller.create("facts", COLUMNS)
        put(caller, 1, wait=True)
        sleeper.process.send_signal(signal.SIGSTOP)
        put(caller, 2, 3)
        lock = f"SELECT 1 FROM catalog_head WHERE tenant_id = '{caller.tenant}' FOR UPDATE"
        run(_stop_at(sleeper, database, lock, "FROM catalog_head"))
        other = planes.coordinator()
        put(caller, 4, wait=True)
        assert holds_lease(other, database, str(caller.tenant))
        assert caller.rows(CONTENT) == facts(1, 2, 3, 4)
        sleeper.process.send_signal(signal.SIGCONT)
        sleeper.until_said("coordinator.failed", 30)
        put(caller, 5, wait=True)
        assert caller.rows(CONTENT) == facts(1, 2, 3, 4, 5)
        assert_watermarks_grow(caller)
        assert "Traceback" not in sleeper.text
        assert sleeper.process.poll() is None


async def _stop_at(plane: Running, dsn: str, lock: str, statement: str) -> None:
    """Resume a stopped plane until its ``statement`` waits for what ``lock`` takes; stop it there, and unlock."""
    connection = await asyncpg.connect(dsn)
    watcher = await asyncpg.connect(dsn)
    try:
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(lock)
        plane.process.send_signal(signal.SIGCONT)
        async with asyncio.timeout(20):
            while not await watcher.fetchval(
                "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
                f"AND wait_event_type = 'Lock' AND query LIKE '%{statement}%'"
            ):
                await asyncio.sleep(0.01)
        plane.process.send_signal(signal.SIGSTOP)
        await transaction.rollback()
    finally:
        await connection.close()
        await watcher.close()


def test_two_coordinators_share_tenants_and_repeat_nothing(planes: Planes) -> None:
    api = planes.api()
    planes.coordinator()
    planes.coordinator()
    tenants = [new_name("tenant") for _ in range(4)]
    callers = [planes.caller(api, tenant) for tenant in tenants]
    try:
        for caller in callers:
            caller.create("facts", COLUMNS)
        for number in range(25):
            for caller in callers:
                put(caller, number)
        for caller in callers:
            put(caller, 25, wait=True)
            assert caller.rows(CONTENT) == facts(*range(26))
            assert_watermarks_grow(caller)
    finally:
        for caller in callers:
            caller.http.close()


@pytest.mark.parametrize(("point", "stored"), [("api.before_log_commit", False), ("api.after_log_commit", True)])
def test_a_write_whose_api_died_before_it_answered_is_there_once_after_a_retry(
    planes: Planes, point: str, *, stored: bool
) -> None:
    api = planes.api()
    planes.coordinator()
    tenant = new_name("tenant")
    with planes.caller(api, tenant) as caller:
        caller.create("facts", COLUMNS)
        put(caller, 1, wait=True)
        doomed = planes.api(DUCKMESH_CRASH_AT=point)
        with planes.caller(doomed, tenant) as unlucky, pytest.raises(httpx.TransportError):
            put(unlucky, 2, 3)
        assert doomed.until_dead() == -signal.SIGKILL
        retried = put(caller, 2, 3, wait=True)
        assert (retried["accepted_count"], retried["duplicate_count"]) == ((0, 2) if stored else (2, 0))
        assert caller.rows(CONTENT, min_visibility_token=retried["max_visibility_token"]) == facts(1, 2, 3)
        other = {"records": [record({"id": 2, "note": "another"}, key="fact-2")]}
        refused = caller.refused("POST", "/v1/ingest/facts", other, 409, "IDEMPOTENCY_CONFLICT")
        assert refused["context"]["idempotency_key"] == "fact-2"
        put(caller, 4, wait=True)
        assert caller.rows(CONTENT) == facts(1, 2, 3, 4)


def test_a_table_whose_api_died_before_it_answered_is_there_once(planes: Planes) -> None:
    api = planes.api()
    planes.coordinator()
    tenant = new_name("tenant")
    with planes.caller(api, tenant) as caller:
        doomed = planes.api(DUCKMESH_CRASH_AT="api.after_log_commit")
        with planes.caller(doomed, tenant) as unlucky, pytest.raises(httpx.TransportError):
            unlucky.create("facts", COLUMNS)
        body = {"table_name": "facts", "schema_json": COLUMNS}
        caller.refused("POST", "/v1/tables", body, 409, "TABLE_EXISTS")
        put(caller, 1, wait=True)
        assert caller.rows(CONTENT) == facts(1)


def test_a_connection_of_postgres_terminated_at_the_commit_is_survived_by_a_retry(
    planes: Planes, database: str
) -> None:
    """The API's answer may be that the outcome is unknown; a retry with the same keys is what it says to do."""
    api = planes.api()
    planes.coordinator()
    with planes.caller(api, new_name("tenant")) as caller:
        caller.create("facts", COLUMNS)
        terminate = (
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
            "WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        for number in range(10):
            body = json.dumps({"records": [fact(number)]})
            run(fetch(database, terminate))
            for _ in caller.again():
                answer = caller.http.post(
                    "/v1/ingest/facts", content=body, headers={"content-type": "application/json"}
                )
                if answer.status_code == 200:
                    break
                assert answer.status_code == 503, answer.text
                assert answer.json()["retryable"] is True
        put(caller, 10)
        caller.until_rows(CONTENT, facts(*range(11)))


@pytest.mark.asyncio
async def test_planes_that_share_an_s3_bucket_see_each_others_writes(
    planes: Planes, s3_server: S3Server, s3_bucket: str
) -> None:
    access = s3_server.access
    planes.environment |= {
        "DUCKMESH_OBJECT_STORE_URL": f"s3://{s3_bucket}/mesh",
        "DUCKMESH_S3_ENDPOINT": str(access.endpoint),
        "DUCKMESH_S3_ACCESS_KEY_ID": str(access.access_key_id),
        "DUCKMESH_S3_SECRET_ACCESS_KEY": str(access.secret_access_key),
    }
    await asyncio.to_thread(_write_and_kill_on_s3, planes)


def _write_and_kill_on_s3(planes: Planes) -> None:
    tenant = new_name("tenant")
    first, second = planes.api(), planes.api()
    doomed = planes.coordinator(DUCKMESH_CRASH_AT="coordinator.after_upload:2")
    with planes.caller(first, tenant) as one, planes.caller(second, tenant) as other:
        one.create("facts", COLUMNS)
        receipt = put(one, 1, 2)
        assert doomed.until_dead() == -signal.SIGKILL
        planes.coordinator()
        token = receipt["max_visibility_token"]
        found = other.rows(CONTENT, min_visibility_token=token)
        assert found == facts(1, 2)
        assert not Path(planes.folder, "objects").exists()
