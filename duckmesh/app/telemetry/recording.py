"""Spans that are recorded: OpenTelemetry's SDK behind the spans of `duckmesh.app.telemetry.tracing`.

This module is imported only when spans go somewhere.
"""

import importlib
import sys
from collections.abc import Iterable, Mapping
from contextvars import Token
from types import TracebackType
from typing import Any, Final, Self

from opentelemetry import context, trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    ConsoleSpanExporter,
    SimpleSpanProcessor,
    SpanExporter,
)
from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio

from duckmesh.app.settings import TelemetrySettings
from duckmesh.app.telemetry.tracing import Attribute, TraceContext, current, parse_traceparent
from duckmesh.domain.errors import ConfigurationError, DuckMeshError

_OTLP_MODULE: Final = "opentelemetry.exporter.otlp.proto.http.trace_exporter"


class Recorder:
    """Records spans, in a provider of its own, so that nothing global is taken from an embedding program."""

    def __init__(self, settings: TelemetrySettings, exporter: SpanExporter | None = None) -> None:
        self._provider = TracerProvider(
            sampler=ParentBasedTraceIdRatio(settings.trace_sample_ratio),
            resource=Resource.create({"service.name": settings.service}),
        )
        if exporter is None and settings.traces == "otlp":
            self._provider.add_span_processor(BatchSpanProcessor(_otlp(settings.otlp_endpoint)))
        else:
            self._provider.add_span_processor(SimpleSpanProcessor(exporter or _console()))
        self._tracer = self._provider.get_tracer("duckmesh")

    def span(
        self,
        name: str,
        above: TraceContext | None,
        links: Iterable[str],
        attributes: Mapping[str, Attribute | None],
    ) -> "RecordedSpan":
        """A span below another, or one that begins a trace."""
        parent = context.Context()
        if above is not None:
            parent = trace.set_span_in_context(trace.NonRecordingSpan(_foreign(above)), parent)
        linked = [trace.Link(_foreign(found)) for link in links if (found := parse_traceparent(link))]
        span = RecordedSpan(self._tracer.start_span(name, context=parent, links=linked))
        span.set(**attributes)
        return span

    def shutdown(self) -> None:
        """Send what is left."""
        self._provider.shutdown()


class RecordedSpan:
    """A span of OpenTelemetry."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        self._context = _own(span.get_span_context())
        self._tokens: tuple[Token[TraceContext | None], Any] | None = None

    @property
    def trace_id(self) -> str:
        """The id of its trace: 32 hexadecimal digits."""
        return self._context.trace_id

    def set(self, **attributes: Attribute | None) -> None:
        """Add attributes; None says nothing."""
        for name, value in attributes.items():
            if value is not None:
                self._span.set_attribute(name, value)

    def __enter__(self) -> Self:
        # Also OpenTelemetry's own context, for libraries that bring their instrumentation.
        self._tokens = current.set(self._context), context.attach(trace.set_span_in_context(self._span))
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: TracebackType | None) -> None:
        if kind is not None:
            self._note(kind, error)
        if self._tokens is not None:
            current.reset(self._tokens[0])
            context.detach(self._tokens[1])
        self._span.end()

    def _note(self, kind: type[BaseException], error: BaseException | None) -> None:
        """Say how it failed, not in whose words: a message may quote what the caller sent."""
        code = error.code if isinstance(error, DuckMeshError) else None
        self.set(**{"error.type": kind.__qualname__, "duckmesh.error_code": code})
        if issubclass(kind, Exception):  # a cancelled task has not failed
            self._span.set_status(trace.StatusCode.ERROR)


def _own(made: trace.SpanContext) -> TraceContext:
    return TraceContext(f"{made.trace_id:032x}", f"{made.span_id:016x}", made.trace_flags.sampled)


def _foreign(position: TraceContext) -> trace.SpanContext:
    flags = trace.TraceFlags(trace.TraceFlags.SAMPLED if position.sampled else trace.TraceFlags.DEFAULT)
    return trace.SpanContext(int(position.trace_id, 16), int(position.span_id, 16), is_remote=True, trace_flags=flags)


def _console() -> SpanExporter:
    return ConsoleSpanExporter(out=sys.stderr, formatter=lambda ended: f"{ended.to_json(indent=None)}\n")


def _otlp(endpoint: str) -> SpanExporter:
    try:
        exporters = importlib.import_module(_OTLP_MODULE)
    except ImportError as missing:
        raise ConfigurationError(
            "DUCKMESH_TRACES: 'otlp' needs the package opentelemetry-exporter-otlp-proto-http, which is not "
            "installed; allowed without it: none or console",
            setting="DUCKMESH_TRACES",
        ) from missing
    exporter: SpanExporter = exporters.OTLPSpanExporter(endpoint=endpoint)
    return exporter
