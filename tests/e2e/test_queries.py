"""What queries see: fresh enough or an error, one snapshot of all tables, the same again later, in every form."""

import csv
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from caller import Caller, new_name, record
from planes import Planes, UpServer
from pyarrow import parquet

# Freshness.


def test_a_query_with_the_receipts_token_sees_the_write(caller: Caller, table: str) -> None:
    caller.create(table, {"n": "BIGINT"})
    for number in range(20):
        receipt = caller.put_row(table, {"n": number})
        asked = {key: receipt[key] for key in ("visibility_scope",)}
        asked["min_visibility_token"] = receipt["max_visibility_token"]
        answer = caller.query(f"SELECT count(*), max(n) FROM {table}", **asked)
        assert answer["rows"] == [[number + 1, number]]
        assert answer["max_visibility_token"] >= receipt["max_visibility_token"]
        assert answer["visibility_scope"] == receipt["visibility_scope"]


def test_a_write_that_waited_is_visible_to_everybody(caller: Caller, table: str) -> None:
    caller.create(table, {"n": "BIGINT"})
    receipt = caller.put_row(table, {"n": 1}, wait=True)
    assert receipt["status"] == "visible"
    answer = caller.query(f"SELECT n FROM {table}")
    assert answer["rows"] == [[1]]
    assert answer["snapshot_id"] >= receipt["visible_snapshot_id"]


def test_old_snapshots_stay_as_they_were_by_id_and_by_time(caller: Caller, table: str) -> None:
    caller.create(table, {"n": "BIGINT"})
    sql = f"SELECT n FROM {table} ORDER BY n"
    seen = []
    for number in range(6):
        receipt = caller.put_row(table, {"n": number}, wait=True)
        seen.append(caller.query(sql, snapshot_id=receipt["visible_snapshot_id"]))
    for number, answer in enumerate(seen):
        expected = [[n] for n in range(number + 1)]
        assert answer["rows"] == expected
        assert caller.rows(sql, snapshot_id=answer["snapshot_id"]) == expected
        at_its_time = caller.query(sql, snapshot_time=answer["snapshot_time"])
        assert (at_its_time["snapshot_id"], at_its_time["rows"]) == (answer["snapshot_id"], expected)
        before = datetime.fromisoformat(answer["snapshot_time"]) - timedelta(microseconds=1)
        earlier = caller.query("SELECT 1", snapshot_time=before.isoformat())
        assert earlier["snapshot_id"] < answer["snapshot_id"]


def test_snapshots_are_listed_in_pages_and_shown(caller: Caller, table: str) -> None:
    caller.create(table, {"n": "BIGINT"})
    ids = [caller.put_row(table, {"n": n}, wait=True)["visible_snapshot_id"] for n in range(5)]
    found: list[int] = []
    cursor = ""
    while len(found) < 6:
        page = caller.call("GET", f"/v1/snapshots?limit=2{cursor}")
        assert len(page["snapshots"]) == 2
        found += [snapshot["snapshot_id"] for snapshot in page["snapshots"]]
        cursor = f"&cursor={page['next_cursor']}"
    assert found == sorted(found, reverse=True)
    assert set(ids) <= set(found) or ids[0] > min(found)
    shown = caller.call("GET", f"/v1/snapshots/{ids[-1]}")
    assert shown["tables"][table]["rows_stored"] == 5
    assert shown["tables"][table]["schema_version"] == 1


def test_an_answer_says_which_snapshot_in_its_headers_when_it_is_not_json(caller: Caller, table: str) -> None:
    caller.create(table, {"n": "BIGINT"})
    receipt = caller.put_row(table, {"n": 1}, wait=True)
    body = {"sql": f"SELECT n FROM {table}", "snapshot_id": receipt["visible_snapshot_id"]}
    answer = caller.http.post("/v1/query", json=body, headers={"accept": "text/csv"})
    assert answer.headers["x-snapshot-id"] == str(receipt["visible_snapshot_id"])
    assert answer.headers["x-max-visibility-token"] == str(receipt["max_visibility_token"])
    assert answer.headers["x-visibility-scope"] == receipt["visibility_scope"]
    assert answer.headers["x-truncated"] == "false"


