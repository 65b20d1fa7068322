"""What ``duckmesh ingest`` makes of files, against a stub (see conftest)."""

import datetime as dt
import decimal
import gzip
import io
import json
import sys
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from pyarrow import csv, feather, ipc, parquet

from duckmesh.app.cli.arrow_types import cast_batch, inferred_schema, json_value, table_types
from duckmesh.app.cli.exit_codes import UsageProblem
from duckmesh.app.cli.formats import FileFormat
from duckmesh.app.cli.sources import Source, rechunked

SCHEMA = {"id": "BIGINT", "name": "VARCHAR", "at": "TIMESTAMPTZ"}
INFO = {"table_name": "t", "schema_version": 1, "schema_json": SCHEMA, "primary_key_cols": []}
TABLE = "GET /v1/tables/t"
INGEST = "POST /v1/ingest/t"


@pytest.fixture
def table(stub: Any) -> Any:
    """A stub that has the table, and answers every write with the next token."""
    stub.answer(TABLE, (200, INFO))
    tokens = iter(range(1, 10_000))

    def store(request: Any) -> tuple[int, Any]:
        status = "visible" if "wait_for_visibility" in request.params else "accepted"
        return 200, {"accepted_count": rows_of(request), "duplicate_count": 0, "status": status,
                     "max_visibility_token": next(tokens), "visibility_scope": "s"}  # fmt: skip

    stub.handlers[INGEST] = store
    return stub


def rows_of(request: Any) -> int:
    if request.headers["content-type"] == "application/vnd.apache.arrow.stream":
        return int(ipc.open_stream(request.body).read_all().num_rows)
    return len(request.json["records"])


def sample(rows: int = 25) -> pa.Table:
    start = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
    return pa.table({
        "id": pa.array(range(rows), pa.int64()),
        "name": [None if n % 5 == 0 else f"n{n}" for n in range(rows)],
        "at": pa.array([start + dt.timedelta(seconds=n) for n in range(rows)], pa.timestamp("us", "UTC")),
    })  # fmt: skip


def write(data: pa.Table, path: Path) -> Path:
    match path.suffix:
        case ".csv":
            csv.write_csv(data, path)
        case ".parquet":
            parquet.write_table(data, path, row_group_size=7)
        case ".feather":
            feather.write_feather(data, path)
        case ".arrows":
            with ipc.new_stream(path, data.schema) as writer:
                writer.write_table(data, max_chunksize=4)
    return path


def received(stub: Any) -> pa.Table:
    bodies = [ipc.open_stream(request.body).read_all() for request in stub.calls("POST", "/v1/ingest/t")]
    return pa.concat_tables(bodies).sort_by("id")


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".feather", ".arrows"])
def test_a_file_arrives_in_chunks_with_the_types_of_the_table(
    table: Any, cli: Callable[..., Any], tmp_path: Path, suffix: str
) -> None:
    file = write(sample(), tmp_path / f"file{suffix}")
    ran = cli("ingest", str(file), "-t", "t", "--batch-rows", "10", "--json")
    assert ran.code == 0, ran.err
    assert received(table).equals(sample())
    assert sorted(map(rows_of, table.calls("POST", "/v1/ingest/t"))) == [5, 10, 10]
    summary = json.loads(ran.out)
    assert (summary["rows"], summary["accepted_count"], summary["max_visibility_token"]) == (25, 25, 3)


def test_a_gzipped_file_is_read_as_what_it_contains(table: Any, cli: Callable[..., Any], tmp_path: Path) -> None:
    plain = write(sample(), tmp_path / "file.csv")
    packed = tmp_path / "file.csv.gz"
    packed.write_bytes(gzip.compress(plain.read_bytes()))
    assert cli("ingest", str(packed), "-t", "t").code == 0
    assert received(table).equals(sample())


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".feather", ".arrows"])
def test_a_pipe_is_read_as_a_file_is(
    table: Any, cli: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str
) -> None:
    class Pipe(io.BytesIO):
        def seekable(self) -> bool:
            return False

    content = write(sample(), tmp_path / f"file{suffix}").read_bytes()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BufferedReader(Pipe(content))))
    form = {".feather": "arrow", ".arrows": "arrow"}.get(suffix, suffix[1:])
    ran = cli("ingest", "-", "-t", "t", "--format", form)
    assert ran.code == 0, ran.err
    assert received(table).equals(sample())


