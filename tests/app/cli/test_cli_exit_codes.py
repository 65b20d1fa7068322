import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import pytest

from duckmesh.app.cli import exit_codes
from duckmesh.app.cli.exit_codes import ExitCode, of_domain_error, of_status
from duckmesh.domain.errors import ConfigurationError, ConsistencyTimeout, PermissionDenied, TableExists

LAG = "GET /v1/lag"
BODY = {
    "error_code": "SOME_CODE", "message": "it is so", "retryable": False, "context": {"table": "t"}, "trace_id": "x"
}  # fmt: skip


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, ExitCode.REFUSED), (404, ExitCode.REFUSED), (409, ExitCode.REFUSED), (422, ExitCode.REFUSED),
        (401, ExitCode.PERMISSION), (403, ExitCode.PERMISSION),
        (408, ExitCode.TIMEOUT), (504, ExitCode.TIMEOUT),
        (500, ExitCode.SERVER_ERROR), (501, ExitCode.SERVER_ERROR), (503, ExitCode.SERVER_ERROR),
    ],
)  # fmt: skip
def test_a_status_of_the_server_has_its_exit_code(stub: Any, cli: Callable[..., Any], status: int, code: int) -> None:
    stub.answer(LAG, (status, BODY))
    ran = cli("lag")
    assert (ran.code, of_status(status)) == (code, code)
    trace = ", trace_id=x" if code == ExitCode.SERVER_ERROR else ""
    assert ran.err == f"error: SOME_CODE: it is so (table=t{trace})\n"
    assert ran.out == ""


def test_with_json_the_error_on_stderr_is_the_servers_body(stub: Any, cli: Callable[..., Any]) -> None:
    stub.answer(LAG, (409, BODY))
    ran = cli("lag", "--json")
    assert (ran.code, json.loads(ran.err), ran.out) == (1, BODY, "")


def test_a_server_that_is_not_there_is_3(cli: Callable[..., Any]) -> None:
    ran = cli("lag", "--url", "http://127.0.0.1:9", "--json")
    assert ran.code == ExitCode.UNREACHABLE
    assert json.loads(ran.err)["error_code"] == "UNREACHABLE"


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["query"],
        ["query", "SELECT 1", "--no-such-option"],
        ["query", "SELECT 1", "--min-token", "soon"],
        ["query", " ", "--url", "http://127.0.0.1:9"],
        ["query", "SELECT $x", "-p", "x", "--url", "http://127.0.0.1:9"],
        ["lag", "--url", "127.0.0.1:8080"],
        ["ingest", "no-such-file.csv", "-t", "t", "--url", "http://127.0.0.1:9"],
        ["ingest", __file__, "-t", "t", "--url", "http://127.0.0.1:9"],
        ["ingest", "-", "-t", "t", "--url", "http://127.0.0.1:9"],
        ["tables", "create", "t", "--url", "http://127.0.0.1:9"],
        ["tables", "create", "t", "-c", "id", "--url", "http://127.0.0.1:9"],
    ],
)
def test_wrong_usage_is_2_and_one_line_at_most(cli: Callable[..., Any], arguments: list[str]) -> None:
    ran = cli(*arguments)
    assert ran.code == ExitCode.USAGE
    assert ran.err.count("\n") <= 1
    assert ran.err == "" or ran.err.startswith("error: ")
    assert "Traceback" not in ran.err


def test_without_a_server_anywhere_the_line_says_how_to_start_one(
    cli: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    monkeypatch.delenv("DUCKMESH_URL", raising=False)
    ran = cli("lag", "--data-dir", str(tmp_path))
    assert ran.code == ExitCode.USAGE
    assert "duckmesh up" in ran.err


def test_an_answer_that_is_not_json_is_a_failure_of_the_server(stub: Any, cli: Callable[..., Any]) -> None:
    stub.answer(LAG, (200, b"<html>hello</html>"))
    assert cli("lag").code == ExitCode.SERVER_ERROR


def test_an_error_page_of_a_proxy_is_one_line(stub: Any, cli: Callable[..., Any]) -> None:
    stub.answer(LAG, (502, b"<html>\nbad gateway\n</html>"))
    ran = cli("lag")
    assert (ran.code, ran.err.count("\n")) == (ExitCode.SERVER_ERROR, 1)


def test_health_is_0_when_ready_and_6_when_not(stub: Any, cli: Callable[..., Any]) -> None:
    stub.answer("GET /v1/health", (200, {"status": "ok"}))
    stub.answer("GET /v1/ready", (200, {"status": "ready", "checks": {"bus": "ok"}}))
    assert cli("health").code == ExitCode.OK
    stub.answer("GET /v1/ready", (503, {"status": "not_ready", "checks": {"bus": "down"}}))
    ran = cli("health", "--json")
    assert ran.code == ExitCode.SERVER_ERROR
    assert json.loads(ran.err)["context"]["ready"]["checks"] == {"bus": "down"}


def test_errors_of_commands_that_run_the_server_have_exit_codes_too() -> None:
    assert of_domain_error(ConfigurationError("no")) == ExitCode.USAGE
    assert of_domain_error(PermissionDenied("no")) == ExitCode.PERMISSION
    assert of_domain_error(ConsistencyTimeout("no")) == ExitCode.TIMEOUT
    assert of_domain_error(TableExists("no")) == ExitCode.REFUSED


def test_every_exit_code_is_explained_in_the_help(cli: Callable[..., Any]) -> None:
    ran = cli("--help")
    text = " ".join(ran.out.split())
    assert ran.code == ExitCode.OK
    assert set(exit_codes.MEANINGS) == set(ExitCode)
    for code, meaning in exit_codes.MEANINGS.items():
        assert f"{code.value} {meaning}" in text


def test_the_version_is_printed(cli: Callable[..., Any]) -> None:
    ran = cli("--version")
    assert (ran.code, ran.out.startswith("duckmesh ")) == (0, True)


def test_help_imports_nothing_heavy() -> None:
    script = (
        "import sys\n"
        "from duckmesh.app.cli.main import run\n"
        "run(['--help'])\n"
        "heavy = {'pyarrow', 'httpx', 'duckdb', 'litestar', 'asyncpg', 'pandas', 'uvicorn'} & set(sys.modules)\n"
        "sys.exit(f'imported: {heavy}' if heavy else 0)\n"
    )
    started = time.monotonic()
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 3  # a bound for a busy machine; alone it takes about a quarter of a second


def test_python_m_duckmesh_is_the_command_and_carries_the_exit_code() -> None:
    command = [sys.executable, "-m", "duckmesh", "lag", "--url", "http://127.0.0.1:9"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == ExitCode.UNREACHABLE
    assert done.stderr.startswith("error: UNREACHABLE")