def test_without_a_coordinator_a_strict_query_is_an_error_and_never_stale(planes: Planes) -> None:
    api = planes.api()
    working = planes.coordinator()
    with planes.caller(api) as caller:
        caller.create("t", {"n": "BIGINT"})
        seen = caller.put_row("t", {"n": 1}, wait=True)
        working.kill()
        receipt = caller.put_row("t", {"n": 2})
        caller.put_row("t", {"n": 3})
        token = receipt["max_visibility_token"]
        asked = {"sql": "SELECT n FROM t", "min_visibility_token": token, "consistency_timeout_ms": 300}
        error = caller.refused("POST", "/v1/query", asked, 504, "CONSISTENCY_TIMEOUT")
        assert error["retryable"] is True
        assert error["context"] == {
            "requested_token": token,
            "watermark": seen["max_visibility_token"],
            "snapshot_id": seen["visible_snapshot_id"],
            "head": token + 1,
            "pending_writes": 1,
            "timeout_ms": 300,
        }
        assert caller.rows("SELECT n FROM t") == [[1]], "without a token it says what is visible"
        at_once = asked | {"consistency_timeout_ms": 0}
        caller.refused("POST", "/v1/query", at_once, 504, "CONSISTENCY_TIMEOUT")
        body = {"records": [record({"n": 4}, "k4")], "wait_for_visibility": True, "visibility_timeout_ms": 100}
        error = caller.refused("POST", "/v1/ingest/t", body, 504, "CONSISTENCY_TIMEOUT")
        kept = error["context"]["receipt"]
        assert (kept["accepted_count"], kept["max_visibility_token"], kept["status"]) == (1, token + 2, "accepted")
        lag = caller.call("GET", "/v1/lag")
        assert (lag["pending_events"], lag["token_lag"], lag["accepted_events"]) == (3, 3, 4)
        assert lag["oldest_pending_lag_ms"] > 0
        planes.coordinator()
        again = caller.put_row("t", {"n": 4}, key="k4", wait=True)
        assert (again["duplicate_count"], again["max_visibility_token"]) == (1, token + 2)
        assert caller.rows("SELECT n FROM t ORDER BY n") == [[1], [2], [3], [4]]
        assert caller.call("GET", "/v1/lag")["pending_events"] == 0


# Parameters and limits.


def test_parameters_are_positional_or_named(caller: Caller) -> None:
    assert caller.rows("SELECT ? + ?, ?", params=[40, 2, "a'; DROP TABLE x"]) == [[42, "a'; DROP TABLE x"]]
    assert caller.rows("SELECT $2, $1", params=[1, 2]) == [[2, 1]]
    assert caller.rows("SELECT $n + 1, $s, $n", params={"n": 41, "s": None}) == [[42, None, 41]]
    assert caller.rows("SELECT ?::DATE, ?::DOUBLE, ?", params=["2026-01-02", 1.5, True]) == [["2026-01-02", 1.5, True]]
    assert caller.rows("SELECT len(?)", params=[[1, 2, 3]]) == [[3]]
    assert caller.rows("SELECT ?", params=[2**100]) == [[str(2**100)]]


def test_rows_over_the_limit_are_cut_off_and_the_answer_says_so(caller: Caller) -> None:
    cut = caller.query("SELECT * FROM range(10)", row_limit=3)
    assert (cut["rows"], cut["stats"]["truncated"], cut["stats"]["rows"]) == ([[0], [1], [2]], True, 3)
    exact = caller.query("SELECT * FROM range(3)", row_limit=3)
    assert (len(exact["rows"]), exact["stats"]["truncated"]) == (3, False)
    none = caller.query("SELECT * FROM range(3)", row_limit=0)
    assert (none["rows"], none["columns"], none["stats"]["truncated"]) == ([], ["range"], True)
    accepted = caller.http.post(
        "/v1/query", json={"sql": "SELECT * FROM range(10)", "row_limit": 3}, headers={"accept": "text/csv"}
    )
    assert accepted.headers["x-truncated"] == "true"


