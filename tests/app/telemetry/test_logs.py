import asyncio
import io
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import structlog

from duckmesh.app.settings import Settings, TelemetrySettings, load_settings
from duckmesh.app.telemetry import logs, tracing
from duckmesh.domain.errors import OutcomeUnknown, QueryTimeout

FIXED = ["timestamp", "level", "service", "event", "tenant_id", "trace_id", "error_code"]


@pytest.fixture(autouse=True)
def logging_restored() -> Iterator[None]:
    root = logging.getLogger()
    before = root.handlers[:], root.level
    yield
    root.handlers[:], level = before
    root.setLevel(level)
    logging.captureWarnings(capture=False)
    structlog.reset_defaults()


def fail(text: str, cause: Exception | None = None) -> None:
    raise RuntimeError(text) from cause


class Lines:
    """What was logged, as parsed JSON."""

    def __init__(self, settings: Settings | None = None) -> None:
        self.stream = io.StringIO()
        logs.configure(settings or Settings(telemetry=TelemetrySettings(log_format="json")), self.stream)

    def all(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.stream.getvalue().splitlines()]

    def one(self) -> dict[str, Any]:
        (line,) = self.all()
        return line


def test_every_line_begins_with_the_fixed_fields() -> None:
    lines = Lines()
    logs.get_logger("duckmesh.test").info("snapshot_published", snapshot_id=7)
    line = lines.one()
    assert list(line)[: len(FIXED)] == FIXED
    assert line | {"timestamp": ""} == {
        "timestamp": "",
        "level": "info",
        "service": "duckmesh",
        "event": "snapshot_published",
        "tenant_id": None,
        "trace_id": None,
        "error_code": None,
        "snapshot_id": 7,
        "logger": "duckmesh.test",
    }
    assert line["timestamp"].endswith("Z")
    assert abs((datetime.now(UTC) - datetime.fromisoformat(line["timestamp"])).total_seconds()) < 10


def test_tenant_and_trace_are_those_of_the_running_task() -> None:
    lines = Lines()
    log = logs.get_logger("x")

    async def serve(tenant: str, trace: str) -> None:
        with tracing.span("request", f"00-{trace}-{'b' * 16}-01"), logs.bound(tenant_id=tenant):
            await asyncio.sleep(0.001)
            log.info("served")

    async def serve_all() -> None:
        await asyncio.gather(*(serve(f"tenant{n}", f"{n + 1:032x}") for n in range(20)))

    asyncio.run(serve_all())
    seen = {(line["tenant_id"], line["trace_id"]) for line in lines.all()}
    assert seen == {(f"tenant{n}", f"{n + 1:032x}") for n in range(20)}


def test_the_code_of_a_logged_error_is_shown_and_found_behind_another() -> None:
    lines = Lines()
    log = logs.get_logger("x")
    log.error("stopped", error=QueryTimeout("slow"))
    try:
        fail("publish failed", OutcomeUnknown("connection lost"))
    except RuntimeError:
        log.exception("failed")
    log.error("given", error_code="MINE")
    assert [line["error_code"] for line in lines.all()] == ["QUERY_TIMEOUT", "OUTCOME_UNKNOWN", "MINE"]
    assert "publish failed" in lines.all()[1]["exception"]


def test_the_standard_library_goes_the_same_way_with_its_extra_fields() -> None:
    lines = Lines()
    with logs.bound(tenant_id="acme"):
        logging.getLogger("asyncpg.pool").warning("lost %d connections", 3, extra={"pool": "catalog"})
    line = lines.one()
    assert list(line)[: len(FIXED)] == FIXED
    assert (line["event"], line["level"], line["tenant_id"]) == ("lost 3 connections", "warning", "acme")
    assert (line["logger"], line["pool"]) == ("asyncpg.pool", "catalog")


def test_libraries_lose_their_own_handlers() -> None:
    library = logging.getLogger("uvicorn.error")
    library.addHandler(logging.NullHandler())
    library.propagate = False
    lines = Lines()
    library.info("Started server process")
    assert lines.one()["event"] == "Started server process"


def test_news_of_every_request_are_for_debugging() -> None:
    lines = Lines()
    logging.getLogger("uvicorn.access").info("GET /v1/health")
    logging.getLogger("httpx").info("HTTP Request")
    assert not lines.all()


def test_lines_below_the_level_are_dropped() -> None:
    lines = Lines(Settings(telemetry=TelemetrySettings(log_format="json", log_level="warning")))
    logs.get_logger("x").info("quiet")
    logging.getLogger("x").info("quiet")
    logs.get_logger("x").warning("loud")
    assert lines.one()["event"] == "loud"


def test_secrets_are_masked_in_events_fields_tracebacks_and_lines_of_libraries() -> None:
    lines = Lines(
        load_settings(env={"DUCKMESH_LOG_FORMAT": "json", "DUCKMESH_POSTGRES_DSN": "postgresql://u:s3cr3t@h/db"})
    )
    log = logs.get_logger("x")
    log.info("using s3cr3t", password="s3cr3t", nested={"dsn": "postgresql://x:s3cr3t@h"}, error=OSError("s3cr3t"))
    logging.getLogger("alembic").warning("cannot use %s", "postgresql://u:other-pw@h/db")
    try:
        fail("no way with s3cr3t")
    except RuntimeError:
        log.exception("failed")
    text = lines.stream.getvalue()
    assert len(lines.all()) == 3
    assert "s3cr3t" not in text
    assert "other-pw" not in text


def test_whatever_is_logged_becomes_one_line_of_json() -> None:
    lines = Lines()
    logs.get_logger("x").info(
        "odd\nline", surrogate="\ud800", big=2**70, infinite=float("inf"), keys={(1, 2): 3}, data={1, 2}
    )
    line = lines.one()
    assert line["event"] == "odd\nline"
    assert line["big"] == 2**70
    assert sorted(line["data"]) == [1, 2]


def test_warnings_of_python_are_lines_too() -> None:
    lines = Lines()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("old call", DeprecationWarning, stacklevel=1)
        logging.captureWarnings(capture=False)
    assert "old call" in lines.one()["event"]


def test_configuring_again_replaces_the_destination() -> None:
    first, second = Lines(), Lines()
    logs.get_logger("x").info("once")
    assert not first.all()
    assert second.one()["event"] == "once"


def test_the_console_shows_text_for_people_without_empty_fields() -> None:
    stream = io.StringIO()
    logs.configure(Settings(telemetry=TelemetrySettings(log_format="console")), stream)
    logs.get_logger("x").info("ready", port=8080, dsn="postgresql://u:pw@h")
    text = stream.getvalue()
    assert "ready" in text
    assert "port=8080" in text
    assert "tenant_id" not in text
    assert "u:pw" not in text


def test_logs_go_to_standard_error() -> None:
    program = (
        "from duckmesh.app.settings import Settings, TelemetrySettings\n"
        "from duckmesh.app.telemetry import logs\n"
        "logs.configure(Settings(telemetry=TelemetrySettings(log_format='json')))\n"
        "logs.get_logger('x').info('hello')\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert not ran.stdout
    assert json.loads(ran.stderr)["event"] == "hello"
