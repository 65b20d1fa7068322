"""The command line against a real server: the fixture ``live_server`` has its url, data_dir and api_key."""

import csv
import datetime as dt
import decimal
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from attrs import frozen
from pyarrow import parquet


@frozen
class Ran:
    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Ran]


def execute(*arguments: str, stdin: str | None = None, **environment: str) -> Ran:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("DUCKMESH_")}
    command = [sys.executable, "-m", "duckmesh", *arguments]
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, check=False, env=clean | environment, timeout=120
    )
    return Ran(done.returncode, done.stdout, done.stderr)


@pytest.fixture
def cli(live_server: Any) -> Cli:
    def run(*arguments: str, stdin: str | None = None) -> Ran:
        return execute(*arguments, stdin=stdin, DUCKMESH_DATA_DIR=str(live_server.data_dir))

    return run


@pytest.fixture
def table() -> str:
    return f"t_{uuid.uuid4().hex[:12]}"


@pytest.fixture
def people(tmp_path: Path) -> Path:
    file = tmp_path / "people.csv"
    rows = [f"{n},{'' if n % 7 == 0 else f'name {n}'},{n}.25,2026-01-01T00:00:{n % 60:02d}Z" for n in range(1000)]
    file.write_text("id,name,amount,at\n" + "\n".join(rows) + "\n")
    return file