def test_a_query_past_its_time_is_stopped_and_the_next_one_runs(caller: Caller) -> None:
    slow = {"sql": "SELECT count(*) FROM range(1000000) a, range(1000000) b", "timeout_ms": 200}
    error = caller.refused("POST", "/v1/query", slow, 408, "QUERY_TIMEOUT")
    assert error["context"]["timeout_s"] == 0.2
    assert caller.rows("SELECT 42") == [[42]]


# Forms.


EVERY_TYPE: dict[str, tuple[str, Any]] = {
    "c_bigint": ("BIGINT", -(2**63)),
    "c_integer": ("INTEGER", 2**31 - 1),
    "c_smallint": ("SMALLINT", -(2**15)),
    "c_tinyint": ("TINYINT", 127),
    "c_ubigint": ("UBIGINT", 2**64 - 1),
    "c_uinteger": ("UINTEGER", 2**32 - 1),
    "c_usmallint": ("USMALLINT", 2**16 - 1),
    "c_utinyint": ("UTINYINT", 255),
    "c_double": ("DOUBLE", 0.1),
    "c_infinite": ("DOUBLE", "-Infinity"),
    "c_nan": ("DOUBLE", "NaN"),
    "c_float": ("FLOAT", 0.1),
    "c_decimal": ("DECIMAL(38,10)", "1234567890123456789012345678.0123456789"),
    "c_boolean": ("BOOLEAN", True),
    "c_varchar": ("VARCHAR", 'it\'s "quoted"\n\x00 größer \U0001f986'),
    "c_blob": ("BLOB", "AP8="),
    "c_date": ("DATE", "2024-02-29"),
    "c_time": ("TIME", "23:59:59.999999"),
    "c_timestamp": ("TIMESTAMP", "2024-02-29T12:00:00.000001"),
    "c_timestamptz": ("TIMESTAMPTZ", "2024-02-29T12:00:00Z"),
    "c_uuid": ("UUID", "12345678-1234-5678-1234-567812345678"),
    "c_json": ("JSON", {"a": [1, None, {"b": "ü"}]}),
    "c_list": ("INTEGER[]", [1, None, 3]),
    "c_struct": ("STRUCT(a BIGINT, b VARCHAR[])", {"a": 1, "b": ["x"]}),
    "c_map": ("MAP(VARCHAR, DECIMAL(6,2))", {"k": "1.50"}),
}


@pytest.fixture(scope="module")
def every_type(live_server: UpServer) -> str:
    """A table with a row of all types, and one of nulls."""
    name = new_name()
    with live_server.caller() as caller:
        caller.create(name, {column: kind for column, (kind, _) in EVERY_TYPE.items()})
        row = {column: value for column, (_, value) in EVERY_TYPE.items()}
        caller.put(name, record(row), record({}), wait=True)
    return name


def test_every_type_comes_back_as_it_was_sent(caller: Caller, every_type: str) -> None:
    found = caller.query(f"SELECT * EXCLUDE (_event_time, _token) FROM {every_type} ORDER BY c_bigint")
    assert found["columns"] == list(EVERY_TYPE)
    assert found["rows"][0] == [value for _, value in EVERY_TYPE.values()]
    assert found["rows"][1] == [None] * len(EVERY_TYPE)
    assert found["column_types"][0] == "BIGINT"
    assert found["column_types"][12] == "DECIMAL(38,10)"
    assert caller.call("GET", f"/v1/tables/{every_type}")["schema_json"]["c_decimal"] == "DECIMAL(38,10)"


