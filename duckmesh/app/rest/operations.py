"""Health, readiness, metrics and lag."""

import contextlib
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final

import msgspec
from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler

from duckmesh.app.rest.bodies import answer, error_specs, json_answer
from duckmesh.app.rest.context import ROLES, principal_of
from duckmesh.app.telemetry.metrics import Metrics
from duckmesh.domain.access import Role
from duckmesh.domain.errors import DuckMeshError
from duckmesh.domain.snapshots import Snapshot
from duckmesh.domain.writes import Lag
from duckmesh.ports.bus import IngestBus
from duckmesh.ports.catalog import Catalog

#: Looks at one dependency; raises when it is not usable.
Check = Callable[[], Awaitable[object]]


_SCRAPED_TENANTS: Final = 100


class Health(msgspec.Struct):
    """The process answers; nothing is said of what it depends on."""

    status: str


class Readiness(msgspec.Struct):
    """Whether requests can be served; ``checks`` says ``ok`` or an error code for each dependency."""

    status: str
    checks: dict[str, str]


class LagBody(msgspec.Struct):
    """How far the newest snapshot is behind the log. ``*_events`` count records, ``token_lag`` writes."""

    accepted_events: int
    claimed_events: int
    pending_events: int
    oldest_pending_lag_ms: float
    token_lag: int
    latest_visibility_token: int
    latest_snapshot_id: int
    latest_snapshot_time: str


def operations_routes(
    bus: IngestBus, catalog: Catalog, metrics: Metrics, checks: Mapping[str, Check]
) -> list[HTTPRouteHandler]:
    """The handlers that operators and probes call."""

    @get(
        "/v1/health",
        summary="Liveness",
        responses={200: answer(Health, "Alive.")},
    )
    async def health() -> Response[bytes]:
        return json_answer(Health("ok"))

    @get(
        "/v1/ready",
        summary="Readiness of what this server depends on",
        responses={
            200: answer(Readiness, "Ready."),
            503: answer(Readiness, "Something is away."),
        },
    )
    async def ready() -> Response[bytes]:
        results = {name: await _result(check) for name, check in checks.items()}
        fine = all(result == "ok" for result in results.values())
        return json_answer(Readiness("ready" if fine else "not_ready", results), 200 if fine else 503)

    @get(
        "/v1/metrics",
        summary="Metrics in Prometheus' text format",
        media_type="text/plain",
        responses={200: answer(str, "Metrics.", media_type="text/plain")},
    )
    async def show_metrics() -> Response[bytes]:
        await _refresh_lag(bus, catalog, metrics)
        body, kind = metrics.render()
        return Response(body, status_code=200, headers={"Content-Type": kind})

    @get(
        "/v1/lag",
        opt={ROLES: (Role.OPS_ADMIN,)},
        summary="How far visibility is behind the log",
        responses={200: answer(LagBody, "The lag."), **error_specs(400, 401, 403, 503)},
    )
    async def lag(request: Request[Any, Any, Any]) -> Response[bytes]:
        tenant = principal_of(request).tenant
        snapshot, found = await _lag(bus, catalog, metrics, tenant)
        return json_answer(
            LagBody(
                found.accepted_events,
                found.claimed_events,
                found.pending_events,
                found.oldest_pending_ms,
                max(0, found.head - snapshot.watermark),
                snapshot.watermark,
                snapshot.snapshot_id,
                snapshot.published_at.isoformat(),
            )
        )

    return [health, ready, show_metrics, lag]


async def _result(check: Check) -> str:
    try:
        await check()
    except DuckMeshError as error:
        return error.code
    return "ok"


async def _lag(bus: IngestBus, catalog: Catalog, metrics: Metrics, tenant: str) -> tuple[Snapshot, Lag]:
    """A tenant's newest snapshot and its lag, which the gauges show from now on."""
    snapshot = (await catalog.snapshots(tenant, limit=1))[0]
    found = await bus.lag(tenant, snapshot.watermark)
    bound = metrics.tenant(tenant)
    bound.ingest_lag_events.set(found.pending_events)
    bound.visibility_lag_ms.set(found.oldest_pending_ms)
    bound.latest_visibility_token.set(snapshot.watermark)
    return snapshot, found


async def _refresh_lag(bus: IngestBus, catalog: Catalog, metrics: Metrics) -> None:
    """Bring the gauges up to date for a scrape; when the database is away they stay as they were."""
    with contextlib.suppress(DuckMeshError):
        for tenant in (await catalog.tenants())[:_SCRAPED_TENANTS]:
            await _lag(bus, catalog, metrics, tenant)
