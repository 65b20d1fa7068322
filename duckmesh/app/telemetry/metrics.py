"""Metrics in the format of Prometheus, by the names of the contract (section 8). Times are in milliseconds.

Labels are bounded. Counters and gauges carry ``tenant``: the first tenants up to a limit by their name, all others
together as ``_other``, which can be no tenant's name. Histograms carry no tenant, since each would cost as many
series as it has buckets. What is used often is bound to its labels once, by `Metrics.tenant` and in mappings.
"""

import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Literal, get_args

from attrs import frozen
from prometheus_client import (
    CONTENT_TYPE_LATEST,
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

IngestOutcome = Literal["accepted", "visible", "partial_duplicate", "rejected", "shed", "failed"]
"""``rejected`` is the caller's mistake, ``shed`` is overload, ``failed`` is ours."""

QueryOutcome = Literal["completed", "rejected", "timed_out", "shed", "failed"]

QueryClass = Literal["latest", "barrier", "snapshot"]
"""By freshness: the latest snapshot, one that covers a token, or one that was named."""

RunOutcome = Literal["completed", "failed"]

OTHER_TENANTS: Final = "_other"

_FAST_MS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000)
_VISIBLE_MS: Final = (2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 3000, 5000, 10_000, 30_000, 60_000)
_QUERY_MS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10_000, 30_000, 60_000)
_RECORDS: Final = (1, 10, 100, 1000, 10_000, 50_000, 100_000, 200_000, 500_000)
_FILES: Final = (0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
_BYTES: Final = (0, 2**12, 2**16, 2**20, 2**22, 2**24, 2**26, 2**28, 2**30, 2**32, 2**34)

_INGEST_OUTCOMES: Final[tuple[IngestOutcome, ...]] = get_args(IngestOutcome)
_QUERY_OUTCOMES: Final[tuple[QueryOutcome, ...]] = get_args(QueryOutcome)
_QUERY_CLASSES: Final[tuple[QueryClass, ...]] = get_args(QueryClass)
_RUN_OUTCOMES: Final[tuple[RunOutcome, ...]] = get_args(RunOutcome)

# A time of creation for every series would double what is scraped; nobody asks for it.
disable_created_metrics()  # type: ignore[no-untyped-call] # the package has not annotated it


class TenantGauge(Collector):
    """A gauge by tenant. Of the tenants without a label it shows the largest value, or nothing.

    The largest is what an alarm needs, and the last one set would be nobody's.
    """

    def __init__(self, registry: CollectorRegistry, name: str, text: str, *, largest_of_others: bool = True) -> None:
        self._name, self._text = name, text
        self._largest_of_others = largest_of_others
        self._shown: dict[str, float] = {}
        self._others: dict[str, float] = {}
        registry.register(self)

    def set(self, tenant: str, value: float, *, labelled: bool) -> None:
        """Set the value of a tenant, which has a label of its own or not."""
        (self._shown if labelled else self._others)[tenant] = value

    def collect(self) -> Iterator[Metric]:
        """The samples of a scrape."""
        family = GaugeMetricFamily(self._name, self._text, labels=["tenant"])
        for tenant, value in self._shown.copy().items():
            family.add_metric([tenant], value)
        others = self._others.copy()
        if others and self._largest_of_others:
            family.add_metric([OTHER_TENANTS], max(others.values()))
        yield family

    def describe(self) -> Iterable[Metric]:
        """The family without samples, so that two of one name are refused."""
        yield GaugeMetricFamily(self._name, self._text, labels=["tenant"])


@frozen
class BoundGauge:
    """A `TenantGauge` of one tenant."""

    _gauge: TenantGauge
    _tenant: str
    _labelled: bool

    def set(self, value: float) -> None:
        """Set the tenant's value."""
        self._gauge.set(self._tenant, value, labelled=self._labelled)


@frozen
class TenantMetrics:
    """Everything that carries a tenant, bound to one."""

    ingest_requests: Mapping[IngestOutcome, Counter]
    ingest_records: Counter
    ingest_duplicates: Counter
    consistency_waits: Counter
    consistency_timeouts: Counter
    query_requests: Mapping[QueryOutcome, Counter]
    ingest_lag_events: BoundGauge
    visibility_lag_ms: BoundGauge
    latest_visibility_token: BoundGauge


class Metrics:
    """All metrics of a process, in a registry of their own."""

    def __init__(self, max_tenants: int = 100) -> None:
        self._max_tenants = max_tenants
        self._tenants: dict[str, TenantMetrics] = {}
        self._lock = threading.Lock()
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        self._ingest()
        self._coordinator()
        self._query()
        self._maintenance()

    def tenant(self, name: str) -> TenantMetrics:
        """The metrics of a tenant; costs one look-up after the first time."""
        found = self._tenants.get(name)
        return found if found is not None else self._bind_tenant(name)

    def render(self) -> tuple[bytes, str]:
        """What a scrape gets, and its content type."""
        return generate_latest(self.registry), CONTENT_TYPE_LATEST

    def _ingest(self) -> None:
        self._ingest_requests = self._counter("ingest_requests", "Ingest requests by how they ended.", "outcome")
        self._ingest_records = self._counter("ingest_records", "Records accepted, without duplicates.")
        self._ingest_duplicates = self._counter("ingest_duplicates", "Records that were accepted before.")
        self.ingest_ack_latency_ms = self._histogram("ingest_ack_latency_ms", "From request to receipt.", _FAST_MS)
        self._ingest_lag_events = self._gauge("ingest_lag_events", "Accepted records beyond the watermark.")
        self._visibility_lag_ms = self._gauge("visibility_lag_ms", "Age of the oldest record beyond the watermark.")
        self._latest_visibility_token = self._gauge("latest_visibility_token", "The watermark.", of_others=False)
        self._consistency_waits = self._counter("consistency_waits", "Requests that asked for a token's visibility.")
        self._consistency_timeouts = self._counter("consistency_timeout", "Those whose time ran out.")

    def _coordinator(self) -> None:
        self.write_to_visible_latency_ms = self._histogram(
            "write_to_visible_latency_ms", "From the log's commit to the snapshot that covers a write.", _VISIBLE_MS
        )
        self.claim_batch_size = self._histogram("claim_batch_size", "Records in one claimed batch.", _RECORDS)
        self.claim_retries = self._plain_counter("claim_retries", "Batches delivered again, or planned again.")
        self.commit_batch_latency_ms = self._histogram(
            "commit_batch_latency_ms", "From claim to published snapshot.", _VISIBLE_MS
        )
        self.snapshot_publish_failures = self._plain_counter(
            "snapshot_publish_failures", "Publications that failed, conflicts included."
        )

    def _query(self) -> None:
        self._query_requests = self._counter("query_requests", "Queries by how they ended.", "outcome")
        latency = Histogram(
            "duckmesh_query_latency_ms",
            "From request to result, by the freshness that was asked for.",
            ["query_class"],
            registry=self.registry,
            buckets=_QUERY_MS,
        )
        self.query_latency_ms: Mapping[QueryClass, Histogram] = {name: latency.labels(name) for name in _QUERY_CLASSES}
        self.query_scanned_files = self._histogram("query_scanned_files", "Files that a query could read.", _FILES)
        self.query_scanned_bytes = self._histogram("query_scanned_bytes", "Bytes of those files.", _BYTES)

    def _maintenance(self) -> None:
        self.compaction_runs = self._runs("compaction_runs", "Compaction runs by how they ended.")
        self.compaction_bytes_rewritten = self._plain_counter("compaction_bytes_rewritten", "Bytes of replaced files.")
        self.gc_files_deleted = self._plain_counter("gc_files_deleted", "Objects that nothing needed any more.")
        self.integrity_runs = self._runs("integrity_runs", "Integrity runs by how they ended.")
        self.integrity_files_checked = self._plain_counter("integrity_files_checked", "Files looked at.")
        self.integrity_missing_files = self._plain_counter("integrity_missing_files", "Files not in the object store.")
        self.integrity_size_mismatch_files = self._plain_counter(
            "integrity_size_mismatch_files", "Files of another size than recorded."
        )

    def _bind_tenant(self, name: str) -> TenantMetrics:
        with self._lock:
            labelled = len(self._tenants) < self._max_tenants
            label = name if labelled else OTHER_TENANTS
            bound = self._tenants.get(name) or self._bound(name, label, labelled=labelled)
            self._tenants[name] = bound
            return bound

    def _bound(self, name: str, label: str, *, labelled: bool) -> TenantMetrics:
        return TenantMetrics(
            ingest_requests={each: self._ingest_requests.labels(label, each) for each in _INGEST_OUTCOMES},
            ingest_records=self._ingest_records.labels(label),
            ingest_duplicates=self._ingest_duplicates.labels(label),
            consistency_waits=self._consistency_waits.labels(label),
            consistency_timeouts=self._consistency_timeouts.labels(label),
            query_requests={each: self._query_requests.labels(label, each) for each in _QUERY_OUTCOMES},
            ingest_lag_events=BoundGauge(self._ingest_lag_events, name, labelled),
            visibility_lag_ms=BoundGauge(self._visibility_lag_ms, name, labelled),
            latest_visibility_token=BoundGauge(self._latest_visibility_token, name, labelled),
        )

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"duckmesh_{name}", text, ["tenant", *labels], registry=self.registry)

    def _plain_counter(self, name: str, text: str) -> Counter:
        return Counter(f"duckmesh_{name}", text, registry=self.registry)

    def _runs(self, name: str, text: str) -> Mapping[RunOutcome, Counter]:
        runs = Counter(f"duckmesh_{name}", text, ["outcome"], registry=self.registry)
        return {outcome: runs.labels(outcome) for outcome in _RUN_OUTCOMES}

    def _gauge(self, name: str, text: str, *, of_others: bool = True) -> TenantGauge:
        return TenantGauge(self.registry, f"duckmesh_{name}", text, largest_of_others=of_others)

    def _histogram(self, name: str, text: str, buckets: tuple[int, ...]) -> Histogram:
        return Histogram(f"duckmesh_{name}", text, registry=self.registry, buckets=buckets)