@pytest.mark.parametrize(
    "kind",
    ["text/csv", "application/x-ndjson", "application/vnd.apache.arrow.stream", "application/vnd.apache.parquet"],
)
def test_every_type_is_answered_in_every_form(caller: Caller, every_type: str, kind: str) -> None:
    body = {"sql": f"SELECT * EXCLUDE (_event_time, _token) FROM {every_type} ORDER BY c_bigint"}
    answer = caller.http.post("/v1/query", json=body, headers={"accept": f"application/json;q=0.1, {kind}"})
    assert (answer.status_code, answer.headers["content-type"].partition(";")[0]) == (200, kind)
    expected = [value for _, value in EVERY_TYPE.values()]
    if kind == "text/csv":
        header, first, nulls = csv.reader(io.StringIO(answer.text, newline=""))
        assert header == list(EVERY_TYPE)
        assert (first[0], first[12], first[14]) == (str(expected[0]), expected[12], expected[14])
        assert nulls == [""] * len(EVERY_TYPE)
    elif kind == "application/x-ndjson":
        lines = [json.loads(line) for line in answer.text.split("\n") if line]
        assert lines[0] == dict(zip(EVERY_TYPE, expected, strict=True))
    else:
        arrow = "arrow" in kind
        table = (
            pa.ipc.open_stream(answer.content).read_all() if arrow else parquet.read_table(io.BytesIO(answer.content))
        )
        assert (table.num_rows, table.column_names) == (2, list(EVERY_TYPE))
        assert str(table["c_decimal"][0].as_py()) == expected[12]
        assert table["c_bigint"].to_pylist() == [-(2**63), None]


# Tables with a key.


def test_the_last_operation_on_a_key_wins(caller: Caller, table: str) -> None:
    caller.create(table, {"id": "BIGINT", "name": "VARCHAR", "note": "VARCHAR"}, key=["id"])
    sql = f"SELECT id, name, note FROM {table} ORDER BY id"

    def after(*records: dict[str, Any]) -> list[Any]:
        return caller.rows(sql, snapshot_id=caller.put(table, *records, wait=True)["visible_snapshot_id"])

    assert after(record({"id": 1, "name": "a", "note": "x"}), record({"id": 2, "name": "b"})) == [
        [1, "a", "x"],
        [2, "b", None],
    ]
    first = caller.query(sql)
    assert after(record({"id": 1, "name": "c"}, op="upsert")) == [[1, "c", None], [2, "b", None]], "the whole row"
    assert after(record({"id": 2}, op="delete"), record({"id": 9}, op="delete")) == [[1, "c", None]]
    assert after(record({"id": 2, "name": "again"}, op="insert")) == [[1, "c", None], [2, "again", None]]
    within_one_write = [
        record({"id": 3, "name": "x"}),
        record({"id": 3}, op="delete"),
        record({"id": 3, "name": "y"}),
        record({"id": 1}, op="delete"),
    ]
    assert after(*within_one_write) == [[2, "again", None], [3, "y", None]]
    assert caller.rows(sql, snapshot_id=first["snapshot_id"]) == first["rows"]
    assert caller.rows(f"SELECT count(*) FROM {table} WHERE name = 'c'") == [[0]]


def test_a_deleted_row_is_not_found_by_an_older_value_either(caller: Caller, table: str) -> None:
    """Pruning files by another column than the key must not bring an old row back."""
    caller.create(table, {"id": "BIGINT", "level": "BIGINT"}, key=["id"])
    caller.put_row(table, {"id": 1, "level": 1}, wait=True)
    caller.put_row(table, {"id": 1, "level": 1000}, wait=True)
    assert caller.rows(f"SELECT id FROM {table} WHERE level < 10") == []
    caller.put(table, record({"id": 1}, op="delete"), wait=True)
    assert caller.rows(f"SELECT id FROM {table} WHERE level >= 0") == []


def test_many_writers_of_one_row_end_with_the_last_token(caller: Caller, table: str, live_server: UpServer) -> None:
    caller.create(table, {"id": "BIGINT", "turn": "VARCHAR"}, key=["id"])

    def write(writer: int) -> list[tuple[int, str]]:
        with live_server.caller() as own:
            turns = [f"{writer}-{turn}" for turn in range(20)]
            return [(own.put_row(table, {"id": 1, "turn": turn})["max_visibility_token"], turn) for turn in turns]

    with ThreadPoolExecutor(6) as pool:
        written = [pair for pairs in pool.map(write, range(6)) for pair in pairs]
    token, turn = max(written)
    assert caller.rows(f"SELECT id, turn, _token FROM {table}", min_visibility_token=token) == [[1, turn, token]]


# Several tables.


