"""Every type of DuckDB as JSON, at its edges, and the other forms."""

import base64
import datetime as dt
import decimal
import io
import math
import struct
import uuid
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from duckmesh.adapters.duckdb import DuckDbEngine
from duckmesh.app.query import encoding
from duckmesh.app.query.encoding import encode_json_rows, json_values
from duckmesh.app.query.instants import date_text, timestamp_text
from duckmesh.ports.engine import EngineQuery

# An expression in SQL, and what JSON shows for it.
EDGES: list[tuple[str, Any]] = [
    ("true", True),
    ("NULL", None),
    ("(-128)::TINYINT", -128),
    ("255::UTINYINT", 255),
    ("(-9223372036854775808)::BIGINT", -(2**63)),
    ("18446744073709551615::UBIGINT", 2**64 - 1),
    ("170141183460469231731687303715884105727::HUGEINT", str(2**127 - 1)),
    ("'-170141183460469231731687303715884105728'::HUGEINT", str(-(2**127))),
    ("340282366920938463463374607431768211455::UHUGEINT", str(2**128 - 1)),
    ("sum(1::BIGINT)", "1"),
    ("'123456789012345678901234567890123456789012345'::BIGNUM", "123456789012345678901234567890123456789012345"),
    ("'-256'::BIGNUM", "-256"),
    ("0::BIGNUM", "0"),
    ("1.5::DECIMAL(4, 2)", "1.50"),
    ("0.0000000001::DECIMAL(38, 10)", "0.0000000001"),
    ("'-9999999999999999999999999999.9999999999'::DECIMAL(38, 10)", "-9999999999999999999999999999.9999999999"),
    ("0.1::FLOAT", 0.1),
    ("'NaN'::FLOAT", "NaN"),
    ("0.1::DOUBLE + 0.2::DOUBLE", 0.30000000000000004),
    ("1e308::DOUBLE", 1e308),
    ("'Infinity'::DOUBLE", "Infinity"),
    ("'-Infinity'::DOUBLE", "-Infinity"),
    ("'NaN'::DOUBLE", "NaN"),
    ("'ü\n\"'", 'ü\n"'),
    ("'\\xFF\\x00'::BLOB", "/wA="),
    ("''::BLOB", ""),
    ("'10101'::BIT", "10101"),
    ("'00000000'::BIT", "00000000"),
    ("'b'::ENUM('a', 'b')", "b"),
    ("'00000000-0000-0000-0000-000000000007'::UUID", "00000000-0000-0000-0000-000000000007"),
    ("'{\"a\": [1, null]}'::JSON", {"a": [1, None]}),
    ("'12345678901234567890123'::JSON", msgspec.Raw(b"12345678901234567890123")),
    ("'\"x\"'::JSON", "x"),
    ("' [1,\n 2] '::JSON", [1, 2]),
    ("'2024-02-29'::DATE", "2024-02-29"),
    ("'0001-01-01'::DATE", "0001-01-01"),
    ("'9999-12-31'::DATE", "9999-12-31"),
    ("'10000-01-01'::DATE", "10000-01-01"),
    ("'0044-03-15 (BC)'::DATE", "-0043-03-15"),
    ("'5877642-06-25 (BC)'::DATE", "-5877641-06-25"),
    ("'5881580-07-10'::DATE", "5881580-07-10"),
    ("'infinity'::DATE", "infinity"),
    ("'-infinity'::DATE", "-infinity"),
    ("'12:34:56'::TIME", "12:34:56"),
    ("'12:34:56.789'::TIME", "12:34:56.789"),
    ("'24:00:00'::TIME", "24:00:00"),
    ("'12:34:56.123456789'::TIME_NS", "12:34:56.123456789"),
    ("'12:34:56.789+02'::TIMETZ", "12:34:56.789+02:00"),
    ("'00:00:00-15:59:59'::TIMETZ", "00:00:00-15:59:59"),
    ("'24:00:00+00'::TIMETZ", "24:00:00+00:00"),
    ("'2024-05-17 12:00:00'::TIMESTAMP", "2024-05-17T12:00:00"),
    ("'2024-05-17 12:00:00.120'::TIMESTAMP", "2024-05-17T12:00:00.12"),
    ("'0001-01-01'::TIMESTAMP", "0001-01-01T00:00:00"),
    ("'290309-12-22 (BC)'::TIMESTAMP", "-290308-12-22T00:00:00"),
    ("'294247-01-10 04:00:54.775806'::TIMESTAMP", "294247-01-10T04:00:54.775806"),
    ("'infinity'::TIMESTAMP", "infinity"),
    ("'2024-05-17 12:00:00'::TIMESTAMP_S", "2024-05-17T12:00:00"),
    ("'2024-05-17 12:00:00.5'::TIMESTAMP_MS", "2024-05-17T12:00:00.5"),
    ("'2024-05-17 12:00:00.000000001'::TIMESTAMP_NS", "2024-05-17T12:00:00.000000001"),
    ("'2024-05-17 14:00:00+02'::TIMESTAMPTZ", "2024-05-17T12:00:00Z"),
    ("'-infinity'::TIMESTAMPTZ", "-infinity"),
    ("'10000-01-01 00:00:00+00'::TIMESTAMPTZ", "10000-01-01T00:00:00Z"),
    ("INTERVAL '1 year 2 months 3 days 04:05:06.7'", "P1Y2M3DT4H5M6.7S"),
    ("INTERVAL '-14 months'", "P-1Y-2M"),
    ("INTERVAL '-0.5 seconds'", "PT-0.5S"),
    ("INTERVAL '0 days'", "PT0S"),
    ("[1, NULL, 3]", [1, None, 3]),
    ("[]::INTEGER[]", []),
    ("NULL::INTEGER[]", None),
    ("[[1::HUGEINT], NULL, []]", [["1"], None, []]),
    ("[true, NULL]::BOOLEAN[2]", [True, None]),
    ("[1, 2]::HUGEINT[2]", ["1", "2"]),
    (
        "{'a': 1::HUGEINT, 'b': NULL, 'c': {'d': '2024-01-01'::DATE}}",
        {"a": "1", "b": None, "c": {"d": "2024-01-01"}},
    ),
    ("NULL::STRUCT(a HUGEINT)", None),
    ("row(1, true)", [1, True]),
    ("row(1)", [1]),
    ("MAP {'k': true}", {"k": True}),
    ("MAP {1: 'x', 2: NULL}", {"1": "x", "2": None}),
    ("MAP {'2024-01-01'::DATE: [1::HUGEINT]}", {"2024-01-01": ["1"]}),
    ("MAP {}", {}),
    ("union_value(k := true)", True),
    ("[union_value(k := 1::HUGEINT)]", ["1"]),
    ("['\\x00'::BLOB, NULL]", ["AA==", None]),
    ("[INTERVAL '1 day']", ["P1D"]),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def engine() -> AsyncIterator[DuckDbEngine]:
    async with DuckDbEngine(max_concurrency=1) as engine:
        yield engine


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("sql", "shown"), EDGES)
async def test_a_value_of_every_type_is_shown_without_loss(engine: DuckDbEngine, sql: str, shown: Any) -> None:
    table = (await engine.execute(EngineQuery(f"SELECT {sql} AS v", ()))).table
    assert encode_json_rows(table) == msgspec.json.encode([[shown]])


