"""Arrow bodies: lossless conversion, names, identity, and streams that mean harm."""

import random
import struct
from datetime import UTC, date, datetime, time
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from ingest_bodies import NOW, decoder_of, refusal, table

from duckmesh.app.ingest.arrow_body import ArrowLimits, DecodedBody, decode_arrow
from duckmesh.domain.errors import (
    DuckMeshError,
    InvalidRequest,
    PayloadTooLarge,
    PrimaryKeyRequired,
    ValidationFailed,
)
from duckmesh.domain.idempotency import key_ids
from duckmesh.domain.writes import Operation
from duckmesh.ports.columns import log_schema


def stream(data: Any, *, chunk: int | None = None, compression: str | None = None) -> bytes:
    """An IPC stream of a table, or of columns by name."""
    rows = data if isinstance(data, pa.Table) else pa.table(data)
    sink = pa.BufferOutputStream()
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, rows.schema, options=options) as writer:
        writer.write_table(rows, max_chunksize=chunk)
    return sink.getvalue().to_pybytes()


def read(schema_json: Any, body: bytes, key: tuple[str, ...] = (), **named: Any) -> DecodedBody:
    return decode_arrow(table(schema_json, key), "acme", body, **{"idempotency_key": "k", "now": NOW} | named)


def column(type_text: str, array: Any, **named: Any) -> list[Any]:
    found = read({"c": type_text}, stream({"c": array}), **named)
    found.batch.validate(full=True)
    assert found.batch.schema.equals(log_schema(table({"c": type_text}).schema), check_metadata=True)
    return found.batch.column(0).to_pylist()


def content(schema_json: Any, data: Any, **named: Any) -> bytes:
    return read(schema_json, stream(data, **named)).content_ids[0]


def test_a_body_has_one_key_and_one_content_for_all_its_rows() -> None:
    found = read({"id": "BIGINT"}, stream({"id": [1, 2, 3]}))
    assert (found.rows, found.keys, found.key_ids) == (3, ["k"], key_ids("acme", "t1", ["k"]))
    assert [len(digest) for digest in found.content_ids] == [16]
    assert found.batch.to_pydict() == {"id": [1, 2, 3], "_event_time": [NOW] * 3}


UTC_NOON = datetime(2024, 1, 1, 12, tzinfo=UTC)
RAW_UUID = bytes(range(16))
UUID_TEXT = "00010203-0405-0607-0809-0A0B0C0D0E0F"


@pytest.mark.parametrize(
    ("type_text", "array", "expected"),
    [
        ("BIGINT", pa.array([1, None], pa.int8()), [1, None]),
        ("TINYINT", pa.array([-128, 127], pa.int64()), [-128, 127]),
        ("UBIGINT", pa.array([5], pa.int16()), [5]),
        ("UBIGINT", pa.array([2**64 - 1], pa.uint64()), [2**64 - 1]),
        ("DOUBLE", pa.array([0.5], pa.float32()), [0.5]),
        ("DOUBLE", pa.array([2**53], pa.int64()), [float(2**53)]),
        ("FLOAT", pa.array([0.5, None], pa.float64()), [0.5, None]),
        ("DECIMAL(10,2)", pa.array([5, None], pa.int32()), [Decimal("5.00"), None]),
        ("DECIMAL(10,2)", pa.array([Decimal("1.5000")], pa.decimal128(20, 4)), [Decimal("1.50")]),
        ("DECIMAL(10,2)", pa.array([Decimal("1.5")], pa.decimal256(60, 1)), [Decimal("1.50")]),
        ("BOOLEAN", pa.array([True, None]), [True, None]),
        ("VARCHAR", pa.array(["a\0é", None], pa.large_string()), ["a\0é", None]),
        ("VARCHAR", pa.array(["a", None, "a" * 40], pa.string_view()), ["a", None, "a" * 40]),
        ("VARCHAR", pa.array(["a", None, "a"]).dictionary_encode(), ["a", None, "a"]),
        ("BIGINT", pa.array([7, None, 7]).dictionary_encode(), [7, None, 7]),
        ("BLOB", pa.array([b"ab"], pa.binary(2)), [b"ab"]),
        ("BLOB", pa.array([b"ab", None], pa.binary_view()), [b"ab", None]),
        ("DATE", pa.array([date(2024, 1, 1)], pa.date64()), [date(2024, 1, 1)]),
        ("TIME", pa.array([3600], pa.time32("s")), [time(1)]),
        ("TIMESTAMP", pa.array([1_000], pa.timestamp("ns")), [datetime(1970, 1, 1, 0, 0, 0, 1)]),  # noqa: DTZ001
        ("TIMESTAMP", pa.array([1], pa.timestamp("s")), [datetime(1970, 1, 1, 0, 0, 1)]),  # noqa: DTZ001
        ("TIMESTAMPTZ", pa.array([UTC_NOON], pa.timestamp("ms", "Asia/Tokyo")), [UTC_NOON]),
        ("UUID", pa.array([RAW_UUID, None], pa.uuid()), [pa.scalar(RAW_UUID, pa.uuid()).as_py(), None]),
        ("UUID", pa.array([RAW_UUID], pa.binary(16)), [pa.scalar(RAW_UUID, pa.uuid()).as_py()]),
        ("UUID", pa.array([UUID_TEXT, None]), [pa.scalar(RAW_UUID, pa.uuid()).as_py(), None]),
        ("JSON", pa.array(['{ "a": 1 }', None, "null"]), ['{"a":1}', None, None]),
        ("INTEGER", pa.nulls(2), [None, None]),
        ("UUID", pa.nulls(2), [None, None]),
        ("INTEGER[]", pa.array([[1, None], None, []], pa.large_list(pa.int64())), [[1, None], None, []]),
        ("INTEGER[]", pa.array([[1, 2], None], pa.list_(pa.int8(), 2)), [[1, 2], None]),
        ("STRUCT(a INTEGER, b VARCHAR)", pa.array([{"B": "x"}, None]), [{"a": None, "b": "x"}, None]),
        ("MAP(VARCHAR, INTEGER)", pa.array([[("a", 1)], None, []], pa.map_(pa.large_string(), pa.int8())),
         [[("a", 1)], None, []]),
        ("STRUCT(a UUID[])", pa.array([{"a": [UUID_TEXT]}, None, {"a": None}]),
         [{"a": [pa.scalar(RAW_UUID, pa.uuid()).as_py()]}, None, {"a": None}]),
    ],
)  # fmt: skip
def test_what_can_be_kept_is_converted(type_text: str, array: Any, expected: Any) -> None:
    assert column(type_text, array) == expected