def test_the_same_file_has_the_same_keys_and_another_run_has_others(
    table: Any, cli: Callable[..., Any], tmp_path: Path
) -> None:
    file = str(write(sample(), tmp_path / "file.csv"))
    runs = [(), (), ("--run", "again"), ("--op", "upsert")]
    keys = []
    for options in runs:
        table.seen.clear()
        assert cli("ingest", file, "-t", "t", "--batch-rows", "10", *options).code == 0
        keys.append({request.headers["idempotency-key"] for request in table.calls("POST", "/v1/ingest/t")})
    assert [len(found) for found in keys] == [3, 3, 3, 3]
    assert keys[0] == keys[1]
    assert keys[0].isdisjoint(keys[2] | keys[3])


def test_two_chunks_of_equal_content_have_keys_of_their_own(
    table: Any, cli: Callable[..., Any], tmp_path: Path
) -> None:
    file = tmp_path / "same.csv"
    file.write_text("id\n" + "1\n" * 20)
    assert cli("ingest", str(file), "-t", "t", "--batch-rows", "10").code == 0
    keys = {request.headers["idempotency-key"] for request in table.calls("POST", "/v1/ingest/t")}
    assert len(keys) == 2


def test_only_the_last_chunk_waits_and_it_is_sent_last(table: Any, cli: Callable[..., Any], tmp_path: Path) -> None:
    file = str(write(sample(100), tmp_path / "file.csv"))
    ran = cli("ingest", file, "-t", "t", "--batch-rows", "9", "--wait", "--timeout-ms", "700", "--workers", "4")
    assert ran.code == 0
    waits = ["wait_for_visibility" in request.params for request in table.calls("POST", "/v1/ingest/t")]
    assert waits == [False] * 11 + [True]
    assert table.seen[-1].params == {"op": "insert", "wait_for_visibility": "true", "visibility_timeout_ms": "700"}


def test_ndjson_is_sent_as_it_is_written(table: Any, cli: Callable[..., Any], tmp_path: Path) -> None:
    lines = [b'{"id":9007199254740993,"x":1.10000000000000000001}', b'{"id":2}']
    file = tmp_path / "file.ndjson"
    file.write_bytes(b"\n".join(lines) + b"\n\n")
    assert cli("ingest", str(file), "-t", "t").code == 0
    [request] = table.calls("POST", "/v1/ingest/t")
    assert all(line in request.body for line in lines)
    keys = [record["idempotency_key"] for record in request.json["records"]]
    table.seen.clear()
    assert cli("ingest", str(file), "-t", "t").code == 0
    assert [r["idempotency_key"] for r in table.calls("POST", "/v1/ingest/t")[0].json["records"]] == keys
    assert len(set(keys)) == 2