@pytest.mark.asyncio(loop_scope="module")
async def test_values_stand_in_their_rows_whatever_is_null(engine: DuckDbEngine) -> None:
    kept = [(sql, shown) for sql, shown in EDGES if "sum(" not in sql and "[2]" not in sql]  # those have no CASE
    listed = ", ".join(f"CASE WHEN range % 3 > 0 THEN {sql} END AS c{n}" for n, (sql, _) in enumerate(kept))
    table = (await engine.execute(EngineQuery(f"SELECT {listed} FROM range(5000)", ()))).table.slice(1, 4998)
    expected = msgspec.json.decode(msgspec.json.encode([shown for _, shown in kept]))
    rows = msgspec.json.decode(encode_json_rows(table))
    assert len(rows) == 4998
    for number, row in enumerate(rows, start=1):
        assert row == (expected if number % 3 else [None] * len(kept))


@pytest.mark.asyncio(loop_scope="module")
async def test_json_that_only_duckdb_takes_stays_text(engine: DuckDbEngine) -> None:
    table = (await engine.execute(EngineQuery("SELECT '{\"a\":NaN}'::JSON", ()))).table
    assert encode_json_rows(table) == b'[["{\\"a\\":NaN}"]]'


def shown(values: list[Any], kind: pa.DataType) -> list[Any]:
    return msgspec.json.decode(msgspec.json.encode(json_values(pa.array(values, kind))))


@given(st.lists(st.integers(-(2**63), 2**63 - 1) | st.none()))
def test_integers_round_trip(values: list[int | None]) -> None:
    assert shown(values, pa.int64()) == values


@given(st.lists(st.floats() | st.none()))
def test_doubles_round_trip(values: list[float | None]) -> None:
    back = [value if value is None else float(value) for value in shown(values, pa.float64())]
    assert [repr(v) for v in back] == [repr(v) for v in values]


@given(st.lists(st.floats(width=32) | st.none()))
def test_floats_round_trip(values: list[float | None]) -> None:
    back = [value if value is None else float(value) for value in shown(values, pa.float32())]
    assert [as_float(v) for v in back] == [as_float(v) for v in values]


def as_float(value: float | None) -> bytes | str | None:
    return value if value is None else "nan" if math.isnan(value) else struct.pack("f", value)


@given(st.lists(st.text(st.characters(codec="utf-8")) | st.none()))
def test_texts_round_trip(values: list[str | None]) -> None:
    assert shown(values, pa.string()) == values


@given(st.lists(st.binary() | st.none()))
def test_blobs_round_trip(values: list[bytes | None]) -> None:
    assert [v if v is None else base64.b64decode(v) for v in shown(values, pa.binary())] == values


