"""A trace follows a write from its request through the log to the publication that made it visible."""

from collections.abc import Iterator

import msgspec
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import duckmesh
from duckmesh.app.settings import TelemetrySettings
from duckmesh.app.telemetry import tracing

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


@pytest.fixture
def spans() -> Iterator[InMemorySpanExporter]:
    exporter = InMemorySpanExporter()
    tracing.configure(TelemetrySettings(), exporter)
    yield exporter
    tracing.shutdown()


@pytest.mark.asyncio
async def test_the_publication_belongs_to_the_trace_of_the_write(spans: InMemorySpanExporter) -> None:
    body = msgspec.json.encode(
        {"records": [{"idempotency_key": "k", "payload": {"id": 1}}], "wait_for_visibility": True}
    )
    async with duckmesh.open() as mesh:
        await mesh.create_table("t", {"id": "BIGINT"})
        with tracing.span("ingest", CALLER):
            await mesh._ingest.ingest("default", "t", body, tracing.current_traceparent())
    found = {span.name: span for span in spans.get_finished_spans() if span.context is not None}
    trace_id = int(CALLER.split("-")[1], 16)
    assert found["ingest"].context.trace_id == trace_id
    assert found["publish"].context.trace_id == trace_id
    assert found["publish"].parent.span_id == found["ingest"].context.span_id
    assert found["publish"].attributes["watermark"] == 2
