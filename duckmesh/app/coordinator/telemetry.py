"""What a coordinator's work looks like in metrics and traces."""

from datetime import UTC, datetime

from duckmesh.app.coordinator.service import Committed
from duckmesh.app.telemetry.metrics import Metrics
from duckmesh.app.telemetry.tracing import span
from duckmesh.domain.errors import DuckMeshError, PublicationConflict, StaleEpoch


class CommitTelemetry:
    """Hears of every publication and of every failure."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def committed(self, committed: Committed) -> None:
        """A snapshot was published; its span links the traces of the writes that it made visible."""
        metrics, snapshot = self._metrics, committed.snapshot
        metrics.claim_batch_size.observe(committed.records)
        metrics.commit_batch_latency_ms.observe(committed.duration_s * 1000)
        metrics.tenant(snapshot.tenant).latest_visibility_token.set(snapshot.watermark)
        now = datetime.now(UTC)
        for write in committed.writes:
            metrics.write_to_visible_latency_ms.observe((now - write.accepted_at).total_seconds() * 1000)
        links = [write.trace for write in committed.writes if write.trace is not None]
        with span(
            "publish",
            links[0] if links else None,
            links=links[1:],
            tenant_id=snapshot.tenant,
            snapshot_id=snapshot.snapshot_id,
            watermark=snapshot.watermark,
            records=committed.records,
        ):
            pass

    def failed(self, _tenant: str, error: DuckMeshError) -> None:
        """A batch could not be published now."""
        if isinstance(error, PublicationConflict | StaleEpoch):
            self._metrics.claim_retries.inc()
        self._metrics.snapshot_publish_failures.inc()
