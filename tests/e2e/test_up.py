"""`duckmesh up` as its user sees it: how it starts, what it leaves, and what becomes of it when parts die."""

import json
import os
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import httpx
import pytest
from caller import Caller, new_name
from planes import (
    STOP_S,
    UpServer,
    clean_environment,
    family,
    kill_all,
    open_folder,
    run_up,
    start_up,
    still_running,
    until,
)

GONE_S = 45.0


@pytest.fixture(scope="module")
def home() -> Iterator[Path]:
    """A data directory that the tests of this file start one after the other; the first start makes it."""
    with open_folder() as folder:
        yield folder / "data"


@pytest.fixture
def server(home: Path) -> Iterator[UpServer]:
    """A server in the shared directory, ended whatever the test did to it."""
    server = start_up(home, "--auth", "on")
    members = family(server.pid)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            members |= family(server.pid)
            server.stop()
        else:
            kill_all(members)
        assert "Traceback" not in server.text, server.text[-6000:]


def until_gone(members: dict[int, str], seconds: float = GONE_S) -> None:
    try:
        until(lambda: not still_running(members), seconds, "all end")
    except AssertionError:
        raise AssertionError(f"after {seconds} s these are left: {still_running(members)}") from None


def write_until_accepted(caller: Caller, table: str, number: int) -> None:
    for _ in caller.again(60):
        body = {"records": [{"idempotency_key": f"k{number}", "payload": {"n": number}}]}
        try:
            answer = caller.http.post(f"/v1/ingest/{table}", json=body)
        except httpx.TransportError:
            continue
        if answer.status_code == 200:
            return
        assert answer.status_code in {429, 503}, answer.text


def refusal(*arguments: str, **environment: str) -> str:
    """The one line with which `duckmesh up` refuses to start."""
    ran = subprocess.run(
        [sys.executable, "-m", "duckmesh", "up", *arguments],
        capture_output=True, text=True, check=False, timeout=120, env=clean_environment(**environment),
    )  # fmt: skip
    assert ran.returncode == 2, (ran.returncode, ran.stderr)
    assert ran.stdout == ""
    lines = ran.stderr.splitlines()
    assert len(lines) == 1, ran.stderr
    assert lines[0].startswith("error: ")
    return lines[0]


def test_the_first_start_makes_a_tenant_and_a_key_that_only_its_owner_reads(home: Path) -> None:
    assert not home.exists()
    server = start_up(home, "--auth", "on")
    members = family(server.pid)
    try:
        for words in (server.url, str(home), "admin.key", "/v1/docs", "try"):
            assert words in server.text
        key_file = home / "admin.key"
        assert stat.S_IMODE(key_file.stat().st_mode) == 0o600
        assert stat.S_IMODE((home / "postgres.dsn").stat().st_mode) == 0o600
        with server.caller() as caller:
            assert caller.call("GET", "/v1/ready")["status"] == "ready"
            keys = caller.call("GET", "/v1/keys")["keys"]
            assert [sorted(key["roles"]) for key in keys] == [
                ["ingest_writer", "ops_admin", "query_reader", "table_admin"]
            ]
            caller.create("kept", {"n": "BIGINT"})
            caller.put_row("kept", {"n": 1}, wait=True)
        assert set(server.children()) == {"api", "coordinator", "postgres"}
    finally:
        status = server.stop(signal.SIGINT)
    assert status == 0
    assert still_running(members) == {}
    assert not (home / "server.json").exists()
    assert not (home / "postgres.dsn").exists()
    assert "Traceback" not in server.text


