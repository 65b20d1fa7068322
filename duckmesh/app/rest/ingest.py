"""The ingest calls. Bodies are read raw and decoded once, by the table's own decoder."""

from typing import Annotated, Any

import msgspec
from litestar import Request, post
from litestar.enums import MediaType
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, HeaderParameter, QueryParameter
from litestar.response.base import ASGIResponse

from duckmesh.app.ingest.service import IngestService, Receipt
from duckmesh.app.rest.bodies import body_of, documented, optional_flag
from duckmesh.app.rest.context import ROLES, principal_of
from duckmesh.app.rest.measured import measured_ingest
from duckmesh.app.telemetry.metrics import Metrics
from duckmesh.app.telemetry.tracing import current_traceparent, span
from duckmesh.domain.access import Role
from duckmesh.domain.errors import InvalidRequest, UnsupportedMediaType
from duckmesh.domain.writes import Operation

ARROW_STREAM = "application/vnd.apache.arrow.stream"
_OPT = {ROLES: (Role.INGEST_WRITER,)}


class TableCountsBody(msgspec.Struct):
    """Records of one table in a receipt."""

    accepted_count: int
    duplicate_count: int


class ReceiptBody(msgspec.Struct, omit_defaults=True):
    """What a caller holds of a durable write; ``max_visibility_token`` covers every record of the request."""

    accepted_count: int
    duplicate_count: int
    max_visibility_token: int
    visibility_scope: str
    status: str
    visible_snapshot_id: int | None = None
    tables: dict[str, TableCountsBody] | None = None


_encode = msgspec.json.Encoder().encode


def _body(receipt: Receipt, *, per_table: bool = False) -> ASGIResponse:
    tables = None
    if per_table:
        tables = {name: TableCountsBody(c.accepted, c.duplicates) for name, c in receipt.tables.items()}
    shown = ReceiptBody(
        receipt.accepted,
        receipt.duplicates,
        receipt.token,
        receipt.scope,
        receipt.status,
        receipt.snapshot_id,
        tables,
    )
    # Ready for the wire: on the busiest path the framework has nothing left to negotiate.
    return ASGIResponse(body=_encode(shown), media_type=MediaType.JSON, status_code=200)


def ingest_routes(service: IngestService, metrics: Metrics, max_body_bytes: int) -> list[HTTPRouteHandler]:
    """The handlers of `/v1/ingest`."""

    @post(
        "/v1/ingest",
        status_code=200,
        opt=_OPT,
        summary="Write records of several tables, all or nothing",
        operation_class=documented("tables"),
        responses=documented.receipts(ReceiptBody),
    )
    async def ingest_tables(request: Request[Any, Any, Any]) -> ASGIResponse:
        tenant = principal_of(request).tenant
        if (kind := _content_type(request)) != "application/json":
            raise _unread(kind, "application/json")
        body = await body_of(request, max_body_bytes)
        with (
            measured_ingest(metrics, tenant) as measured,
            span("ingest", request.headers.get("traceparent"), tenant_id=tenant),
        ):
            receipt = measured.receipt = await service.ingest_tables(tenant, body, current_traceparent())
        return _body(receipt, per_table=True)

    @post(
        "/v1/ingest/{table:str}",
        status_code=200,
        opt=_OPT,
        summary="Write records of one table",
        operation_class=documented("records"),
        responses=documented.receipts(ReceiptBody),
    )
    async def ingest(
        request: Request[Any, Any, Any],
        table: FromPath[str],
        op: Annotated[str | None, QueryParameter(description="For a bulk body: insert, upsert or delete.")] = None,
        wait_for_visibility: Annotated[
            str | None, QueryParameter(description="For a bulk body: true to wait until the write is visible.")
        ] = None,
        visibility_timeout_ms: Annotated[
            int | None, QueryParameter(description="For a bulk body: how long to wait.", ge=0, le=300_000)
        ] = None,
        idempotency_key: Annotated[
            str | None,
            HeaderParameter(name="Idempotency-Key", description="For a bulk body: one key for all of it."),
        ] = None,
    ) -> ASGIResponse:
        tenant = principal_of(request).tenant
        kind = _content_type(request)
        body = await body_of(request, max_body_bytes)
        with (
            measured_ingest(metrics, tenant) as measured,
            span("ingest", request.headers.get("traceparent"), tenant_id=tenant),
        ):
            trace = current_traceparent()
            if kind == "application/json":
                receipt = await service.ingest(tenant, table, body, trace)
            elif kind == ARROW_STREAM:
                receipt = await service.ingest_arrow(
                    tenant,
                    table,
                    body,
                    idempotency_key=_required_key(idempotency_key),
                    op=_operation(op),
                    wait=optional_flag("wait_for_visibility", wait_for_visibility),
                    timeout_ms=visibility_timeout_ms,
                    trace=trace,
                )
            else:
                raise _unread(kind, f"application/json or {ARROW_STREAM}")
            measured.receipt = receipt
        return _body(receipt)

    return [ingest_tables, ingest]


def _content_type(request: Request[Any, Any, Any]) -> str:
    return str(request.headers.get("content-type", "application/json")).partition(";")[0].strip().lower()


def _unread(kind: str, wanted: str) -> UnsupportedMediaType:
    return UnsupportedMediaType(f"bodies of type {kind[:80]!r} are not read here; send {wanted}")


def _required_key(key: str | None) -> str:
    if not key:
        raise InvalidRequest("a bulk body needs one Idempotency-Key header, so that a retry is not stored twice")
    return key


def _operation(name: str | None) -> Operation:
    try:
        return Operation[(name or "insert").upper()]
    except KeyError as error:
        raise InvalidRequest(f"op {(name or '')[:40]!r} is unknown; use insert, upsert or delete") from error
