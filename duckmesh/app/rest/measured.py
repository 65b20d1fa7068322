"""What the metrics say of a request: how long it took, and how it ended."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from attrs import define

from duckmesh.app.ingest.service import Receipt
from duckmesh.app.query.service import Answer, Freshness
from duckmesh.app.telemetry.metrics import IngestOutcome, Metrics, QueryClass
from duckmesh.domain.errors import ConsistencyTimeout, DuckMeshError, ErrorKind, QueryTimeout

_CALLERS_FAULT = {
    ErrorKind.INVALID,
    ErrorKind.NOT_FOUND,
    ErrorKind.CONFLICT,
    ErrorKind.TOO_LARGE,
    ErrorKind.UNSUPPORTED_MEDIA,
    ErrorKind.UNPROCESSABLE,
    ErrorKind.FORBIDDEN,
}


@define
class Measured:
    """Filled by the handler when it succeeded."""

    receipt: Receipt | None = None
    answer: Answer | None = None


def _failure(error: BaseException) -> Literal["rejected", "shed", "failed"]:
    if isinstance(error, DuckMeshError):
        if error.kind is ErrorKind.OVERLOADED:
            return "shed"
        if error.kind in _CALLERS_FAULT:
            return "rejected"
    return "failed"


@contextmanager
def measured_ingest(metrics: Metrics, tenant: str) -> Iterator[Measured]:
    """Measure one ingest request."""
    bound = metrics.tenant(tenant)
    measured = Measured()
    started = time.perf_counter()
    outcome: IngestOutcome = "failed"
    try:
        yield measured
        if measured.receipt is not None:
            outcome = measured.receipt.status  # type: ignore[assignment]
            bound.consistency_waits.inc(measured.receipt.snapshot_id is not None)
            bound.ingest_records.inc(measured.receipt.accepted)
            bound.ingest_duplicates.inc(measured.receipt.duplicates)
    except BaseException as error:
        if isinstance(error, ConsistencyTimeout):
            bound.consistency_waits.inc()
            bound.consistency_timeouts.inc()
        outcome = _failure(error)
        raise
    finally:
        bound.ingest_requests[outcome].inc()
        metrics.ingest_ack_latency_ms.observe((time.perf_counter() - started) * 1000)


@contextmanager
def measured_query(metrics: Metrics, tenant: str, freshness: Freshness) -> Iterator[Measured]:
    """Measure one query."""
    bound = metrics.tenant(tenant)
    measured = Measured()
    started = time.perf_counter()
    kind = _class_of(freshness)
    if kind == "barrier":
        bound.consistency_waits.inc()
    try:
        yield measured
    except BaseException as error:
        if isinstance(error, ConsistencyTimeout):
            bound.consistency_timeouts.inc()
        bound.query_requests["timed_out" if isinstance(error, QueryTimeout) else _failure(error)].inc()
        raise
    bound.query_requests["completed"].inc()
    metrics.query_latency_ms[kind].observe((time.perf_counter() - started) * 1000)
    if measured.answer is not None:
        metrics.query_scanned_files.observe(measured.answer.result.scanned_files)
        metrics.query_scanned_bytes.observe(measured.answer.result.scanned_bytes)


def _class_of(freshness: Freshness) -> QueryClass:
    if freshness.min_visibility_token is not None:
        return "barrier"
    if freshness.snapshot_id is not None or freshness.snapshot_time is not None:
        return "snapshot"
    return "latest"
