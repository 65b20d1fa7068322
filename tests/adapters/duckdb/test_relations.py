"""Relations in SQL: names and defaults that try to be SQL, and many files."""

import datetime as dt
import decimal
import uuid
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from duckmesh.adapters.duckdb.instance import prepared
from duckmesh.adapters.duckdb.literals import text, typed
from duckmesh.adapters.duckdb.relations import relation_sql
from duckmesh.domain.errors import InvalidSchema
from duckmesh.domain.schema import Column, TableSchema, first_schema, parse_specs
from duckmesh.domain.types import parse_type
from duckmesh.ports.columns import file_schema
from duckmesh.testing.engine import NOON, parquet

HOSTILE = [
    "it's",
    "''",
    "'; DROP TABLE x; --",
    "\\'",
    "$$",
    '"',
    "\0",
    "a\nb",
    "{'a': 1}",
    "[",
    "NULL",
    "é😀",
    "%s {x}",
]

DEFAULTS: list[tuple[str, Any, Any]] = [
    ("BIGINT", -(2**63), -(2**63)),
    ("UBIGINT", 2**64 - 1, 2**64 - 1),
    ("TINYINT", 7, 7),
    ("DOUBLE", 1e308, 1e308),
    ("DOUBLE", "Infinity", float("inf")),
    ("FLOAT", 0.1, pytest.approx(0.1)),
    ("BOOLEAN", True, True),
    ("BOOLEAN", False, False),
    ("DECIMAL(38,10)", "1.0000000001", decimal.Decimal("1.0000000001")),
    ("DECIMAL(4,2)", 1.5, decimal.Decimal("1.50")),
    ("VARCHAR", "", ""),
    ("BLOB", "AP9h", b"\x00\xffa"),
    ("DATE", "2024-02-29", dt.date(2024, 2, 29)),
    ("TIME", "23:59:59.999999", dt.time(23, 59, 59, 999999)),
    ("TIMESTAMP", "2024-05-17T12:00:00.123456", NOON.replace(tzinfo=None)),
    ("TIMESTAMPTZ", "2024-05-17T14:00:00.123456+02:00", NOON),
    ("UUID", "00000000-0000-0000-0000-000000000007", uuid.UUID(int=7)),
    ("JSON", {"a": ["it's"]}, '{"a": ["it\'s"]}'),
    ("INTEGER[]", [1, None], [1, None]),
    ("VARCHAR[]", HOSTILE, HOSTILE),
    ("BLOB[]", ["AA==", None], [b"\0", None]),
    ('STRUCT("a b" VARCHAR, c INTEGER[])', {"a b": "it's", "c": [1]}, {"a b": "it's", "c": [1]}),
    ("STRUCT(a INTEGER, b INTEGER)", {"A": 1}, {"a": 1, "b": None}),
    ("MAP(VARCHAR, DOUBLE)", {"k='": 1.5}, [("k='", 1.5)]),
    ("MAP(INTEGER, VARCHAR)", {"1": "x"}, [(1, "x")]),
    ("INTEGER[]", [], []),
    ("MAP(VARCHAR, INTEGER)", {}, []),
]


@pytest.fixture(scope="module")
def connection() -> duckdb.DuckDBPyConnection:
    return prepared(None)


def value(connection: duckdb.DuckDBPyConnection, sql: str) -> Any:
    with connection.cursor() as cursor:
        cursor.execute("SET arrow_lossless_conversion = true")
        return cursor.execute(sql).to_arrow_table().column(0).to_pylist()[0]


def with_default(kind: str, default: Any, name: str = "late") -> TableSchema:
    base = first_schema(parse_specs({"id": "BIGINT"}))
    late = Column(2, name, parse_type(kind), has_default=True, default=default)
    return TableSchema(2, (*base.columns, late))


@pytest.mark.parametrize(("kind", "default", "expected"), DEFAULTS)
def test_a_default_of_every_type_is_shown(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, kind: str, default: Any, expected: Any
) -> None:
    file = tmp_path / "old.parquet"
    file.write_bytes(parquet(first_schema(parse_specs({"id": "BIGINT"})), [{"id": 1}]))
    sql = relation_sql(with_default(kind, default), [str(file)])
    assert value(connection, f"SELECT late FROM ({sql})") == expected


@settings(deadline=None, max_examples=150)
@given(st.text(st.characters(codec="utf-8")) | st.sampled_from(HOSTILE))
def test_any_text_is_itself_as_a_literal(connection: duckdb.DuckDBPyConnection, given_text: str) -> None:
    assert value(connection, f"SELECT {text(given_text)}") == given_text


@pytest.mark.parametrize("hostile", HOSTILE)
def test_hostile_text_is_only_text_in_defaults_and_paths(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path, hostile: str
) -> None:
    folder = tmp_path / hostile.replace("\0", "").replace("[", "")
    folder.mkdir(exist_ok=True)
    (folder / "x.parquet").write_bytes(parquet(first_schema(parse_specs({"id": "BIGINT"})), [{"id": 1}]))
    sql = relation_sql(with_default("VARCHAR", hostile), [str(folder / "x.parquet")])
    assert value(connection, f"SELECT late FROM ({sql})") == hostile
    nested = with_default("STRUCT(a VARCHAR)[]", [{"a": hostile}])
    assert value(connection, f"SELECT late FROM ({relation_sql(nested, [str(folder / 'x.parquet')])})") == [
        {"a": hostile}
    ]


@pytest.mark.parametrize("name", ['a"b', "'; DROP", "select", "a b", "ü"])
def test_any_column_name_is_only_a_name(connection: duckdb.DuckDBPyConnection, tmp_path: Path, name: str) -> None:
    file = tmp_path / "x.parquet"
    file.write_bytes(parquet(first_schema(parse_specs({"id": "BIGINT"})), [{"id": 1}]))
    schema = with_default("INTEGER", 5, name)
    with connection.cursor() as cursor:
        for files in ([str(file)], []):
            table = cursor.execute(relation_sql(schema, files)).to_arrow_table()
            assert table.column_names == ["id", name, "_event_time", "_token"]


@pytest.mark.parametrize(
    ("kind", "default"),
    [("BLOB", "no base64!"), ("INTEGER[]", "x"), ("STRUCT(a INTEGER)", {"b": 1}), ("MAP(VARCHAR, INTEGER)", [1])],
)
def test_a_default_of_another_shape_is_refused(kind: str, default: Any) -> None:
    with pytest.raises(InvalidSchema):
        typed(default, parse_type(kind))


def test_a_narrower_type_in_an_old_file_is_widened(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    file = tmp_path / "x.parquet"
    file.write_bytes(parquet(first_schema(parse_specs({"id": "INTEGER"})), [{"id": 2**31 - 1}]))
    wide = first_schema(parse_specs({"id": "BIGINT"}))
    assert value(connection, f"SELECT id + 1 FROM ({relation_sql(wide, [str(file)])})") == 2**31


def test_thousands_of_files_are_one_relation(connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    schema = first_schema(parse_specs({"id": "BIGINT"}), ["id"])
    files = []
    for number in range(3000):
        files.append(str(tmp_path / f"{number}.parquet"))
        rows = pa.Table.from_pylist(
            [{"id": number % 10, "_event_time": NOON, "_token": number, "_dm_op": 1, "_dm_row": 0}],
            schema=file_schema(schema),
        )
        pq.write_table(rows, files[-1])
    assert value(connection, f"SELECT sum(_token)::BIGINT FROM ({relation_sql(schema, files)})") == sum(
        range(2990, 3000)
    )