def test_a_later_start_has_everything_and_sigterm_stops_it_too(server: UpServer, home: Path) -> None:
    key = (home / "admin.key").read_text()
    with server.caller() as caller:
        assert caller.rows("SELECT n FROM kept") == [[1]]
        assert len(caller.call("GET", "/v1/keys")["keys"]) == 1
        assert caller.put_row("kept", {"n": 2}, wait=True)["status"] == "visible"
    members = family(server.pid)
    assert len(members) >= 4
    assert server.stop(signal.SIGTERM) == 0
    assert still_running(members) == {}
    assert (home / "admin.key").read_text() == key
    with closing(socket.socket()) as probe:  # nobody listens
        assert probe.connect_ex(("127.0.0.1", int(server.url.rpartition(":")[2]))) != 0


def test_after_everything_was_killed_the_next_start_has_every_acknowledged_write(server: UpServer, home: Path) -> None:
    table = new_name()
    with server.caller() as caller:
        caller.create(table, {"n": "BIGINT"})
        for number in range(50):
            caller.put_row(table, {"n": number}, key=f"k{number}")
        members = family(server.pid)
        kill_all(members)
    server.process.wait()
    until_gone(members)
    again = start_up(home, "--auth", "on")
    try:
        with again.caller() as caller:
            receipt = caller.put_row(table, {"n": 49}, key="k49", wait=True)
            assert receipt["duplicate_count"] == 1
            assert caller.rows(f"SELECT count(*), count(DISTINCT n), max(n) FROM {table}") == [[50, 50, 49]]
            assert caller.put_row(table, {"n": 50}, wait=True)["accepted_count"] == 1
    finally:
        again.stop()


def test_when_only_the_supervisor_is_killed_nothing_is_left_running(server: UpServer) -> None:
    members = family(server.pid)
    server.kill()
    until_gone(members)


@pytest.mark.timeout(300)
def test_each_part_that_is_killed_is_started_again_and_nothing_is_lost(server: UpServer) -> None:
    table = new_name()
    with server.caller() as caller:
        caller.create(table, {"n": "BIGINT"})
        for number, part in enumerate(("api", "coordinator", "postgres")):
            caller.put_row(table, {"n": number}, key=f"k{number}")
            killed = server.children()[part]
            os.kill(killed, signal.SIGKILL)
            write_until_accepted(caller, table, 100 + number)
            until(lambda part=part, killed=killed: server.children().get(part, killed) != killed, 60, f"{part} is back")
        caller.until_rows(f"SELECT n FROM {table} ORDER BY n", [[0], [1], [2], [100], [101], [102]], 60)
        assert caller.call("GET", "/v1/ready")["status"] == "ready"


def test_a_second_server_in_the_same_directory_is_refused_and_the_first_goes_on(server: UpServer, home: Path) -> None:
    line = refusal("--data-dir", str(home), "--port", "0")
    assert "Another DuckMesh process" in line
    assert (home / "server.json").exists()
    with server.caller() as caller:
        assert caller.rows("SELECT 1") == [[1]]


def test_a_port_that_is_taken_is_named(home: Path) -> None:
    with closing(socket.create_server(("127.0.0.1", 0))) as taken:
        port = taken.getsockname()[1]
        assert f"127.0.0.1:{port}" in refusal("--data-dir", str(home), "--port", str(port))


def test_an_address_of_another_machine_is_refused(home: Path) -> None:
    assert "192.0.2.1" in refusal("--data-dir", str(home), "--port", "0", "--host", "192.0.2.1", "--auth", "on")


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1"])
def test_no_authentication_on_a_network_is_refused(home: Path, host: str) -> None:
    line = refusal("--data-dir", str(home), "--port", "0", "--auth", "off", "--host", host)
    assert "auth" in line.lower()


@pytest.mark.parametrize(
    ("arguments", "environment", "words"),
    [
        (["--port", "70000"], {}, "PORT"),
        (["--auth", "maybe"], {}, "AUTH"),
        ([], {"DUCKMESH_FLUSH_INTERVAL_MS": "soon"}, "DUCKMESH_FLUSH_INTERVAL_MS"),
        ([], {"DUCKMESH_FLUSH_INTERVALL_MS": "7"}, "DUCKMESH_FLUSH_INTERVALL_MS"),
        ([], {"DUCKMESH_CRASH_AT": "nowhere"}, "DUCKMESH_CRASH_AT"),
        (["--config", "/no/such/file.toml"], {}, "/no/such/file.toml"),
    ],
)
def test_a_wrong_setting_is_named(home: Path, arguments: list[str], environment: dict[str, str], words: str) -> None:
    assert words in refusal("--data-dir", str(home), *arguments, **environment)


