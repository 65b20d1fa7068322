from collections.abc import Iterable

import pytest
from attrs import evolve

from duckmesh.domain.errors import DataCorrupt
from duckmesh.domain.leases import Lease
from duckmesh.domain.planning import CommitPlan, plan_commit
from duckmesh.domain.schema import TableSchema, first_schema, parse_specs
from duckmesh.domain.snapshots import ParkedWrite
from duckmesh.domain.tables import AlterTable, ControlChange, CreateTable, DropTable, TableDefinition
from duckmesh.domain.tokens import LogRange
from duckmesh.domain.writes import ClaimedBatch, LogEntry, LoggedPart, LoggedWrite, TableRef
from duckmesh.testing.builders import NOON

EVENTS = TableDefinition("t-events", "Events", first_schema(parse_specs({"id": "BIGINT"})))
ORDERS = TableDefinition("t-orders", "orders", first_schema(parse_specs({"id": "BIGINT"}), ["id"]))
VERSION_2 = TableSchema(2, EVENTS.schema.columns, (), 2)
TABLES = {"events": EVENTS, "orders": ORDERS}
E, O = TableRef("t-events", 1), TableRef("t-orders", 1)  # noqa: E741


def data(token: int, *parts: tuple[TableRef, int]) -> LoggedWrite:
    return LoggedWrite(token, NOON, tuple(LoggedPart(table, rows) for table, rows in parts))


def control(token: int, change: ControlChange) -> LoggedWrite:
    return LoggedWrite(token, NOON, control=change)


def batch(*entries: Iterable[LoggedWrite], after: int = 0, through: int | None = None) -> ClaimedBatch:
    made = tuple(LogEntry(tuple(writes), {}) for writes in entries)
    last = max((write.token for entry in made for write in entry.writes), default=after)
    return ClaimedBatch(Lease("acme", "one", 1), LogRange(after, last if through is None else through), made)


def rows(plan: CommitPlan) -> dict[str, list[tuple[int, int, int]]]:
    """The runs of each file as (token, start, rows)."""
    return {
        file.table.table_id: [(run.token, run.start, run.rows) for part in file.parts for run in part.runs]
        for file in plan.files
    }


def test_all_rows_of_a_batch_go_to_one_file_for_each_table_in_token_order() -> None:
    plan = plan_commit(batch([data(1, (E, 2), (O, 1)), data(2, (E, 3))], [data(3, (O, 4))]), 0, TABLES)
    assert rows(plan) == {"t-events": [(1, 0, 2), (2, 2, 3)], "t-orders": [(1, 0, 1), (3, 0, 4)]}
    assert [file.rows for file in plan.files] == [5, 5]
    assert (plan.base_watermark, plan.watermark, plan.empty) == (0, 3, False)
    assert [write.token for write in plan.writes] == [1, 2, 3]


def test_writes_at_or_below_the_watermark_are_removed_wherever_the_batch_begins() -> None:
    redelivered = batch([data(1, (E, 2)), data(2, (E, 3))], [data(3, (E, 1)), data(4, (E, 5))])
    plan = plan_commit(redelivered, 3, TABLES)
    assert rows(plan) == {"t-events": [(4, 1, 5)]}
    assert [write.token for write in plan.writes] == [4]


def test_a_write_that_stands_twice_in_a_batch_is_taken_once() -> None:
    plan = plan_commit(batch([data(1, (E, 2)), data(2, (E, 1))], [data(2, (E, 1)), data(3, (E, 1))]), 0, TABLES)
    assert rows(plan) == {"t-events": [(1, 0, 2), (2, 2, 1), (3, 1, 1)]}


def test_a_batch_that_is_visible_already_moves_nothing() -> None:
    plan = plan_commit(batch([data(1, (E, 2))]), 5, TABLES)
    assert plan.empty
    assert (plan.files, plan.writes, plan.watermark) == ((), (), 5)


def test_a_range_over_foreign_offsets_moves_the_watermark_without_files() -> None:
    plan = plan_commit(batch(after=3, through=9), 3, TABLES)
    assert (plan.watermark, plan.files, plan.empty) == (9, (), False)
    assert plan_commit(batch([data(4, (E, 1))], after=3, through=9), 3, TABLES).watermark == 9


def test_a_batch_that_begins_beyond_the_watermark_is_refused_because_it_leaves_a_gap() -> None:
    with pytest.raises(DataCorrupt) as refused:
        plan_commit(batch([data(7, (E, 1))], after=6), 3, TABLES)
    assert refused.value.context == {"tenant": "acme", "watermark": 3, "delivered_after": 6}


def test_control_writes_apply_in_log_order_between_the_data() -> None:
    plan = plan_commit(
        batch([control(1, CreateTable(EVENTS)), data(2, (E, 1)), control(3, AlterTable("t-events", VERSION_2))]),
        0,
        {},
    )
    assert dict(plan.tables) == {"events": evolve(EVENTS, schema=VERSION_2)}
    assert [file.table.schema.version for file in plan.files] == [2]
    assert [(result.token, result.error_code) for result in plan.controls] == [(1, None), (3, None)]
    assert plan.parked == ()


