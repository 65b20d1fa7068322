import pytest
from attrs import evolve

from duckmesh.domain.errors import IncompatibleSchema, TableExists, TableNotFound
from duckmesh.domain.tables import AlterTable, CreateTable, DropTable, TableDefinition, apply_change, by_id
from duckmesh.testing.builders import table

EVENTS = table("Events", {"id": "BIGINT"})
TABLES = {"events": EVENTS}


def version(number: int) -> AlterTable:
    return AlterTable(EVENTS.table_id, evolve(EVENTS.schema, version=number))


def test_a_table_is_made_under_its_folded_name() -> None:
    assert apply_change({}, CreateTable(EVENTS)) == TABLES


@pytest.mark.parametrize("name", ["Events", "EVENTS", "events"])
def test_a_name_is_taken_in_any_case(name: str) -> None:
    with pytest.raises(TableExists):
        apply_change(TABLES, CreateTable(evolve(EVENTS, table_id="other", name=name)))


def test_a_schema_is_replaced_by_the_next_version_and_nothing_else_changes() -> None:
    after = apply_change(TABLES, version(2))
    assert after == {"events": evolve(EVENTS, schema=version(2).schema)}


@pytest.mark.parametrize("number", [0, 1, 3])
def test_a_version_that_is_not_the_next_lost_a_race(number: int) -> None:
    with pytest.raises(IncompatibleSchema) as refused:
        apply_change(TABLES, version(number))
    assert refused.value.context["schema_version"] == 1


def test_a_dropped_table_leaves_its_name_free() -> None:
    assert apply_change(TABLES, DropTable(EVENTS.table_id)) == {}
    again = evolve(EVENTS, table_id="again")
    assert apply_change(apply_change(TABLES, DropTable(EVENTS.table_id)), CreateTable(again)) == {"events": again}


def test_a_table_that_is_gone_can_neither_change_nor_be_dropped() -> None:
    for change in (version(2), DropTable(EVENTS.table_id)):
        with pytest.raises(TableNotFound):
            apply_change({"events": evolve(EVENTS, table_id="again")}, change)


def test_the_tables_before_are_not_touched() -> None:
    before = dict(TABLES)
    for change in (CreateTable(table("orders", {"id": "BIGINT"})), version(2), DropTable(EVENTS.table_id)):
        apply_change(before, change)
    assert before == TABLES


def test_a_table_is_found_by_id() -> None:
    found: TableDefinition | None = by_id(TABLES, EVENTS.table_id)
    assert found == EVENTS
    assert by_id(TABLES, "other") is None