@pytest.mark.parametrize(
    ("type_text", "array", "row"),
    [
        ("TINYINT", pa.array([1, 2, 128, 3, 200]), 2),
        ("UBIGINT", pa.array([1, -1]), 1),
        ("BIGINT", pa.array([1, 2**63], pa.uint64()), 1),
        ("BIGINT", pa.array([1.0]), 0),
        ("BIGINT", pa.array([True]), 0),
        ("BIGINT", pa.array(["1"]), 0),
        ("DOUBLE", pa.array([1, 2**53 + 1]), 1),
        ("DOUBLE", pa.array([Decimal("0.5")]), 0),
        ("FLOAT", pa.array([0.5, 0.1]), 1),
        ("FLOAT", pa.array([0.5, 1e39]), 1),
        ("FLOAT", pa.array([16777216, 16777217]), 1),
        ("DECIMAL(4,2)", pa.array([1, 100]), 1),
        ("DECIMAL(4,2)", pa.array([Decimal("1.000"), Decimal("1.001")]), 1),
        ("DECIMAL(4,2)", pa.array([1.5]), 0),
        ("VARCHAR", pa.array([b"a"]), 0),
        ("VARCHAR", pa.array([1]), 0),
        ("DATE", pa.array([0, 2_932_897], pa.int32()).view(pa.date32()), 1),
        ("TIMESTAMP", pa.array([0, 1], pa.timestamp("ns")), 1),
        ("TIMESTAMP", pa.array([0, 2**60], pa.timestamp("s")), 1),
        ("TIMESTAMP", pa.array([0, 2**62], pa.timestamp("us")), 1),
        ("TIMESTAMP", pa.array([UTC_NOON]), 0),
        ("TIMESTAMPTZ", pa.array([0], pa.timestamp("us")), 0),
        ("TIME", pa.array([1], pa.time64("ns")), 0),
        ("UUID", pa.array([UUID_TEXT, "123"]), 1),
        ("UUID", pa.array([b"short"]), 0),
        ("JSON", pa.array(["1", "{"]), 1),
        ("INTEGER[]", pa.array([[1], None, [2, 2**40]]), 2),
        ("INTEGER[]", pa.array([1]), 0),
        ("STRUCT(a TINYINT)", pa.array([{"a": 1}, None, {"a": 300}]), 2),
        ("STRUCT(a TINYINT)", pa.array([{"z": 1}]), 0),
        ("MAP(VARCHAR, INTEGER)", pa.array([[], [("a", 1), ("a", 2)]], pa.map_(pa.string(), pa.int32())), 1),
        ("MAP(VARCHAR, INTEGER)", pa.array([{"a": 1}]), 0),
    ],
)
def test_what_would_lose_something_is_refused_with_its_row(type_text: str, array: Any, row: int) -> None:
    error = refusal(read, {"c": type_text}, stream({"c": array}))
    assert isinstance(error, ValidationFailed)
    assert error.context["record"] == row
    assert error.context["column"].startswith("c")
    assert error.context["reason"]