def test_one_write_of_several_tables_is_visible_in_all_of_them_at_once(
    caller: Caller, table: str, live_server: UpServer
) -> None:
    """While a writer moves money between two tables, every snapshot has the same sum."""
    one, other = f"{table}_a", f"{table}_b"
    for name in (one, other):
        caller.create(name, {"n": "BIGINT", "amount": "BIGINT"})
    done = threading.Event()
    sums: list[list[Any]] = []

    def read() -> None:
        with live_server.caller() as reader:
            while not done.is_set():
                sql = (
                    f"SELECT (SELECT coalesce(sum(amount), 0) FROM {one}) + (SELECT coalesce(sum(amount), 0) FROM "
                    f"{other}), (SELECT count(*) FROM {one}) - (SELECT count(*) FROM {other})"
                )
                sums.extend(reader.rows(sql))

    thread = threading.Thread(target=read)
    thread.start()
    try:
        for number in range(60):
            tables = {
                one: {"records": [record({"n": number, "amount": number})]},
                other: {"records": [record({"n": number, "amount": -number})]},
            }
            receipt = caller.call("POST", "/v1/ingest", {"tables": tables})
        counts = {"accepted_count": 1, "duplicate_count": 0}
        assert receipt["tables"] == {one: counts, other: counts}
        assert receipt["accepted_count"] == 2
        token = receipt["max_visibility_token"]
        joined = f"SELECT count(*), sum(a._token - b._token) FROM {one} a JOIN {other} b USING (n)"
        assert caller.rows(joined, min_visibility_token=token) == [[60, "0"]]
    finally:
        done.set()
        thread.join(30)
    assert {json.dumps(row) for row in sums} == {'["0", 0]'}


def test_one_write_of_several_tables_is_stored_in_all_or_none(caller: Caller, table: str) -> None:
    one, other = f"{table}_a", f"{table}_b"
    for name in (one, other):
        caller.create(name, {"n": "BIGINT"})
    wrong = {one: {"records": [record({"n": 1}, "k1")]}, other: {"records": [record({"n": "x"}, "k2")]}}
    error = caller.refused("POST", "/v1/ingest", {"tables": wrong}, 400, "VALIDATION_FAILED")
    assert error["context"]["table"] == other
    right = {one: {"records": [record({"n": 1}, "k1")]}, other: {"records": [record({"n": 2}, "k2")]}}
    stored = caller.call("POST", "/v1/ingest", {"tables": right, "wait_for_visibility": True})
    assert (stored["accepted_count"], stored["duplicate_count"]) == (2, 0)
    again = caller.call("POST", "/v1/ingest", {"tables": right})
    assert (again["accepted_count"], again["max_visibility_token"]) == (0, stored["max_visibility_token"])
    assert caller.rows(f"SELECT (SELECT count(*) FROM {one}), (SELECT count(*) FROM {other})") == [[1, 1]]


# Schemas.


def test_an_automatic_schema_begins_with_the_first_write_and_grows(caller: Caller, table: str) -> None:
    caller.create(table, {}, schema_mode="auto")
    caller.put(table, record({"id": 1, "name": "a"}), wait=True)
    caller.put(table, record({"id": 2, "score": 1.5, "tags": ["x"]}), wait=True)
    found = caller.query(f"SELECT id, name, score, tags FROM {table} ORDER BY id")
    assert found["rows"] == [[1, "a", None, None], [2, None, 1.5, ["x"]]]
    assert found["column_types"] == ["BIGINT", "VARCHAR", "DOUBLE", "VARCHAR[]"]
    assert caller.call("GET", f"/v1/tables/{table}")["schema_version"] == 3
    body = {"records": [record({"id": "three"})]}
    error = caller.refused("POST", f"/v1/ingest/{table}", body, 400, "VALIDATION_FAILED")
    assert error["context"]["column"] == "id"


def test_writers_that_bring_new_columns_at_once_all_find_theirs(
    caller: Caller, table: str, live_server: UpServer
) -> None:
    caller.create(table, {}, schema_mode="auto")

    def write(number: int) -> int:
        with live_server.caller() as own:
            token: int = own.put_row(table, {"id": number, f"c{number}": number})["max_visibility_token"]
            return token

    with ThreadPoolExecutor(5) as pool:
        token = max(pool.map(write, range(5)))
    sums = ", ".join(f"sum(c{number})" for number in range(5))
    found = caller.rows(f"SELECT count(*), {sums} FROM {table}", min_visibility_token=token)
    assert found == [[5, *(str(number) for number in range(5))]]


