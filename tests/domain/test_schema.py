from typing import Any

import pytest

from duckmesh.domain.errors import IncompatibleSchema, InvalidName, InvalidSchema
from duckmesh.domain.schema import (
    MAX_COLUMNS,
    CompatibilityMode,
    TableSchema,
    first_schema,
    grown_schema,
    parse_specs,
    schema_json,
)


def schema(columns: dict[str, Any], *key: str) -> TableSchema:
    return first_schema(parse_specs(columns), key)


def grown(current: TableSchema, columns: dict[str, Any]) -> TableSchema:
    return grown_schema(current, parse_specs(columns), CompatibilityMode.BACKWARD)


def problems(current: TableSchema, columns: dict[str, Any]) -> list[str]:
    with pytest.raises(IncompatibleSchema) as refused:
        grown(current, columns)
    found: list[str] = refused.value.context["problems"]
    return found


def test_columns_are_numbered_from_one_and_the_next_id_is_kept() -> None:
    made = schema({"a": "BIGINT", "b": "VARCHAR"})
    assert [(column.column_id, column.name) for column in made.columns] == [(1, "a"), (2, "b")]
    assert (made.version, made.next_column_id, made.keyed) == (1, 3, False)


def test_a_column_is_found_by_name_in_any_case() -> None:
    found = schema({"Amount": "DOUBLE"}).column("aMOUNT")
    assert found is not None
    assert found.name == "Amount"
    assert schema({"a": "DOUBLE"}).column("b") is None


def test_key_columns_are_in_key_order_and_not_null() -> None:
    made = schema({"a": "BIGINT", "b": "VARCHAR", "c": "DATE"}, "C", "a")
    assert [column.name for column in made.key_columns] == ["c", "a"]
    assert [column.nullable for column in made.columns] == [False, True, False]
    assert made.keyed


@pytest.mark.parametrize("kind", ["DOUBLE", "FLOAT", "JSON", "INTEGER[]", "DECIMAL(9,2)[]", "STRUCT(a INTEGER)"])
def test_a_key_needs_exact_equality(kind: str) -> None:
    with pytest.raises(InvalidSchema, match="equality is not exact"):
        schema({"a": kind}, "a")
    with pytest.raises(InvalidSchema, match="equality is not exact"):
        schema({"a": f"MAP(VARCHAR, {kind})"}, "a")


@pytest.mark.parametrize("kind", ["BIGINT", "DECIMAL(38,9)", "VARCHAR", "UUID", "BLOB", "TIMESTAMPTZ", "BOOLEAN"])
def test_exact_types_can_be_keys(kind: str) -> None:
    assert schema({"a": kind}, "a").keyed


@pytest.mark.parametrize(("key", "reason"), [(["b"], "not in the schema"), (["a", "A"], "named twice")])
def test_a_key_names_columns_once(key: list[str], reason: str) -> None:
    with pytest.raises(InvalidSchema, match=reason):
        schema({"a": "BIGINT"}, *key)


@pytest.mark.parametrize(
    "declared",
    [
        {"a": 5},
        {"a": {}},
        {"a": {"type": 5}},
        {"a": {"type": "BIGINT", "colour": "red"}},
        {"a": {"type": "BIGINT", "nullable": 1}},
        {"a": {"type": "BIGINT", "description": 1}},
        {"a": "BIGINT", "A": "BIGINT"},
        {"a": "NOTHING"},
        {f"c{n}": "BIGINT" for n in range(MAX_COLUMNS + 1)},
    ],
)
def test_a_declaration_that_cannot_be_a_column_is_refused(declared: dict[str, Any]) -> None:
    with pytest.raises(InvalidSchema):
        parse_specs(declared)


def test_a_column_of_ours_cannot_be_declared() -> None:
    with pytest.raises(InvalidName):
        parse_specs({"_token": "BIGINT"})


@pytest.mark.parametrize(
    ("declared", "optional"),
    [
        ("BIGINT", True),
        ({"type": "BIGINT", "nullable": False}, False),
        ({"type": "BIGINT", "nullable": False, "default": 0}, True),
        ({"type": "BIGINT", "nullable": False, "default": False}, True),
        ({"type": "BIGINT", "nullable": False, "default": None}, False),
    ],
)
def test_a_column_may_be_left_out_when_it_is_nullable_or_has_a_default(declared: Any, optional: bool) -> None:
    assert schema({"a": declared}).columns[0].optional is optional


def test_a_schema_is_shown_as_it_was_declared() -> None:
    declared = {
        "a": "BIGINT",
        "b": {"type": "VARCHAR", "nullable": False},
        "c": {"type": "DECIMAL(9,2)", "nullable": True, "default": 0, "description": "a price"},
        "d": 'STRUCT("x y" INTEGER[])',
    }
    assert schema_json(schema(declared)) == declared
    assert parse_specs(schema_json(schema(declared))) == parse_specs(declared)


def test_a_schema_grows_by_optional_columns_with_new_ids() -> None:
    current = schema({"a": "BIGINT", "b": "VARCHAR"}, "a")
    wider = {"c": "DOUBLE", "A": "BIGINT", "b": {"type": "VARCHAR", "description": "now"}, "d": {"type": "DATE"}}
    after = grown(current, wider)
    assert (after.version, after.next_column_id, after.primary_key) == (2, 5, (1,))
    assert [(column.column_id, column.name) for column in after.columns] == [(1, "a"), (2, "b"), (3, "c"), (4, "d")]
    assert after.columns[1].description == "now"


def test_a_new_column_may_be_required_when_it_has_a_default() -> None:
    current = schema({"a": "BIGINT"})
    assert grown(current, {"a": "BIGINT", "b": {"type": "BIGINT", "nullable": False, "default": 0}}).version == 2
    assert problems(current, {"a": "BIGINT", "b": {"type": "BIGINT", "nullable": False}})


def test_every_problem_of_a_change_is_listed() -> None:
    current = schema({"a": "BIGINT", "b": "VARCHAR", "c": "DATE", "d": {"type": "DATE", "default": "2026-01-01"}})
    changed = {"a": "DOUBLE", "b": {"type": "VARCHAR", "nullable": False}, "d": "DATE"}
    assert problems(current, changed) == [
        "column 'c' is missing; columns cannot be dropped yet",
        "column 'a' changes its type from BIGINT to DOUBLE",
        "column 'b' changes whether it is nullable",
        "column 'd' changes its default",
    ]


def test_a_key_column_may_be_declared_nullable_again() -> None:
    assert grown(schema({"a": "BIGINT"}, "a"), {"a": "BIGINT"}).columns[0].nullable is False
