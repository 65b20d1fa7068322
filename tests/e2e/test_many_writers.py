"""Many writers and strict readers at once: nothing is lost, nothing comes twice, every token is honoured."""

import asyncio
import json
import random
import ssl
import time
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import httpx
import pytest
from attrs import define, field
from caller import Caller, new_name
from history import History, check
from planes import UpServer

WRITERS = 32
READERS = 8
WRITES = 10_000
CONTENT = "SELECT count(*), coalesce(sum(id), 0)::BIGINT, coalesce(max(_token), 0) FROM numbers"


@define
class Crowd:
    """What all clients share: the history, and the newest receipts."""

    server: UpServer
    tenant: str
    history: History
    receipts: list[int] = field(factory=list)
    repeats: int = 0
    strict_reads: int = 0
    writing: bool = True


async def call(client: httpx.AsyncClient, path: str, body: bytes) -> tuple[int, Any]:
    answer = await client.post(path, content=body, headers={"content-type": "application/json"})
    return answer.status_code, answer.json()


def first_form(identity: int, writer: int) -> bytes:
    payload = {"id": identity, "writer": writer, "amount": f"{identity % 997}.50", "at": "2026-01-01T12:00:00Z"}
    record = {"idempotency_key": f"k{identity}", "payload": payload, "event_time": "2026-01-01T12:00:00Z"}
    return json.dumps({"records": [record]}).encode()


def other_form(identity: int, writer: int) -> bytes:
    """The same record with members in another order, other spaces, other escapes, and other forms of its values."""
    return (
        f'{{ "records" :\n[{{"event_time":"2026-01-01T14:00:00.000+02:00", "op":"insert", "payload": '
        f'{{"at":"2026-01-01T11:00:00-01:00", "AMOUNT":{identity % 997}.500,"writer":{writer},"id":{identity}}},'
        f' "idempotency_key":"\\u006b{identity}"}}] }}'
    ).encode()


async def write(crowd: Crowd, client: httpx.AsyncClient, identity: int, body: bytes) -> Any:
    began = time.monotonic()
    status, receipt = await call(client, "/v1/ingest/numbers", body)
    assert status == 200, receipt
    crowd.history.write(ids=[identity], began=began, ended=time.monotonic(), receipt=receipt)
    return receipt


async def writer(crowd: Crowd, client: httpx.AsyncClient, number: int) -> None:
    """Write one record a request; now and then send one again: later, or twice at the same time."""
    draw = random.Random(number)
    for identity in range(number, WRITES, WRITERS):
        again = draw.random()
        if again < 0.03:  # two at once: one is new, the other a duplicate, whichever comes first
            forms = [first_form(identity, number), other_form(identity, number)]
            two = await asyncio.gather(*(write(crowd, client, identity, form) for form in forms))
            assert sorted(receipt["accepted_count"] for receipt in two) == [0, 1]
            crowd.repeats += 1
            receipt = two[0]
        else:
            receipt = await write(crowd, client, identity, first_form(identity, number))
            assert (receipt["accepted_count"], receipt["status"]) == (1, "accepted")
        if 0.03 <= again < 0.08:
            repeated = await write(crowd, client, identity, other_form(identity, number))
            assert repeated["duplicate_count"] == 1
            assert repeated["status"] == "partial_duplicate"
            assert repeated["max_visibility_token"] == receipt["max_visibility_token"]
            crowd.repeats += 1
        crowd.receipts.append(receipt["max_visibility_token"])


async def strict_reader(crowd: Crowd, client: httpx.AsyncClient, number: int) -> None:
    """Ask for the newest receipts while they are made."""
    draw = random.Random(1000 + number)
    while crowd.writing:
        if not crowd.receipts:
            await asyncio.sleep(0.01)
            continue
        newest = draw.random() < 0.7
        token = crowd.receipts[-1] if newest else draw.choice(crowd.receipts)
        await read(crowd, client, {"sql": CONTENT, "min_visibility_token": token})
        crowd.strict_reads += 1


async def read(crowd: Crowd, client: httpx.AsyncClient, query: dict[str, Any]) -> Any:
    asked = query.get("min_visibility_token")
    status, answer = await call(client, "/v1/query", json.dumps(query).encode())
    if status != 200:
        crowd.history.refused(asked=asked, code=answer["error_code"])
        return None
    [[rows, total, last]] = answer["rows"]
    crowd.history.read(
        asked=asked, snapshot=answer["snapshot_id"], watermark=answer["max_visibility_token"],
        rows=rows, total=total, last=last,
    )  # fmt: skip
    return answer


