"""Schemas that come from the data: what is inferred, what grows, and what conflicts."""

import json
from typing import Any

import pytest
from ingest_bodies import NOW, body_of, refusal, table

from duckmesh.app.ingest.decoder import RecordDecoder
from duckmesh.app.ingest.infer import grown_specs, infer_specs, payloads_of
from duckmesh.domain.errors import InvalidName, InvalidRequest, ValidationFailed
from duckmesh.domain.schema import CompatibilityMode, SchemaMode, grown_schema
from duckmesh.domain.tables import TableDefinition


def inferred(*values: Any) -> str | None:
    specs = infer_specs([{"c": value} for value in values])
    return str(specs[0].type) if specs else None


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((1, -(2**63)), "BIGINT"),
        ((2**63 - 1,), "BIGINT"),
        ((0, 2**63), "UBIGINT"),
        ((2**64 - 1,), "UBIGINT"),
        ((1.5,), "DOUBLE"),
        ((1, 1.5, 2**53), "DOUBLE"),
        ((True, None), "BOOLEAN"),
        (("a", ""), "VARCHAR"),
        (("2024-01-01",), "VARCHAR"),
        ((None, None), None),
        (([1, None, 2],), "BIGINT[]"),
        (([1], [2.5], None), "DOUBLE[]"),
        ((["a"], []), "JSON"),
        ((["a"], ["b"]), "VARCHAR[]"),
        (([],), "JSON"),
        (([1, "a"],), "JSON"),
        (([1], ["a"]), "JSON"),
        (([[1]],), "JSON"),
        (([{"a": 1}],), "JSON"),
        (({"a": 1},), "JSON"),
        (({"a": 1}, [1]), "JSON"),
    ],
)
def test_the_type_of_a_column_follows_from_its_values(values: Any, expected: Any) -> None:
    assert inferred(*values) == expected


@pytest.mark.parametrize(
    "values",
    [
        ("a", 1),
        (1, "a"),
        (True, 1),
        (1, True),
        ("a", ["a"]),
        (1, {"a": 1}),
        (0.5, 2**53 + 1),
        (2**53 + 1, 0.5),
        (-1, 2**63),
        (2**63, -1),
        (0, 2**64),
    ],
)
def test_kinds_that_do_not_agree_are_a_conflict_that_names_the_record(values: Any) -> None:
    error = refusal(inferred, None, *values)
    assert isinstance(error, ValidationFailed)
    assert (error.context["record"], error.context["column"]) == (2, "c")
    assert "conflict" in error.context["reason"]


def test_columns_stand_in_the_order_in_which_they_appear_and_names_ignore_case() -> None:
    specs = infer_specs([{"b": 1, "Name": None}, {"a": 1, "B": 2}, {"NAME": "x"}])
    assert [spec.name for spec in specs] == ["b", "Name", "a"]
    assert all(spec.nullable for spec in specs)


@pytest.mark.parametrize("name", ["", "1a", "a b", "_token", "_dm_x", "x" * 64, "é"])
def test_a_name_that_is_no_column_is_refused(name: str) -> None:
    assert isinstance(refusal(infer_specs, [{name: 1}]), InvalidName)


@pytest.mark.parametrize("body", [b"", b"[]", b'{"records":5}', b'{"records":[{"payload":1}]}', b"[" * 100_000])
def test_a_body_without_payloads_is_a_clean_error(body: bytes) -> None:
    assert isinstance(refusal(payloads_of, body), InvalidRequest)


def test_too_many_columns_are_refused() -> None:
    assert isinstance(refusal(infer_specs, [{f"c{n}": 1 for n in range(1001)}]), ValidationFailed)


def test_nothing_grows_when_nothing_is_new() -> None:
    schema = table({"a": "BIGINT"}).schema
    assert grown_specs(schema, body_of('{"a":1}', '{"A":"x"}', '{"new":null}')) is None


def test_a_schema_grows_by_what_is_new_and_keeps_the_rest() -> None:
    schema = table({"a": {"type": "BIGINT", "default": 1, "description": "first"}, "k": "VARCHAR"}, ["k"]).schema
    specs = grown_specs(schema, body_of('{"a":1,"new":[1]}', '{"New":[2.5],"other":"x"}'))
    assert specs is not None
    assert [(spec.name, str(spec.type)) for spec in specs] == [
        ("a", "BIGINT"), ("k", "VARCHAR"), ("new", "DOUBLE[]"), ("other", "VARCHAR"),
    ]  # fmt: skip
    grown = grown_schema(schema, specs, CompatibilityMode.FULL)
    assert grown.columns[:2] == schema.columns


def test_the_records_that_a_schema_was_inferred_from_fit_it() -> None:
    payloads = [
        {"i": 1, "f": 1, "s": "x", "l": [1, 2.5], "j": {"a": [1]}, "n": None, "e": []},
        {"i": 2**63, "f": 0.5, "b": True, "l": None, "j": [1, "x"], "never": None},
    ]
    body = body_of(*map(json.dumps, payloads))
    empty = table({}, mode=SchemaMode.AUTO)
    specs = grown_specs(empty.schema, body)
    assert specs == infer_specs(payloads)
    definition = TableDefinition(
        "t1", "events", grown_schema(empty.schema, specs, CompatibilityMode.BACKWARD), schema_mode=SchemaMode.AUTO
    )
    decoder = RecordDecoder(definition, "acme")
    rows = decoder.batch([decoder.decode(body).records], NOW).to_pydict()
    assert rows["i"] == [1, 2**63]
    assert rows["l"] == [[1.0, 2.5], None]
    assert rows["j"] == ['{"a":[1]}', '[1,"x"]']