def test_the_data_directory_alone_is_enough_to_find_the_server(cli: Cli) -> None:
    ran = cli("health", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["ready"]["status"] == "ready"


def test_url_and_key_are_enough_too(live_server: Any) -> None:
    key = {"DUCKMESH_API_KEY": live_server.api_key} if live_server.api_key else {}
    assert execute("lag", "--json", DUCKMESH_URL=live_server.url, **key).code == 0


def test_a_wrong_key_is_5(live_server: Any) -> None:
    if not live_server.api_key:
        pytest.skip("this server asks for no key")
    ran = execute("lag", "--url", live_server.url, DUCKMESH_API_KEY="dm_live_wrong")
    assert (ran.code, ran.err.count("\n")) == (5, 1)


def test_a_file_is_loaded_waited_for_and_queried(cli: Cli, table: str, people: Path) -> None:
    loaded = cli("ingest", str(people), "-t", table, "--create", "--wait", "--batch-rows", "300", "--json")
    assert loaded.code == 0, loaded.err
    summary = loaded.json
    assert (summary["accepted_count"], summary["duplicate_count"], summary["visible"]) == (1000, 0, True)
    counted = cli("query", f"SELECT count(*), count(name), sum(amount) FROM {table}", "--json")
    assert counted.json["rows"] == [[1000, 857, 499750.0]]
    assert counted.json["column_types"] == ["BIGINT", "BIGINT", "DOUBLE"]


def test_the_same_file_again_is_known_already(cli: Cli, table: str, people: Path) -> None:
    load = ["ingest", str(people), "-t", table, "--batch-rows", "300", "--wait", "--json"]
    assert cli(*load, "--create").json["accepted_count"] == 1000
    again = cli(*load).json
    assert (again["accepted_count"], again["duplicate_count"]) == (0, 1000)
    assert cli(*load, "--run", "second").json["accepted_count"] == 1000
    assert cli("query", f"SELECT count(*) FROM {table}", "--json").json["rows"] == [[2000]]


@pytest.mark.parametrize("kind", ["UUID", "DECIMAL(12,2)", "DATE", "TIME", "INTEGER[]", "BLOB", "JSON", "HUGE"])
def test_parquet_columns_arrive_unchanged(cli: Cli, table: str, tmp_path: Path, kind: str) -> None:
    columns: dict[str, tuple[Any, Any, str]] = {
        "UUID": (uuid.UUID(int=7).bytes, pa.uuid(), f"v = UUID '{uuid.UUID(int=7)}'"),
        "DECIMAL(12,2)": (decimal.Decimal("12.34"), pa.decimal128(12, 2), "v = 12.34"),
        "DATE": (dt.date(2026, 1, 2), pa.date32(), "v = DATE '2026-01-02'"),
        "TIME": (dt.time(1, 2, 3), pa.time64("us"), "v = TIME '01:02:03'"),
        "INTEGER[]": ([1, None, 3], pa.list_(pa.int32()), "v = [1, NULL, 3]"),
        "BLOB": (b"\x00\xff", pa.binary(), "v = from_hex('00ff')"),
        "JSON": ('{"a": 1}', pa.json_(), "v->>'a' = '1'"),
        "HUGE": (2**64 - 1, pa.uint64(), "v = 18446744073709551615"),
    }
    value, arrow, condition = columns[kind]
    file = tmp_path / "file.parquet"
    array = pa.array([value, None], arrow) if kind != "UUID" else pa.array([value, None], pa.uuid())
    parquet.write_table(pa.table({"n": [1, 2], "v": array}), file)
    loaded = cli("ingest", str(file), "-t", table, "--create", "--wait")
    assert loaded.code == 0, loaded.err
    sql = f"SELECT count(*) FILTER ({condition}), count(*) FILTER (v IS NULL) FROM {table}"
    found = cli("query", sql, "--json")
    assert found.code == 0, found.err
    assert found.json["rows"] == [[1, 1]]


def test_ndjson_from_a_pipe_keeps_its_numbers(cli: Cli, table: str) -> None:
    assert cli("tables", "create", table, "-c", "id BIGINT", "-c", "amount DECIMAL(38,20)").code == 0
    lines = '{"id": 9007199254740993, "amount": "1.00000000000000000001"}\n{"id": 2}\n'
    assert cli("ingest", "-", "-t", table, "--format", "ndjson", "--wait", stdin=lines).code == 0
    rows = cli("query", f"SELECT id, amount FROM {table} ORDER BY id DESC", "--json").json["rows"]
    assert rows == [[9007199254740993, "1.00000000000000000001"], [2, None]]


def test_a_token_makes_a_query_see_the_write_that_was_just_made(cli: Cli, table: str) -> None:
    assert cli("tables", "create", table, "-c", "id BIGINT", "-k", "id").code == 0
    for number in range(3):
        receipt = cli("ingest", "-", "-t", table, "-f", "ndjson", "--json", stdin=json.dumps({"id": number})).json
        token = str(receipt["max_visibility_token"])
        seen = cli("query", f"SELECT count(*) FROM {table}", "--min-token", token, "--json")
        assert seen.json["rows"] == [[number + 1]]


def test_upserts_replace_and_deletes_remove(cli: Cli, table: str) -> None:
    assert cli("tables", "create", table, "-c", "id BIGINT", "-c", "name VARCHAR", "-k", "id").code == 0
    ingest = ["ingest", "-", "-t", table, "--wait", "-f"]
    assert cli(*ingest, "csv", stdin="id,name\n1,a\n2,b\n").code == 0
    assert cli(*ingest, "csv", "--op", "upsert", stdin="id,name\n1,c\n").code == 0
    deleted = cli(*ingest, "csv", "--op", "delete", stdin="id\n2\n")
    assert deleted.code == 0, deleted.err
    assert cli("query", f"SELECT * FROM {table}", "--json").json["rows"][0][:2] == [1, "c"]


def test_a_key_column_recognises_a_record_sent_by_another_file(cli: Cli, table: str) -> None:
    assert cli("tables", "create", table, "-c", "id BIGINT").code == 0
    ingest = ["ingest", "-", "-t", table, "-f", "ndjson", "--key-column", "event", "--json"]
    cli(*ingest, stdin='{"event": "a", "id": 1}\n')
    second = cli(*ingest, stdin='{"event": "b", "id": 2}\n{"event": "a", "id": 1}\n').json
    assert (second["accepted_count"], second["duplicate_count"]) == (1, 1)
    conflict = cli(*ingest, stdin='{"event": "a", "id": 3}\n')
    assert conflict.code == 1
    assert json.loads(conflict.err)["error_code"] == "IDEMPOTENCY_CONFLICT"


def test_an_old_snapshot_still_says_what_it_said(cli: Cli, table: str) -> None:
    assert cli("tables", "create", table, "-c", "id BIGINT").code == 0
    ingest = ["ingest", "-", "-t", table, "-f", "csv", "--wait", "--json"]
    before = cli(*ingest, stdin="id\n1\n").json["visible_snapshot_id"]
    cli(*ingest, stdin="id\n2\n")
    count = ["query", f"SELECT count(*) FROM {table}", "--json"]
    assert cli(*count, "--snapshot", str(before)).json["rows"] == [[1]]
    assert cli(*count).json["rows"] == [[2]]
    listed = cli("snapshots", "list", "--json").json["snapshots"]
    assert before in [entry["snapshot_id"] for entry in listed]
    shown = cli("snapshots", "show", str(before), "--json").json
    assert table in shown["tables"]


def test_rows_are_printed_in_every_format(cli: Cli) -> None:
    sql = "SELECT 1 AS a, NULL::VARCHAR AS b"
    assert list(csv.reader(cli("query", sql, "--format", "csv").out.splitlines())) == [["a", "b"], ["1", ""]]
    assert json.loads(cli("query", sql, "--format", "ndjson").out) == {"a": 1, "b": None}
    shown = cli("query", sql, "--format", "table").out
    assert "VARCHAR" in shown
    assert "NULL" in shown


def test_parameters_reach_the_query(cli: Cli) -> None:
    ran = cli("query", "SELECT $n + 1 AS n, $s AS s", "-p", "n=41", "-p", "s=JFK", "--json")
    assert ran.code == 0, ran.err
    assert ran.json["rows"] == [[42, "JFK"]]


def test_sql_comes_from_stdin_too(cli: Cli) -> None:
    assert cli("query", "-", "--json", stdin="SELECT 42").json["rows"] == [[42]]


@pytest.mark.parametrize(
    ("arguments", "code", "error"),
    [
        (["query", "SELEC 1"], 1, "SQL_INVALID"),
        (["query", "SELECT 1", "--snapshot", "999999999"], 1, "SNAPSHOT_NOT_FOUND"),
        (["query", "SELECT 1", "--min-token", "999999999"], 1, "VISIBILITY_TOKEN_INVALID"),
        (["query", "SELECT 1", "--min-token", "1", "--snapshot", "1"], 1, "INVALID_REQUEST"),
        (["tables", "show", "no_such_table"], 1, "TABLE_NOT_FOUND"),
        (["tables", "create", "x", "-c", "a NO_SUCH_TYPE"], 1, "INVALID_SCHEMA"),
    ],
)
def test_what_the_server_refuses_is_one_line_with_its_code(
    cli: Cli, arguments: list[str], code: int, error: str
) -> None:
    ran = cli(*arguments)
    assert ran.code == code
    assert ran.err.startswith(f"error: {error}: ")
    assert ran.err.count("\n") == 1
    assert json.loads(cli(*arguments, "--json").err)["error_code"] == error


def test_a_query_that_takes_too_long_is_4(cli: Cli) -> None:
    ran = cli("query", "SELECT count(*) FROM range(1000000) a, range(1000000) b", "--timeout-ms", "300")
    assert (ran.code, "QUERY_TIMEOUT" in ran.err) == (4, True)


def test_rows_that_do_not_fit_are_refused_by_name(cli: Cli, table: str) -> None:
    assert cli("tables", "create", table, "-c", "id TINYINT", "-c", "name VARCHAR NOT NULL").code == 0
    overflow = cli("ingest", "-", "-t", table, "-f", "ndjson", stdin='{"id": 1000, "name": "a"}\n')
    assert (overflow.code, "id" in overflow.err, overflow.err.count("\n")) == (1, True, 1)
    missing = cli("ingest", "-", "-t", table, "-f", "csv", stdin="id\n1\n")
    assert (missing.code, "name" in missing.err) == (1, True)
    assert cli("query", f"SELECT count(*) FROM {table}", "--json").json["rows"] == [[0]]


def test_tables_are_created_shown_listed_and_dropped(cli: Cli, table: str) -> None:
    assert cli("tables", "create", table, "-c", "id BIGINT", "-c", "v DOUBLE", "-k", "id").code == 0
    assert cli("tables", "create", table, "-c", "id BIGINT").code == 1
    shown = cli("tables", "show", table, "--json").json
    assert list(shown["schema_json"]) == ["id", "v"]
    assert shown["primary_key_cols"] == ["id"]
    assert table in cli("tables", "list").out
    assert cli("tables", "drop", table, "--yes").code == 0
    assert cli("tables", "show", table).code == 1


def test_lag_is_zero_when_everything_is_visible(cli: Cli, table: str, people: Path) -> None:
    assert cli("ingest", str(people), "-t", table, "--create", "--wait").code == 0
    assert cli("lag", "--json").json["pending_events"] == 0
    assert "pending events" in cli("lag").out


@pytest.fixture
def folder() -> Iterator[Path]:
    """A new folder that an unprivileged user can enter, as PostgreSQL is one when the tests run as root."""
    parent = Path(tempfile.mkdtemp(dir="/tmp"))
    parent.chmod(0o755)
    yield parent / "demo"
    shutil.rmtree(parent)


def demo_leftovers() -> set[str]:
    listed = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    folders = {str(path) for path in Path("/tmp").glob("duckmesh-demo-*")}
    return folders | {line for line in listed.splitlines() if "duckmesh-demo-" in line}


def test_the_demo_shows_everything_and_leaves_nothing() -> None:
    before = demo_leftovers()
    ran = execute("demo", "--rows", "20000")
    assert ran.code == 0, ran.err
    for text in ("Reading your own writes", "20 of 20", "Time travel", "by airline", "Measured", "removed"):
        assert text in ran.out
    assert demo_leftovers() <= before


def test_the_demo_measures_for_programs(folder: Path) -> None:
    ran = execute("demo", "--rows", "1000", "--json", "--data-dir", str(folder))
    assert ran.code == 0, ran.err
    assert ran.json["strict_reads_that_saw_their_write"] == "20/20"
    assert ran.json["records"] > 1000
    assert not folder.exists()


def test_a_demo_that_is_kept_can_be_started_again(folder: Path) -> None:
    ran = execute("demo", "--rows", "1000", "--keep", "--data-dir", str(folder))
    assert ran.code == 0, ran.err
    [start] = [line.split() for line in ran.out.splitlines() if line.strip().startswith("duckmesh up")]
    with subprocess.Popen(
        [sys.executable, "-m", *start], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as server:
        try:
            counted = until_answered("query", "SELECT count(*) FROM planes", "--json", "--data-dir", start[3])
            assert counted.json["rows"] == [[3322]]
        finally:
            server.send_signal(signal.SIGTERM)
            assert server.wait(30) is not None


def until_answered(*arguments: str) -> Ran:
    deadline = time.monotonic() + 60
    while True:
        ran = execute(*arguments)
        if ran.code == 0 or time.monotonic() > deadline:
            assert ran.code == 0, ran.err
            return ran
        time.sleep(0.2)


@pytest.mark.parametrize("seconds", [1.0, 3.0, 6.0])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_interrupted_leaves_nothing(seconds: float, number: signal.Signals) -> None:
    before = demo_leftovers()
    with subprocess.Popen(
        [sys.executable, "-m", "duckmesh", "demo"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as demo:
        time.sleep(seconds)
        demo.send_signal(number)
        _, err = demo.communicate(timeout=40)
    assert demo.returncode == 130, err
    assert "Traceback" not in err
    assert demo_leftovers() <= before


def test_a_demo_refuses_a_folder_that_holds_something(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    ran = execute("demo", "--data-dir", str(tmp_path))
    assert (ran.code, "not empty" in ran.err) == (2, True)
    assert (tmp_path / "file").read_text() == "precious"