def test_a_column_can_be_added_while_writers_write(caller: Caller, table: str, live_server: UpServer) -> None:
    caller.create(table, {"id": "BIGINT"})
    changed = threading.Event()

    def write(writer: int) -> list[int]:
        tokens: list[int] = []
        with live_server.caller() as own:
            turn = 0
            while turn < 15 or not changed.is_set():
                tokens.append(own.put_row(table, {"id": writer * 10_000 + turn})["max_visibility_token"])
                turn += 1
            own.put_row(table, {"id": writer * 10_000 + turn, "note": "new"})
            tokens.append(own.put_row(table, {"id": writer * 10_000 + turn + 1})["max_visibility_token"])
        return tokens

    with ThreadPoolExecutor(4) as pool:
        running = [pool.submit(write, writer) for writer in range(4)]
        try:
            for version in range(3):
                columns = {"id": "BIGINT", "note": {"type": "VARCHAR", "default": "old"}}
                columns |= {f"more{number}": "BIGINT" for number in range(version)}
                info = caller.call("PATCH", f"/v1/tables/{table}", {"schema_json": columns})
                assert info["schema_version"] == version + 2
        finally:
            changed.set()
        tokens = [token for future in running for token in future.result()]
    sql = f"SELECT count(*), count(DISTINCT id), count(*) FILTER (note = 'new'), count(note) FROM {table}"
    rows = len(tokens) + 4
    assert caller.rows(sql, min_visibility_token=max(tokens)) == [[rows, rows, 4, rows]]


def test_a_table_that_was_dropped_and_made_again_shares_nothing(caller: Caller, table: str) -> None:
    caller.create(table, {"id": "BIGINT", "name": "VARCHAR"})
    seen = caller.put(table, record({"id": 1, "name": "old"}, "k1"), wait=True)["visible_snapshot_id"]
    dropped = caller.call("DELETE", f"/v1/tables/{table}")
    caller.refused("POST", "/v1/query", {"sql": f"SELECT * FROM {table}"}, 400, "SQL_INVALID")
    caller.refused("POST", f"/v1/ingest/{table}", {"records": [record({"id": 1})]}, 404, "TABLE_NOT_FOUND")
    made = caller.create(table, {"id": "BIGINT", "other": "DOUBLE"})
    assert made["table_id"] != dropped["table_id"]
    assert caller.rows(f"SELECT count(*) FROM {table}") == [[0]]
    again = caller.put(table, record({"id": 7, "other": 0.5}, "k1"), wait=True)
    assert (again["accepted_count"], again["duplicate_count"]) == (1, 0), "keys belong to the table that had them"
    assert caller.rows(f"SELECT id, other FROM {table}") == [[7, 0.5]]
    assert caller.rows(f"SELECT id, name FROM {table}", snapshot_id=seen) == [[1, "old"]]


def test_names_are_case_insensitive_and_shown_as_they_were_made(caller: Caller, table: str) -> None:
    name = table.title()
    caller.create(name, {"Id": "BIGINT"})
    caller.put_row(name.upper(), {"ID": 1}, wait=True)
    answer = caller.query(f"SELECT iD FROM {name.lower()}")
    assert answer["rows"] == [[1]]
    assert caller.call("GET", f"/v1/tables/{name.lower()}")["table_name"] == name


def test_event_time_and_token_are_shown_last(caller: Caller, table: str) -> None:
    caller.create(table, {"id": "BIGINT"})
    sent = record({"id": 1}) | {"event_time": "2026-01-01T01:00:00+01:00"}
    receipt = caller.put(table, sent, record({"id": 2}), wait=True)
    found = caller.query(f"SELECT * FROM {table} ORDER BY id")
    assert found["columns"] == ["id", "_event_time", "_token"]
    token = receipt["max_visibility_token"]
    assert found["rows"][0] == [1, "2026-01-01T00:00:00Z", token]
    assert found["rows"][1][1] > "2026-01-01T00:00:00Z"