def test_rows_are_counted_across_batches() -> None:
    body = stream({"c": [1] * 10 + [300]}, chunk=4)
    assert refusal(read, {"c": "TINYINT"}, body).context["record"] == 10


def test_columns_are_matched_in_any_case_and_in_any_order() -> None:
    found = read({"a": "BIGINT", "b": "VARCHAR"}, stream({"B": ["x"], "A": [1]}))
    assert found.batch.to_pydict() == {"a": [1], "b": ["x"], "_event_time": [NOW]}


@pytest.mark.parametrize("names", [["a", "nope"], ["a", "A"], ["_token", "a"]])
def test_unknown_and_repeated_columns_are_refused(names: Any) -> None:
    body = stream(pa.table([pa.array([1]), pa.array([2])], names=names))
    assert isinstance(refusal(read, {"a": "BIGINT"}, body), ValidationFailed)


SCHEMA = {
    "id": {"type": "BIGINT", "nullable": False},
    "kind": {"type": "VARCHAR", "default": "x"},
    "note": "VARCHAR",
}


def test_a_missing_column_has_its_default_or_is_null() -> None:
    assert read(SCHEMA, stream({"id": [1, 2]})).batch.to_pydict() == {
        "id": [1, 2],
        "kind": ["x", "x"],
        "note": [None, None],
        "_event_time": [NOW, NOW],
    }


@pytest.mark.parametrize(("data", "row"), [({"note": ["a"]}, 0), ({"id": [1, None]}, 1), ({"id": pa.nulls(1)}, 0)])
def test_a_null_in_a_column_that_is_not_nullable_is_refused(data: Any, row: int) -> None:
    error = refusal(read, SCHEMA, stream(data))
    assert (error.context["record"], error.context["column"]) == (row, "id")


def test_operations_apply_to_all_rows() -> None:
    schema = {"id": "BIGINT", "kind": {"type": "VARCHAR", "default": "x"}}
    for op, stored, kind in ((Operation.INSERT, 1, "x"), (Operation.UPSERT, 1, "x"), (Operation.DELETE, 2, None)):
        rows = read(schema, stream({"id": [1, 2]}), ("id",), op=op).batch.to_pydict()
        assert (rows["_dm_op"], rows["kind"]) == ([stored] * 2, [kind] * 2)


@pytest.mark.parametrize("op", [Operation.UPSERT, Operation.DELETE])
def test_a_table_without_a_key_takes_only_inserts(op: str) -> None:
    assert isinstance(refusal(read, SCHEMA, stream({"id": [1]}), op=op), PrimaryKeyRequired)


@pytest.mark.parametrize("data", [{"id": [1], "note": pa.nulls(1)}, {"note": ["a"]}, {"id": [None]}])
def test_a_delete_has_exactly_the_key_columns(data: Any) -> None:
    error = refusal(read, SCHEMA, stream(data), ("id",), op=Operation.DELETE)
    assert isinstance(error, ValidationFailed)


@pytest.mark.parametrize("key", ["", "x" * 256])
def test_the_key_is_bounded(key: str) -> None:
    assert isinstance(refusal(read, SCHEMA, stream({"id": [1]}), idempotency_key=key), InvalidRequest)


# Content.

MIXED = {
    "id": "INTEGER",
    "name": "VARCHAR",
    "x": "DOUBLE",
    "ok": "BOOLEAN",
    "tags": "VARCHAR[]",
    "s": "STRUCT(a INTEGER, b VARCHAR)",
    "m": "MAP(VARCHAR, INTEGER)",
    "u": "UUID",
    "d": "DECIMAL(10,2)",
}