def test_a_key_column_makes_records_with_keys(table: Any, cli: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "file.ndjson"
    file.write_text('{"event": "a-1", "id": 9007199254740993}\n{"event": "a-2", "id": 2}\n')
    assert cli("ingest", str(file), "-t", "t", "--key-column", "event", "--op", "upsert").code == 0
    [request] = table.calls("POST", "/v1/ingest/t")
    assert request.json["records"] == [
        {"idempotency_key": "a-1", "op": "upsert", "payload": {"id": 9007199254740993}},
        {"idempotency_key": "a-2", "op": "upsert", "payload": {"id": 2}},
    ]


def test_a_key_column_that_is_a_column_of_the_table_stays_in_the_payload(
    table: Any, cli: Callable[..., Any], tmp_path: Path
) -> None:
    file = str(write(sample(3), tmp_path / "file.parquet"))
    assert cli("ingest", file, "-t", "t", "--key-column", "id").code == 0
    [request] = table.calls("POST", "/v1/ingest/t")
    assert request.json["records"][1] == {
        "idempotency_key": "1",
        "op": "insert",
        "payload": {"id": 1, "name": "n1", "at": "2026-01-01T00:00:01+00:00"},
    }


@pytest.mark.usefixtures("table")
def test_a_row_without_its_key_is_named(cli: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "file.ndjson"
    file.write_text('{"event": "a", "id": 1}\n{"id": 2}\n')
    ran = cli("ingest", str(file), "-t", "t", "--key-column", "event")
    assert ran.code == 2
    assert "row 2" in ran.err


def test_a_missing_table_is_created_with_the_types_of_the_file(
    table: Any, cli: Callable[..., Any], tmp_path: Path
) -> None:
    missing = {
        "error_code": "TABLE_NOT_FOUND",
        "message": "no",
        "retryable": False,
        "context": {},
        "trace_id": None,
    }
    table.answer(TABLE, (404, missing))
    table.answer("POST /v1/tables", (201, INFO))
    file = str(write(sample(), tmp_path / "file.parquet"))
    refused = cli("ingest", file, "-t", "t")
    assert refused.code == 1
    assert "--create" in refused.err
    assert cli("ingest", file, "-t", "t", "--create", "-k", "id").code == 0
    [request] = table.calls("POST", "/v1/tables")
    assert request.json == {"table_name": "t", "schema_json": SCHEMA, "primary_key_cols": ["id"]}
    assert received(table).equals(sample())


def test_the_columns_of_ndjson_are_inferred_from_its_first_lines(
    table: Any, cli: Callable[..., Any], tmp_path: Path
) -> None:
    missing = {
        "error_code": "TABLE_NOT_FOUND",
        "message": "no",
        "retryable": False,
        "context": {},
        "trace_id": None,
    }
    table.answer(TABLE, (404, missing))
    table.answer("POST /v1/tables", (201, INFO))
    file = tmp_path / "file.ndjson"
    file.write_text('{"id": 1, "v": null, "tags": ["a"]}\n{"id": 2, "v": 1.5, "o": {"a": true}}\n')
    assert cli("ingest", str(file), "-t", "t", "--create").code == 0
    [request] = table.calls("POST", "/v1/tables")
    assert request.json["schema_json"] == {
        "id": "BIGINT", "v": "DOUBLE", "tags": "VARCHAR[]", "o": 'STRUCT("a" BOOLEAN)'
    }  # fmt: skip
    assert rows_of(table.calls("POST", "/v1/ingest/t")[0]) == 2


def test_nulls_of_csv_are_what_the_user_says(table: Any, cli: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "file.csv"
    file.write_text('id,name\n1,NA\n2,\n3,""\n4,x\n')
    assert cli("ingest", str(file), "-t", "t").code == 0
    assert received(table)["name"].to_pylist() == ["NA", None, "", "x"]
    table.seen.clear()
    assert cli("ingest", str(file), "-t", "t", "--null", "NA", "--null", "").code == 0
    assert received(table)["name"].to_pylist() == [None, None, "", "x"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("id,name\n1,a\nx,b\n", "'x'"),
        ("id,nick\n1,a\n", "'nick'"),
        ("id,at\n1,2026-01-01 00:00:00\n", "zone"),
        ("", "empty"),
        ("id,name\n1\n", "column"),
    ],
)
def test_a_file_that_does_not_fit_is_one_line_that_says_where(
    table: Any, cli: Callable[..., Any], tmp_path: Path, text: str, says: str
) -> None:
    file = tmp_path / "file.csv"
    file.write_text(text)
    ran = cli("ingest", str(file), "-t", "t")
    assert ran.code == 2
    assert ran.err.count("\n") == 1
    assert says in ran.err
    assert table.calls("POST", "/v1/ingest/t") == []


def test_after_a_refusal_the_line_says_that_going_on_is_safe(
    table: Any, cli: Callable[..., Any], tmp_path: Path
) -> None:
    seen = iter(range(10))
    refusal = {"error_code": "VALIDATION_FAILED", "message": "no", "retryable": False, "context": {"record": 3}}
    accepted = table.handlers[INGEST]
    table.handlers[INGEST] = lambda request: accepted(request) if next(seen) < 1 else (400, refusal)
    file = str(write(sample(), tmp_path / "file.csv"))
    ran = cli("ingest", file, "-t", "t", "--batch-rows", "10", "--workers", "1")
    assert ran.code == 1
    assert "rows_stored_before=10" in ran.err
    assert "nothing twice" in ran.err


@pytest.mark.usefixtures("table")
def test_a_file_without_rows_is_done_at_once(cli: Callable[..., Any], tmp_path: Path) -> None:
    file = tmp_path / "file.csv"
    file.write_text("id,name\n")
    ran = cli("ingest", str(file), "-t", "t")
    assert (ran.code, "no rows" in ran.out) == (0, True)


def test_an_arrow_schema_becomes_columns() -> None:
    schema = pa.schema([
        ("a", pa.int8()), ("b", pa.uint64()), ("c", pa.float16()), ("d", pa.decimal128(9, 2)),
        ("e", pa.large_utf8()),
        ("f", pa.timestamp("ns")), ("g", pa.timestamp("s", "Europe/Berlin")), ("h", pa.date64()),
        ("i", pa.time32("s")),
        ("j", pa.list_(pa.int32())), ("k", pa.map_(pa.string(), pa.int64())),
        ("l", pa.dictionary(pa.int8(), pa.utf8())),
        ("m", pa.null()), ("n", pa.uuid()), ("o", pa.binary(3)), ("p", pa.bool_()),
    ])  # fmt: skip
    assert list(inferred_schema(schema).values()) == [
        "TINYINT", "UBIGINT", "FLOAT", "DECIMAL(9,2)", "VARCHAR", "TIMESTAMP", "TIMESTAMPTZ", "DATE", "TIME",
        "INTEGER[]", "MAP(VARCHAR, BIGINT)", "VARCHAR", "VARCHAR", "UUID", "BLOB", "BOOLEAN",
    ]  # fmt: skip


def test_an_arrow_type_without_a_column_type_is_refused() -> None:
    with pytest.raises(UsageProblem, match="duration"):
        inferred_schema(pa.schema([("a", pa.duration("s"))]))


def test_text_becomes_uuids_and_nested_values() -> None:
    known = uuid.UUID(int=7)
    types = table_types({"schema_json": {"U": "UUID", "l": "INTEGER[]"}})
    batch = pa.RecordBatch.from_pydict({"u": [str(known), None], "L": ["[1, 2]", None]})
    assert cast_batch(batch, types, 0).to_pydict() == {"u": [known, None], "L": [[1, 2], None]}


@pytest.mark.parametrize(
    ("column", "kind"), [([2**40], "INTEGER"), ([1.5], "INTEGER"), (["x"], "BIGINT"), (["no"], "UUID")]
)
def test_a_cast_that_loses_something_is_refused(column: list[Any], kind: str) -> None:
    batch = pa.RecordBatch.from_pydict({"a": column})
    with pytest.raises(UsageProblem, match="'a'") as caught:
        cast_batch(batch, table_types({"schema_json": {"a": kind}}), 100)
    assert caught.value.context == {"column": "a", "rows": "101 to 101"}


def test_values_have_the_json_forms_of_the_api() -> None:
    values = [
        float("nan"),
        float("-inf"),
        decimal.Decimal("1.10"),
        b"\x00",
        dt.date(2026, 1, 2),
        {"a": [1.5, None]},
    ]
    assert [json_value(value) for value in values] == [
        "NaN", "-Infinity", "1.10", "AA==", "2026-01-02", {"a": [1.5, None]}
    ]  # fmt: skip


@pytest.mark.parametrize("sizes", [[1] * 25, [25], [7, 0, 18], [10, 10, 5]])
def test_chunks_do_not_depend_on_how_the_rows_arrived(sizes: list[int]) -> None:
    data, batches, start = sample(), [], 0
    for size in sizes:
        batches += data.slice(start, size).to_batches() or [data.slice(0, 0).combine_chunks().to_batches()]
        start += size
    chunks = list(rechunked([b for b in batches if isinstance(b, pa.RecordBatch)], 10))
    assert [chunk.num_rows for chunk in chunks] == [10, 10, 5]
    assert pa.Table.from_batches(chunks).equals(data)


@pytest.mark.parametrize(
    ("texts", "kind"),
    [
        (["2026-01-01", "2026-01-02"], "DATE"),
        (["2026-01-01T10:00:00Z", "2026-01-01T10:00:00+01:00", None], "TIMESTAMPTZ"),
        (["2026-01-01T10:00:00", "2026-01-01 10:00:00.5"], "TIMESTAMP"),
        (["2026-01-01T10:00:00", "2026-01-01T10:00:00Z"], "VARCHAR"),
        (["2026-01-01T10:00:00.123456Z"], "TIMESTAMPTZ"),
        (["2026-01-01", "2026-01-01T10:00:00"], "VARCHAR"),
        (["2026-01-01T10:00:00.123456789Z"], "VARCHAR"),
        (["soon", "later"], "VARCHAR"),
    ],
)
def test_dates_local_times_and_instants_of_ndjson_are_told_apart(
    tmp_path: Path, texts: list[str | None], kind: str
) -> None:
    file = tmp_path / "file.ndjson"
    file.write_text("\n".join(json.dumps({"at": text}) for text in texts))
    with Source(str(file), FileFormat.NDJSON) as source:
        assert inferred_schema(source.open(None, 10).schema) == {"at": kind}


@pytest.mark.parametrize("line", ['{"id": 1', "[1]", "1", '{"id": 1}, {"id": 2}', '{"id": 1} x', "{id: 1}", '"a"'])
def test_a_line_that_is_not_one_object_is_refused_before_it_is_sent(
    table: Any, cli: Callable[..., Any], tmp_path: Path, line: str
) -> None:
    file = tmp_path / "file.ndjson"
    file.write_text('{"id": 0}\n' + line + "\n")
    ran = cli("ingest", str(file), "-t", "t")
    assert (ran.code, "record 2" in ran.err) == (2, True)
    assert table.calls("POST", "/v1/ingest/t") == []