@pytest.mark.timeout(600)
@pytest.mark.asyncio
async def test_ten_thousand_writes_of_32_writers_are_each_there_once_and_every_token_is_honoured(
    open_server: UpServer, tmp_path: Path
) -> None:
    tenant = new_name("crowd").replace("_", "-")
    columns = {"id": "BIGINT", "writer": "INTEGER", "amount": "DECIMAL(12,2)", "at": "TIMESTAMPTZ"}
    with open_server.caller(tenant) as caller:
        made = caller.create("numbers", columns)["visibility_token"]
        path = tmp_path / "history.jsonl"
        with path.open("w") as file:
            crowd = Crowd(open_server, tenant, History(file))
            await run_crowd(crowd)
            finish(crowd, caller)
        assert check(path.read_text().splitlines()) == []
        tokens = caller.rows("SELECT min(_token), max(_token), count(DISTINCT _token) FROM numbers")
    assert tokens == [[made + 1, made + WRITES, WRITES]], "the tokens of a tenant's log are dense"
    assert crowd.strict_reads > READERS
    assert crowd.repeats > WRITES / 50


async def run_crowd(crowd: Crowd) -> None:
    async with AsyncExitStack() as stack:
        secure = ssl.create_default_context()

        async def client() -> httpx.AsyncClient:
            headers = {"x-tenant-id": crowd.tenant}
            made = httpx.AsyncClient(base_url=crowd.server.url, headers=headers, timeout=60, verify=secure)
            return await stack.enter_async_context(made)

        async with asyncio.TaskGroup() as everybody:
            writers = [everybody.create_task(writer(crowd, await client(), number)) for number in range(WRITERS)]
            for number in range(READERS):
                everybody.create_task(strict_reader(crowd, await client(), number))
            await asyncio.wait(writers)
            crowd.writing = False


def finish(crowd: Crowd, caller: Caller) -> None:
    """Read everything at the last token, and some old snapshots once more."""
    answer = caller.query("SELECT id, _token FROM numbers", min_visibility_token=max(crowd.receipts))
    assert len(answer["rows"]) == WRITES
    for snapshot in caller.call("GET", "/v1/snapshots?limit=40")["snapshots"][:-1:4]:
        found = caller.query(CONTENT, snapshot_id=snapshot["snapshot_id"])
        [[rows, total, last]] = found["rows"]
        crowd.history.read(
            asked=None, snapshot=found["snapshot_id"], watermark=found["max_visibility_token"],
            rows=rows, total=total, last=last,
        )  # fmt: skip
    crowd.history.final(watermark=answer["max_visibility_token"], rows=answer["rows"])


HONEST = [
    '{"op": "write", "ids": [1], "began": 1, "ended": 2, "token": 1, "accepted": 1, "duplicates": 0}',
    '{"op": "write", "ids": [2], "began": 3, "ended": 4, "token": 2, "accepted": 1, "duplicates": 0}',
    '{"op": "read", "asked": 1, "snapshot": 7, "watermark": 1, "rows": 1, "total": 1, "last": 1}',
    '{"op": "final", "watermark": 2, "rows": [[1, 1], [2, 2]]}',
]


def test_the_checker_accepts_an_honest_history() -> None:
    assert check(HONEST) == []


@pytest.mark.parametrize(
    ("line", "lie", "promise"),
    [
        (3, {"rows": [[1, 1]]}, "D"),
        (3, {"rows": [[1, 1], [2, 2], [2, 2]]}, "D"),
        (3, {"rows": [[1, 1], [2, 2], [3, 2]]}, "D"),
        (3, {"rows": [[1, 1], [2, 1]]}, "D"),
        (1, {"began": 1.5, "token": 2, "duplicates": 1, "accepted": 0}, "D"),
        (0, {"began": 5, "ended": 6}, "P"),
        (2, {"rows": 0, "total": 0, "last": 0}, "P"),
        (2, {"asked": 2}, "T"),
        (2, {"watermark": 2, "rows": 2, "total": 3, "last": 2, "asked": 3}, "T"),
    ],
)
def test_the_checker_finds_a_lie(line: int, lie: dict[str, Any], promise: str) -> None:
    lines = [json.loads(text) for text in HONEST]
    lines[line] |= lie
    assert promise in {violation.promise for violation in check(json.dumps(each) for each in lines)}


def test_the_checker_finds_a_snapshot_that_changed() -> None:
    other = {"op": "read", "asked": None, "snapshot": 7, "watermark": 2, "rows": 2, "total": 3, "last": 2}
    found = check([*HONEST, json.dumps(other)])
    assert [violation.promise for violation in found] == ["S"]