def mixed() -> pa.Table:
    rows = 40
    return pa.table(
        {
            "id": pa.array(range(rows), pa.int32()),
            "name": [None if n % 3 == 0 else "n" * (n % 5) for n in range(rows)],
            "x": [float("nan") if n == 7 else n / 3 for n in range(rows)],
            "ok": [None if n % 7 == 0 else n % 2 == 0 for n in range(rows)],
            "tags": [None if n % 4 == 0 else ["t"] * (n % 3) for n in range(rows)],
            "s": [None if n % 5 == 0 else {"a": n, "b": None if n % 2 else "b"} for n in range(rows)],
            "m": pa.array(
                [None if n % 6 == 0 else [("a", n), ("b", None)][: n % 3] for n in range(rows)],
                pa.map_(pa.string(), pa.int32()),
            ),
            "u": pa.array([None if n % 9 == 0 else bytes([n]) * 16 for n in range(rows)], pa.uuid()),
            "d": pa.array([Decimal(n) for n in range(rows)], pa.decimal128(10, 2)),
        }
    )


def test_content_does_not_depend_on_batches_slices_compression_or_encoding() -> None:
    rows = mixed()
    want = content(MIXED, rows)
    padded = pa.concat_tables([rows.slice(35), rows]).slice(5)
    wide = rows.set_column(0, "ID", rows["id"].cast(pa.int64()))
    encoded = rows.set_column(1, "name", rows["name"].dictionary_encode())
    assert content(MIXED, rows, chunk=7) == want
    assert content(MIXED, padded) == want
    assert content(MIXED, padded.combine_chunks(), chunk=3) == want
    assert content(MIXED, rows, compression="zstd") == want
    assert content(MIXED, wide.select(["d", *wide.column_names[:-1]])) == want
    assert content(MIXED, encoded) == want


def test_what_is_under_a_null_is_no_content() -> None:
    values = pa.array([1, 2, 3], pa.int32())
    hidden = pa.Array.from_buffers(pa.int32(), 3, [pa.array([True, False, True]).buffers()[1], values.buffers()[1]])
    assert content({"c": "INTEGER"}, {"c": hidden}) == content({"c": "INTEGER"}, {"c": pa.array([1, None, 3])})


@pytest.mark.parametrize("place", range(9))
def test_each_column_is_content(place: int) -> None:
    rows = mixed()
    name = rows.column_names[place]
    turned = rows.set_column(place, name, rows[name].take(list(range(39, -1, -1))))
    assert content(MIXED, turned) != content(MIXED, rows)


def test_an_absent_column_is_the_content_of_its_nulls_or_its_default() -> None:
    assert content(SCHEMA, {"id": [1]}) == content(SCHEMA, {"id": [1], "note": pa.nulls(1), "kind": ["x"]})
    assert content(SCHEMA, {"id": [1]}) != content(SCHEMA, {"id": [1], "kind": pa.nulls(1)})


def test_rows_that_came_as_json_are_the_same_rows_as_arrow() -> None:
    decoder = decoder_of(MIXED)
    body = (
        b'{"records":[{"idempotency_key":"k","payload":{"id":1,"name":"a","x":"NaN","ok":true,"tags":["t",null],'
        b'"s":{"a":1},"m":{"k":1},"u":"00010203-0405-0607-0809-0a0b0c0d0e0f","d":"1.5"}},'
        b'{"idempotency_key":"l","payload":{}}]}'
    )
    batch = decoder.batch([decoder.decode(body).records], NOW)
    sent = pa.Table.from_batches([batch]).drop_columns(["_event_time"])
    assert str(read(MIXED, stream(sent)).batch.to_pydict()) == str(batch.to_pydict())


# Limits and harm.


def test_rows_are_bounded() -> None:
    error = refusal(read, {"c": "BIGINT"}, stream({"c": range(11)}, chunk=2), limits=ArrowLimits(max_rows=10))
    assert isinstance(error, PayloadTooLarge)
    assert error.context["limit"] == 10


def test_messages_are_bounded() -> None:
    body = stream({"c": range(11)}, chunk=1)
    assert isinstance(refusal(read, {"c": "BIGINT"}, body, limits=ArrowLimits(max_messages=10)), PayloadTooLarge)


@pytest.mark.parametrize("compression", ["zstd", "lz4"])
def test_a_compression_bomb_is_refused_before_it_grows(compression: str | None) -> None:
    body = stream({"c": pa.array(["x" * 1_000_000]).take([0] * 40)}, compression=compression)
    before = pa.total_allocated_bytes()
    error = refusal(read, {"c": "VARCHAR"}, body, limits=ArrowLimits(max_bytes=10_000_000))
    assert isinstance(error, PayloadTooLarge)
    assert pa.total_allocated_bytes() == before


def test_a_dictionary_that_repeats_a_huge_value_is_refused() -> None:
    repeated = pa.DictionaryArray.from_arrays(pa.array([0] * 1_000, pa.int32()), ["x" * 1_000_000])
    error = refusal(read, {"c": "VARCHAR"}, stream({"c": repeated}), limits=ArrowLimits(max_bytes=10_000_000))
    assert "grow" in error.context["reason"]


