import asyncio
import importlib.util
import json
import re
import subprocess
import sys
import time
import timeit
from collections.abc import Iterator

import pytest
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from duckmesh.app.settings import TelemetrySettings
from duckmesh.app.telemetry import tracing
from duckmesh.domain.errors import ConfigurationError, QueryTimeout

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
CALLER = f"00-{TRACE}-00f067aa0ba902b7-01"


@pytest.fixture(autouse=True)
def tracing_off_again() -> Iterator[None]:
    yield
    tracing.shutdown()


@pytest.fixture
def exported() -> InMemorySpanExporter:
    exporter = InMemorySpanExporter()
    tracing.configure(TelemetrySettings(), exporter)
    return exporter


def named(exporter: InMemorySpanExporter, name: str) -> ReadableSpan:
    (found,) = [span for span in exporter.get_finished_spans() if span.name == name]
    return found


@pytest.mark.parametrize(
    "header",
    [
        "",
        "nonsense",
        f"00-{'0' * 32}-00f067aa0ba902b7-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-00f067aa0ba902b7-01",
        f"00-{TRACE.upper()}-00f067aa0ba902b7-01",
        f"{CALLER}-more",
        f"{CALLER}\n",
        f"01-{TRACE}-00f067aa0ba902b7-01-" + "x" * 1000,
        f"00-{TRACE[:-1]}-00f067aa0ba902b7-01",
    ],
)
def test_an_invalid_traceparent_begins_a_new_trace(header: str) -> None:
    assert tracing.extract({"traceparent": header}) is None
    with tracing.span("request", header) as span:
        assert span.trace_id != TRACE
        assert re.fullmatch("[0-9a-f]{32}", span.trace_id)


def test_a_later_version_of_the_header_is_read_by_its_first_four_parts() -> None:
    context = tracing.parse_traceparent(f"01-{TRACE}-00f067aa0ba902b7-03-what-comes")
    assert context is not None
    assert (context.trace_id, context.sampled) == (TRACE, True)


def test_without_an_exporter_the_callers_trace_is_carried_unchanged() -> None:
    parent = tracing.extract({"traceparent": CALLER})
    with tracing.span("request", parent) as span:
        assert span.trace_id == tracing.current_trace_id() == TRACE
        with tracing.span("inner", rows=3) as inner:
            inner.set(files=1)
            assert tracing.current_traceparent() == CALLER
    assert tracing.current_traceparent() is None


def test_without_an_exporter_a_request_still_gets_a_trace_of_its_own() -> None:
    with tracing.span("request") as span:
        headers: dict[str, str] = {}
        tracing.inject(headers)
        assert tracing.extract(headers) == f"00-{span.trace_id}-{headers['traceparent'][36:52]}-00"
    with tracing.span("request") as other:
        assert other.trace_id != span.trace_id


def test_outside_of_any_span_nothing_is_injected() -> None:
    headers: dict[str, str] = {}
    tracing.inject(headers)
    assert headers == {}


def test_concurrent_tasks_have_their_own_traces() -> None:
    async def serve() -> tuple[str, str | None]:
        with tracing.span("request") as span:
            await asyncio.sleep(0.001)
            return span.trace_id, tracing.current_trace_id()

    async def serve_all() -> list[tuple[str, str | None]]:
        return await asyncio.gather(*(serve() for _ in range(50)))

    seen = asyncio.run(serve_all())
    assert all(own == current for own, current in seen)
    assert len({own for own, _ in seen}) == 50


def test_new_trace_ids_are_valid_and_differ() -> None:
    ids = {tracing.new_trace_id() for _ in range(1000)}
    assert len(ids) == 1000
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)


def test_a_span_without_an_exporter_is_nearly_free_and_loads_no_sdk() -> None:
    def request() -> None:
        with tracing.span("request", CALLER, rows=1):
            pass

    best = min(timeit.repeat(request, number=5000, repeat=7, timer=time.process_time)) / 5000
    assert best < 10e-6, f"{best * 1e6:.1f} µs"  # about 2 µs on an idle core of 2026
    program = "import sys; from duckmesh.app.telemetry import logs, tracing; print('opentelemetry' in sys.modules)"
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert ran.stdout.strip() == "False"


def test_recorded_spans_follow_a_write_from_the_caller_through_the_log_to_the_coordinator(
    exported: InMemorySpanExporter,
) -> None:
    with tracing.span("ingest", CALLER, tenant="acme", nothing=None):
        stored = tracing.current_traceparent()
    with tracing.span("commit", links=[stored or "", "nonsense"]) as commit, tracing.span("upload", stored):
        commit.set(records=3)
    ingest, committed, upload = (named(exported, name) for name in ("ingest", "commit", "upload"))
    assert ingest.context is not None
    assert committed.context is not None
    assert upload.context is not None
    assert f"{ingest.context.trace_id:032x}" == f"{upload.context.trace_id:032x}" == TRACE
    assert f"{committed.context.trace_id:032x}" != TRACE
    assert [link.context.trace_id for link in committed.links] == [ingest.context.trace_id]
    assert upload.parent is not None
    assert upload.parent.span_id == ingest.context.span_id
    assert dict(ingest.attributes or {}) == {"tenant": "acme"}
    assert dict(committed.attributes or {}) == {"records": 3}
    assert ingest.resource.attributes["service.name"] == "duckmesh"


def test_a_caller_that_does_not_sample_is_not_recorded(exported: InMemorySpanExporter) -> None:
    with tracing.span("ingest", f"{CALLER[:-2]}00", rows=1) as span:
        assert span.trace_id == TRACE
    assert exported.get_finished_spans() == ()


def test_an_error_is_noted_by_type_and_code_and_never_by_its_text(exported: InMemorySpanExporter) -> None:
    with pytest.raises(QueryTimeout), tracing.span("query"):
        raise QueryTimeout("SELECT 'my secret'")
    failed = named(exported, "query")
    assert dict(failed.attributes or {}) == {"error.type": "QueryTimeout", "duckmesh.error_code": "QUERY_TIMEOUT"}
    assert not failed.status.is_ok
    assert "secret" not in failed.to_json()


def test_a_cancelled_task_has_not_failed(exported: InMemorySpanExporter) -> None:
    with pytest.raises(asyncio.CancelledError), tracing.span("query"):
        raise asyncio.CancelledError
    assert named(exported, "query").status.is_unset


def test_a_ratio_of_zero_records_nothing_of_our_own() -> None:
    exporter = InMemorySpanExporter()
    tracing.configure(TelemetrySettings(trace_sample_ratio=0.0), exporter)
    with tracing.span("request") as span:
        assert re.fullmatch("[0-9a-f]{32}", span.trace_id)
    assert exporter.get_finished_spans() == ()


def test_the_console_gets_one_line_of_json_for_a_span() -> None:
    program = (
        "from duckmesh.app.settings import TelemetrySettings\n"
        "from duckmesh.app.telemetry import tracing\n"
        "tracing.configure(TelemetrySettings(traces='console'))\n"
        "with tracing.span('request', rows=1): pass\n"
        "tracing.shutdown()\n"
    )
    ran = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert json.loads(ran.stderr)["name"] == "request"
    assert len(ran.stderr.splitlines()) == 1


def test_a_collector_without_the_package_that_speaks_to_it_is_a_configuration_error() -> None:
    if importlib.util.find_spec("opentelemetry.exporter") is not None:
        pytest.skip("an exporter is installed")
    with pytest.raises(ConfigurationError, match="DUCKMESH_TRACES: 'otlp' needs the package"):
        tracing.configure(TelemetrySettings(traces="otlp"))