def test_a_data_directory_that_is_a_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    assert str(file) in refusal("--data-dir", str(file), "--port", "0")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as somebody else")
def test_root_is_told_when_the_unprivileged_user_cannot_reach_the_directory() -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as private:  # 0700
        line = refusal("--data-dir", f"{private}/data", "--port", "0")
    assert private in line


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert str(tmp_path) in refusal("--data-dir", str(tmp_path / "data"), "--port", "0")


def test_a_server_that_is_stopped_while_it_starts_leaves_nothing() -> None:
    with open_folder() as folder:
        server = run_up(folder / "data", "--port", "0", "--auth", "off")
        until(lambda: len(family(server.pid)) > 1, 60, "it has children", server.log)
        members = family(server.pid)
        server.process.send_signal(signal.SIGTERM)
        server.process.wait(STOP_S + 30)
        until_gone(members)
        assert "Traceback" not in server.text, server.text


# Without authentication.


def ask(server: UpServer, path: str = "/v1/query", **headers: str) -> tuple[int, Any]:
    """A request with these headers as they are; status and body."""
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(
        server.url + path, b'{"sql": "SELECT 42"}', {"content-type": "application/json"} | sent
    )
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        with error:
            return error.code, json.load(error)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "localhost:8080", "[::1]:8080", "LOCALHOST"])
def test_this_machines_names_are_answered_without_a_key(open_server: UpServer, host: str) -> None:
    assert ask(open_server, host=host)[0] == 200


@pytest.mark.parametrize("host", ["evil.example", "evil.example:80", "127.0.0.1.evil.example", "localhost.", "["])
def test_other_host_names_are_refused_without_authentication(open_server: UpServer, host: str) -> None:
    status, body = ask(open_server, host=host)
    assert (status, body["error_code"]) == (403, "PERMISSION_DENIED")


@pytest.mark.parametrize(
    ("origin", "status"),
    [
        ("http://localhost:3000", 200),
        ("http://127.0.0.1", 200),
        ("https://evil.example", 403),
        ("null", 403),
        ("http://[", 403),
        ("", 403),
    ],
)
def test_pages_of_other_origins_are_refused_without_authentication(
    open_server: UpServer, origin: str, status: int
) -> None:
    assert ask(open_server, origin=origin)[0] == status


def test_the_tenant_header_chooses_the_tenant_without_authentication(open_server: UpServer) -> None:
    one, other = new_name("tenant"), new_name("tenant")
    with open_server.caller(one) as caller:
        caller.create("secrets", {"n": "BIGINT"})
        caller.put_row("secrets", {"n": 1}, wait=True)
    with open_server.caller(other) as caller:
        caller.refused("POST", "/v1/query", {"sql": "SELECT * FROM secrets"}, 400, "SQL_INVALID")
        assert caller.call("GET", "/v1/tables")["tables"] == []
    for wrong in ("Upper", "a b", "", "../x", "x" * 64):
        status, body = ask(open_server, x_tenant_id=wrong)
        assert (status, body["error_code"]) == (400, "INVALID_NAME")


def test_a_tenant_header_that_disagrees_with_the_key_is_refused(live_server: UpServer) -> None:
    key = f"Bearer {live_server.api_key}"
    assert ask(live_server, authorization=key, x_tenant_id="default")[0] == 200
    status, body = ask(live_server, authorization=key, x_tenant_id="other")
    assert (status, body["error_code"]) == (403, "PERMISSION_DENIED")
