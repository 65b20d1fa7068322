"""A write that can never be stored is parked whole; its neighbours become visible, and nobody reads around it."""

import datetime as dt

import pyarrow as pa
import pytest

import duckmesh
from duckmesh.app.library import Mesh
from duckmesh.app.query.service import Freshness
from duckmesh.domain.errors import WriteParked
from duckmesh.domain.idempotency import key_ids
from duckmesh.domain.tables import TableDefinition
from duckmesh.domain.writes import Accepted, TableRef, Write, WriteGroup, WritePart
from duckmesh.ports.columns import EVENT_TIME, INSTANT, SYSTEM_FIELD_IDS, arrow_field

pytestmark = pytest.mark.asyncio

NOW = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def write(table: TableRef, key: str) -> Write:
    part = WritePart(table, "t", 1, [key], key_ids("default", table.table_id, [key]), [key.encode() * 2])
    return Write((part,))


async def publish(mesh: Mesh, table: TableRef, values: list[str]) -> list[int]:
    """Put texts into the log under a BIGINT column, which no validated request could do; their tokens."""
    schema = pa.schema(
        [arrow_field("id", pa.string(), 1), arrow_field(EVENT_TIME, INSTANT, SYSTEM_FIELD_IDS[EVENT_TIME])]
    )
    rows = pa.RecordBatch.from_arrays([pa.array(values), pa.array([NOW] * len(values), INSTANT)], schema=schema)
    writes = tuple(write(table, f"{values[number]}-{number}") for number in range(len(values)))
    bus = mesh._adapters.bus
    head = await bus.head("default")
    outcomes = await bus.publish(WriteGroup("default", writes, {table: rows}, head.control_token))
    return [outcome.token for outcome in outcomes if isinstance(outcome, Accepted)]


def ref(table: TableDefinition) -> TableRef:
    return TableRef(table.table_id, table.schema.version)


async def test_a_poisoned_write_is_parked_and_its_neighbours_become_visible() -> None:
    async with duckmesh.open() as mesh:
        table = await mesh.create_table("t", {"id": "BIGINT"})
        first, poisoned, last = await publish(mesh, ref(table), ["1", "two", "3"])
        before = await mesh.query("SELECT id FROM t", min_visibility_token=first)
        assert (1,) in before.rows()
        with pytest.raises(WriteParked) as caught:
            await mesh.query("SELECT id FROM t", min_visibility_token=last)
        assert [parked["token"] for parked in caught.value.context["parked"]] == [poisoned]
        answer = await mesh._queries.query(
            "default", "SELECT id FROM t ORDER BY id", freshness=Freshness(min_visibility_token=last, allow_parked=True)
        )
        assert answer.result.table.column("id").to_pylist() == [1, 3]
        after = await mesh.ingest("t", [{"id": 4}], wait=True)
        assert after.snapshot_id is not None


async def test_a_parked_write_does_not_stand_in_the_way_of_other_tables() -> None:
    async with duckmesh.open() as mesh:
        await mesh.create_table("t", {"id": "BIGINT"})
        other = await mesh.create_table("other", {"id": "BIGINT"})
        (poisoned,) = await publish(mesh, ref(other), ["one"])
        (gone,) = await publish(mesh, TableRef("no-such-table", 1), ["1"])
        assert (await mesh.query("SELECT id FROM t", min_visibility_token=gone)).rows() == []
        with pytest.raises(WriteParked) as caught:
            await mesh.query('SELECT * FROM t, "OTHER"', min_visibility_token=gone)
        assert [parked["token"] for parked in caught.value.context["parked"]] == [poisoned]
        found = await mesh._adapters.catalog.parked("default", gone)
        assert [(write.token, write.error_code) for write in found] == [
            (poisoned, "MATERIALISATION_FAILED"),
            (gone, "TABLE_NOT_FOUND"),
        ]