def test_a_control_write_that_fails_changes_nothing_and_keeps_its_reason() -> None:
    twin = evolve(ORDERS, table_id="t-twin", name="EVENTS")
    plan = plan_commit(batch([control(1, CreateTable(twin)), control(2, DropTable("t-none"))]), 0, TABLES)
    assert dict(plan.tables) == TABLES
    assert [result.error_code for result in plan.controls] == ["TABLE_EXISTS", "TABLE_NOT_FOUND"]
    assert plan.controls[0].error_context == {"table": "EVENTS"}
    assert plan.watermark == 2


def test_control_writes_that_are_visible_already_are_not_applied_again() -> None:
    plan = plan_commit(batch([control(1, DropTable("t-events")), data(2, (O, 1))]), 1, {"orders": ORDERS})
    assert plan.controls == ()


def test_a_write_to_a_dropped_table_is_parked_whole() -> None:
    plan = plan_commit(batch([control(1, DropTable("t-events")), data(2, (E, 2), (O, 3)), data(3, (O, 1))]), 0, TABLES)
    assert rows(plan) == {"t-orders": [(3, 3, 1)]}
    [parked] = plan.parked
    assert (parked.token, parked.error_code, parked.records) == (2, "TABLE_NOT_FOUND", 5)
    assert parked.tables == ("t-events", "t-orders")
    assert plan.watermark == 3


def test_rows_of_a_table_that_is_dropped_later_in_the_batch_need_no_file() -> None:
    plan = plan_commit(batch([data(1, (E, 2), (O, 1)), control(2, DropTable("t-events"))]), 0, TABLES)
    assert set(rows(plan)) == {"t-orders"}
    assert plan.parked == ()


def test_a_table_made_under_a_dropped_name_gets_none_of_the_old_rows() -> None:
    again = evolve(EVENTS, table_id="t-again")
    writes = [data(1, (E, 2)), control(2, DropTable("t-events")), control(3, CreateTable(again)), data(4, (E, 1))]
    plan = plan_commit(batch(writes), 0, TABLES)
    assert rows(plan) == {}
    assert [parked.token for parked in plan.parked] == [4]
    assert plan.tables["events"] == again


def test_a_poisoned_write_is_parked_whole_and_its_neighbours_keep_their_rows() -> None:
    poison = ParkedWrite(2, "DATA_CORRUPT", "bad", ("t-events", "t-orders"), 4)
    writes = [data(1, (E, 1)), data(2, (E, 3), (O, 1)), data(3, (E, 2), (O, 2))]
    plan = plan_commit(batch(writes), 0, TABLES, {2: poison})
    assert rows(plan) == {"t-events": [(1, 0, 1), (3, 4, 2)], "t-orders": [(3, 1, 2)]}
    assert plan.parked == (poison,)


@pytest.mark.parametrize(
    ("dropped", "runs"),
    [
        ([], [(1, 2, 5)]),
        ([0], [(1, 3, 4)]),
        ([4], [(1, 2, 4)]),
        ([1, 3], [(1, 2, 1), (1, 4, 1), (1, 6, 1)]),
        ([2, 1], [(1, 2, 1), (1, 5, 2)]),
        ([0, 1, 2, 3, 4], []),
    ],
)
def test_rows_that_the_log_holds_twice_are_cut_out(dropped: list[int], runs: list[tuple[int, int, int]]) -> None:
    writes = [data(1, (O, 1), (E, 5))]
    plan = plan_commit(batch([data(0, (E, 2)), *writes]), 0, TABLES, repeated={(1, 1): dropped})
    assert rows(plan).get("t-events", []) == runs
    assert rows(plan)["t-orders"] == [(1, 0, 1)]


def test_a_part_without_rows_makes_no_file() -> None:
    assert plan_commit(batch([data(1, (E, 0))]), 0, TABLES).files == ()


def test_a_file_can_be_taken_apart_into_its_writes() -> None:
    plan = plan_commit(batch([data(1, (E, 2)), data(2, (E, 3))], [data(3, (E, 1))]), 0, TABLES)
    assert [[(r.token, r.rows) for p in one.parts for r in p.runs] for one in plan.files[0].by_write()] == [
        [(1, 2)],
        [(2, 3)],
        [(3, 1)],
    ]


def test_rows_keep_the_version_they_were_validated_against() -> None:
    newer = TableRef("t-events", 2)
    plan = plan_commit(
        batch([data(1, (E, 1)), control(2, AlterTable("t-events", VERSION_2)), data(3, (newer, 2))]), 0, TABLES
    )
    [file] = plan.files
    assert [(part.table.schema_version, part.rows) for part in file.parts] == [(1, 1), (2, 2)]