def test_views_that_repeat_a_huge_value_are_refused() -> None:
    huge = b"x" * 1_000_000
    view = struct.pack("<i4sii", len(huge), huge[:4], 0, 0)
    views = pa.Array.from_buffers(pa.string_view(), 1_000, [None, pa.py_buffer(view * 1_000), pa.py_buffer(huge)])
    body = stream({"c": views})
    assert len(body) < 1_100_000
    error = refusal(read, {"c": "VARCHAR"}, body, limits=ArrowLimits(max_bytes=10_000_000))
    assert "grow" in error.context["reason"]


def test_views_under_nulls_are_not_followed() -> None:
    views = struct.pack("<i12s", 1, b"a") + struct.pack("<i4sii", 128, b"bbbb", 7, 2**30)
    array = pa.Array.from_buffers(pa.string_view(), 2, [pa.py_buffer(b"\x01"), pa.py_buffer(views), pa.py_buffer(b"b")])
    assert column("VARCHAR", array) == ["a", None]


def test_a_null_column_cannot_claim_rows_without_end() -> None:
    nulls = pa.ListArray.from_arrays(pa.array([0, 2_000_000], pa.int32()), pa.nulls(2_000_000))
    error = refusal(read, {"c": "BIGINT[]"}, stream({"c": nulls}), limits=ArrowLimits(max_bytes=1_000_000))
    assert isinstance(error, PayloadTooLarge)


@pytest.mark.parametrize("body", [b"", b"\xff", b"ARROW1\0\0", b"\xff\xff\xff\xff\0\0\0\0", b"{}" * 100, b"\0" * 64])
def test_what_is_no_stream_is_a_clean_error(body: bytes) -> None:
    assert isinstance(refusal(read, {"c": "BIGINT"}, body), InvalidRequest)


def test_a_stream_without_rows_is_refused() -> None:
    assert isinstance(refusal(read, {"c": "BIGINT"}, stream({"c": pa.array([], pa.int64())})), ValidationFailed)


@pytest.mark.parametrize(
    "kind",
    [
        pa.decimal128(10, -2),
        pa.decimal128(10, 33_554_434),
        pa.run_end_encoded(pa.int32(), pa.int64()),
        pa.list_view(pa.int64()),
        pa.duration("s"),
        pa.month_day_nano_interval(),
        pa.struct([("a", pa.list_(pa.decimal128(10, 200)))]),
    ],
)
def test_types_that_no_column_can_come_from_are_refused_by_the_schema_alone(kind: Any) -> None:
    body = stream(pa.schema([("c", kind)]).empty_table())
    error = refusal(read, {"c": "DECIMAL(10,2)"}, body)
    assert isinstance(error, InvalidRequest)
    assert "are not read" in error.message


def test_invalid_utf8_is_refused() -> None:
    text = pa.Array.from_buffers(pa.string(), 1, [None, pa.py_buffer(struct.pack("<ii", 0, 1)), pa.py_buffer(b"\xff")])
    assert isinstance(refusal(read, {"c": "VARCHAR"}, stream({"c": text})), InvalidRequest)


def test_a_record_batch_in_place_of_the_schema_is_refused() -> None:
    body = stream({"c": [1]})
    schema_size = len(stream(pa.schema([("c", pa.int64())]).empty_table())) - 8
    assert isinstance(refusal(read, {"c": "BIGINT"}, body[schema_size:]), InvalidRequest)


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_a_truncated_stream_is_read_as_less_or_refused(compression: str | None) -> None:
    body = stream(mixed().slice(0, 4), chunk=2, compression=compression)
    for end in range(0, len(body), 13):
        try:
            assert read(MIXED, body[:end]).rows in {2, 4}
        except DuckMeshError:
            continue


@pytest.mark.parametrize("compression", [None, "zstd"])
def test_a_damaged_stream_is_read_or_refused_and_never_crashes(compression: str | None) -> None:
    body = stream(mixed().slice(0, 4), chunk=2, compression=compression)
    chance = random.Random(compression)
    for _ in range(300):
        damaged = bytearray(body)
        for _ in range(chance.randint(1, 4)):
            damaged[chance.randrange(len(damaged))] = chance.choice([0, 1, 127, 128, 255, chance.randrange(256)])
        try:
            read(MIXED, bytes(damaged)).batch.validate(full=True)
        except DuckMeshError:
            continue