@given(st.lists(st.decimals(places=10, min_value=-(10**27), max_value=10**27) | st.none()))
def test_decimals_round_trip(values: list[decimal.Decimal | None]) -> None:
    back = shown(values, pa.decimal128(38, 10))
    assert not [v for v in back if v is not None and "E" in v]
    assert [v if v is None else decimal.Decimal(v) for v in back] == values


@given(st.lists(st.dates() | st.none()))
def test_dates_round_trip(values: list[dt.date | None]) -> None:
    assert [v and dt.date.fromisoformat(v) for v in shown(values, pa.date32())] == values


@given(st.lists(st.times() | st.none()))
def test_times_round_trip(values: list[dt.time | None]) -> None:
    assert [v if v is None else dt.time.fromisoformat(v) for v in shown(values, pa.time64("us"))] == values


@given(st.lists(st.datetimes(timezones=st.just(dt.UTC)) | st.none()))
def test_instants_round_trip(values: list[dt.datetime | None]) -> None:
    texts = shown(values, pa.timestamp("us", "UTC"))
    assert all(text is None or text.endswith("Z") for text in texts)
    assert [v and dt.datetime.fromisoformat(v) for v in texts] == values


@given(st.lists(st.uuids() | st.none()))
def test_uuids_round_trip(values: list[uuid.UUID | None]) -> None:
    array = pa.ExtensionArray.from_storage(pa.uuid(), pa.array([v and v.bytes for v in values], pa.binary(16)))
    assert [v and uuid.UUID(v) for v in json_values(array)] == values


@given(st.datetimes())
def test_the_slow_calendar_agrees_with_the_fast_one(value: dt.datetime) -> None:
    array = pa.array([value], pa.timestamp("us"))
    assert [timestamp_text(array.view(pa.int64())[0].as_py(), 10**6)] == json_values(array)
    days = pa.array([value.date()], pa.date32())
    assert [date_text(days.view(pa.int32())[0].as_py())] == json_values(days)


NESTED = pa.struct([("l", pa.list_(pa.map_(pa.string(), pa.int8()))), ("f", pa.list_(pa.int16(), 2))])


def as_pairs(maps: list[Any] | None) -> list[Any] | None:
    return None if maps is None else [None if one is None else list(one.items()) for one in maps]


@given(
    st.lists(
        st.none()
        | st.fixed_dictionaries(
            {
                "l": st.none() | st.lists(st.none() | st.dictionaries(st.text("ab"), st.none() | st.integers(-9, 9))),
                "f": st.none() | st.lists(st.none() | st.integers(-9, 9), min_size=2, max_size=2),
            }
        ),
        min_size=2,
    )
)
def test_nested_values_round_trip_in_any_slice(values: list[Any]) -> None:
    array = pa.array([value and {**value, "l": as_pairs(value["l"])} for value in values], NESTED)
    assert json_values(array) == values
    assert json_values(array.slice(1)) == values[1:]
    assert json_values(array.slice(1, 1)) == values[1:2]


TABLE = pa.table({"a": [1, None], "b": ["x", ""], "c": [[1], None], "d": [dt.date(2024, 1, 1), None]})


def test_ndjson_is_an_object_a_line() -> None:
    lines = encoding.ndjson_bytes(TABLE).splitlines()
    assert [msgspec.json.decode(line) for line in lines] == [
        {"a": 1, "b": "x", "c": [1], "d": "2024-01-01"},
        {"a": None, "b": "", "c": None, "d": None},
    ]


def test_csv_tells_null_from_an_empty_text() -> None:
    assert encoding.csv_bytes(TABLE) == b'"a","b","c","d"\n1,"x","[1]","2024-01-01"\n,"",,\n'


def test_arrow_and_parquet_keep_the_table() -> None:
    assert pa.ipc.open_stream(encoding.arrow_stream_bytes(TABLE)).read_all().equals(TABLE)
    assert pq.read_table(io.BytesIO(encoding.parquet_bytes(TABLE))).to_pylist() == TABLE.to_pylist()


@pytest.mark.asyncio(loop_scope="module")
async def test_every_form_takes_every_type(engine: DuckDbEngine) -> None:
    listed = ", ".join(f"{sql} AS v" for sql, _ in EDGES if "MAP {}" not in sql)
    table = (await engine.execute(EngineQuery(f"SELECT {listed}", ()))).table
    for form in (encoding.csv_bytes, encoding.ndjson_bytes, encoding.arrow_stream_bytes):
        assert form(table)
    assert pq.read_table(io.BytesIO(encoding.parquet_bytes(table))).num_rows == 1


def test_columns_of_one_name_are_told_apart_where_the_form_cannot_have_two() -> None:
    assert encoding.unique_names(["a", "a", "a_1", "a"]) == ["a", "a_2", "a_1", "a_3"]


def test_no_rows_are_an_empty_array() -> None:
    assert encode_json_rows(TABLE.slice(0, 0)) == b"[]"
    assert encoding.ndjson_bytes(TABLE.slice(0, 0)) == b""
