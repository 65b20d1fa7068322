"""Traces: which lines and spans belong to one request, across processes.

A trace is named by a W3C ``traceparent`` (https://www.w3.org/TR/trace-context/), accepted from the caller, kept
with the write in the log, and passed on. When spans go nowhere the ids are carried all the same, and a span costs
two microseconds; the OpenTelemetry SDK is imported only when they go somewhere.
"""

import random
import re
from collections.abc import Mapping, Sequence
from contextvars import ContextVar, Token
from types import TracebackType
from typing import TYPE_CHECKING, Final, Protocol, Self

from attrs import frozen

from duckmesh.app.settings import TelemetrySettings

if TYPE_CHECKING:  # heavy, and only needed when spans are recorded
    from opentelemetry.sdk.trace.export import SpanExporter

    from duckmesh.app.telemetry.recording import Recorder

HEADER: Final = "traceparent"

Attribute = str | bool | int | float

_TRACEPARENT: Final = re.compile(
    r"(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-[\x20-\x7e]*)?", re.ASCII
)
_LONGEST: Final = 512
_SAMPLED: Final = 1


@frozen
class TraceContext:
    """A position in a trace: its id, the span that is the parent of the next one, and whether it is recorded."""

    trace_id: str
    span_id: str
    sampled: bool = False

    @property
    def traceparent(self) -> str:
        """As a header of the W3C, version 00."""
        return f"00-{self.trace_id}-{self.span_id}-{'01' if self.sampled else '00'}"


current: Final[ContextVar[TraceContext | None]] = ContextVar("duckmesh_trace", default=None)
"""Where the running task is; read it with `current_traceparent` and `current_trace_id`."""


class Span(Protocol):
    """A piece of work that is under way."""

    @property
    def trace_id(self) -> str:
        """The id of its trace: 32 hexadecimal digits."""
        ...

    def set(self, **attributes: Attribute | None) -> None:
        """Say more about it, once it is known; None says nothing."""
        ...

    def __enter__(self) -> Self:
        """Begin."""
        ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End; an error is noted by its type and code, never by its text."""
        ...


def configure(settings: TelemetrySettings, exporter: "SpanExporter | None" = None) -> None:
    """Send spans where the settings say, or to ``exporter``. May be called again.

    Raises `ConfigurationError` when the package that speaks to a collector is missing.
    """
    global _recorder  # noqa: PLW0603 - one process has one destination of spans
    shutdown()
    if exporter is not None or settings.traces != "none":
        from duckmesh.app.telemetry.recording import Recorder  # noqa: PLC0415 - heavy, see above

        _recorder = Recorder(settings, exporter)


def shutdown() -> None:
    """Send what is left, and stop recording."""
    global _recorder
    recorder, _recorder = _recorder, None
    if recorder is not None:
        recorder.shutdown()


def span(name: str, parent: str | None = None, *, links: Sequence[str] = (), **attributes: Attribute | None) -> Span:
    """A context manager around a piece of work.

    It belongs below ``parent``, a traceparent; without a valid one below the current span; else it begins a trace.
    ``links`` are traceparents of other traces that it serves, as a batch serves many writes. It must end in the
    task in which it began.
    """
    if _recorder is None:
        return _CarriedSpan(parent)
    return _recorder.span(name, parent_context(parent), links, attributes)


def parse_traceparent(header: str | None) -> TraceContext | None:
    """What a caller's header says, or None when it says nothing valid: then a new trace begins, as the W3C asks."""
    if not header or len(header) > _LONGEST:
        return None
    match = _TRACEPARENT.fullmatch(header)
    if match is None or (match[1] == "00" and match[5]):
        return None
    return TraceContext(match[2], match[3], bool(int(match[4], 16) & _SAMPLED))


def parent_context(parent: str | None) -> TraceContext | None:
    """Below what a span begins: a valid parent, else where the task is, else nothing."""
    return parse_traceparent(parent) or current.get()


def extract(headers: Mapping[str, str]) -> str | None:
    """The caller's traceparent, when it sent a valid one. Names of headers are in lower case."""
    header = headers.get(HEADER)
    return header if parse_traceparent(header) else None


def inject(headers: dict[str, str]) -> None:
    """Add the current traceparent to the headers of an outgoing call."""
    traceparent = current_traceparent()
    if traceparent is not None:
        headers[HEADER] = traceparent


def current_traceparent() -> str | None:
    """What to pass on, to another process or with a write; None outside of any span."""
    context = current.get()
    return None if context is None else context.traceparent


def current_trace_id() -> str | None:
    """The id of the current trace: 32 hexadecimal digits; None outside of any span."""
    context = current.get()
    return None if context is None else context.trace_id


def new_trace_id() -> str:
    """A fresh id for a trace: 32 hexadecimal digits."""
    return f"{random.getrandbits(128) or 1:032x}"  # an id, not a secret; reseeded in forked children


def _new_context() -> TraceContext:
    return TraceContext(new_trace_id(), f"{random.getrandbits(64) or 1:016x}")


class _CarriedSpan:
    """A span that nobody records: it carries the trace's id and nothing else."""

    __slots__ = ("_context", "_token")

    def __init__(self, parent: str | None) -> None:
        self._context = parent_context(parent) or _new_context()
        self._token: Token[TraceContext | None] | None = None

    @property
    def trace_id(self) -> str:
        return self._context.trace_id

    def set(self, **attributes: Attribute | None) -> None:
        """Nobody would see it."""

    def __enter__(self) -> Self:
        self._token = current.set(self._context)
        return self

    def __exit__(self, *_: object) -> None:
        if self._token is not None:
            current.reset(self._token)


_recorder: "Recorder | None" = None
