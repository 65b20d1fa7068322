"""The query call."""

from collections.abc import Callable
from typing import Any, Final

import msgspec
import pyarrow as pa
from litestar import Request, Response, post
from litestar.enums import MediaType
from litestar.handlers import HTTPRouteHandler

from duckmesh.app.query.encoding import arrow_stream_bytes, csv_bytes, json_rows, ndjson_bytes, parquet_bytes
from duckmesh.app.query.service import Answer, Freshness, QueryService, parse_time
from duckmesh.app.rest.bodies import answer, body_of, error_specs
from duckmesh.app.rest.context import ROLES, principal_of
from duckmesh.app.rest.described import described_body
from duckmesh.app.rest.measured import measured_query
from duckmesh.app.telemetry.metrics import Metrics
from duckmesh.app.telemetry.tracing import span
from duckmesh.domain.access import Role
from duckmesh.domain.errors import InvalidRequest
from duckmesh.domain.tokens import MAX_TOKEN

_MAX_BODY: Final = 4 * 1024 * 1024
_MAX_TIMEOUT_MS: Final = 300_000
_MAX_QUERY_MS: Final = 86_400_000  # far over any limit of the settings; only keeps a huge integer a number


class QueryBody(msgspec.Struct, forbid_unknown_fields=True):
    """One SELECT, and which snapshot it runs on: at most one of the three selectors; none is the latest."""

    sql: str
    params: list[Any] | dict[str, Any] | None = None
    snapshot_id: int | None = None
    snapshot_time: str | None = None
    min_visibility_token: int | None = None
    visibility_scope: str | None = None
    consistency_timeout_ms: int | None = None
    allow_parked: bool = False
    row_limit: int | None = None
    timeout_ms: int | None = None


class QueryStats(msgspec.Struct):
    """What a query took. ``waited_ms`` is the wait for the snapshot to be fresh enough."""

    duration_ms: float
    waited_ms: float
    scanned_files: int
    scanned_bytes: int
    rows: int
    truncated: bool


class QueryAnswer(msgspec.Struct):
    """Rows as arrays in the order of ``columns``, with the snapshot that they come from."""

    columns: list[str]
    column_types: list[str]
    rows: list[tuple[Any, ...]]
    snapshot_id: int
    snapshot_time: str
    max_visibility_token: int
    visibility_scope: str
    stats: QueryStats


_decoder = msgspec.json.Decoder(QueryBody)
_encode = msgspec.json.Encoder().encode

_FORMATS: Final[dict[str, Callable[[pa.Table], bytes]]] = {
    "application/vnd.apache.arrow.stream": arrow_stream_bytes,
    "text/csv": csv_bytes,
    "application/x-ndjson": ndjson_bytes,
    "application/vnd.apache.parquet": parquet_bytes,
}


def decode_query(body: bytes) -> QueryBody:
    """The request; raises `InvalidRequest` that says where it is wrong."""
    try:
        query = _decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not a query: {error}") from error
    for name in ("row_limit", "consistency_timeout_ms", "timeout_ms"):
        value = getattr(query, name)
        if value is not None and value < 0:
            raise InvalidRequest(f"{name} must not be negative", field=name)
    if query.snapshot_id is not None and not 0 < query.snapshot_id <= MAX_TOKEN:
        raise InvalidRequest("snapshot_id must be a positive integer", field="snapshot_id")
    return query


def freshness_of(query: QueryBody) -> Freshness:
    """Which snapshot the request asks for."""
    timeout_ms = query.consistency_timeout_ms
    return Freshness(
        query.snapshot_id,
        parse_time(query.snapshot_time) if query.snapshot_time is not None else None,
        query.min_visibility_token,
        query.visibility_scope,
        None if timeout_ms is None else min(timeout_ms, _MAX_TIMEOUT_MS) / 1000,
        query.allow_parked,
    )


def query_routes(service: QueryService, metrics: Metrics) -> list[HTTPRouteHandler]:
    """The handlers of `/v1/query`."""

    @post(
        "/v1/query",
        status_code=200,
        opt={ROLES: (Role.QUERY_READER,)},
        summary="Run one SELECT on a consistent snapshot",
        operation_class=described_body(QueryBody),
        responses={
            200: answer(QueryAnswer, "The rows."),
            **error_specs(400, 401, 403, 404, 408, 409, 413, 422, 429, 503, 504),
        },
    )
    async def query(request: Request[Any, Any, Any]) -> Response[bytes]:
        tenant = principal_of(request).tenant
        body = decode_query(await body_of(request, _MAX_BODY))
        freshness = freshness_of(body)
        traceparent = request.headers.get("traceparent")
        with measured_query(metrics, tenant, freshness) as measured, span("query", traceparent, tenant_id=tenant):
            answer = measured.answer = await service.query(
                tenant,
                body.sql,
                parameters=body.params,
                freshness=freshness,
                row_limit=body.row_limit,
                timeout_s=min(body.timeout_ms, _MAX_QUERY_MS) / 1000 if body.timeout_ms is not None else None,
            )
        return _response(answer, request.headers.get("accept", ""))

    return [query]


def _response(answer: Answer, accept: str) -> Response[bytes]:
    wanted = [kind.partition(";")[0].strip().lower() for kind in accept.split(",")]
    kind = next((kind for kind in wanted if kind in _FORMATS), None)
    if kind is None:
        return Response(_encode(_answer_body(answer)), media_type=MediaType.JSON, status_code=200)
    headers = {
        "X-Snapshot-Id": str(answer.snapshot.snapshot_id),
        "X-Max-Visibility-Token": str(answer.snapshot.watermark),
        "X-Visibility-Scope": answer.scope,
        "X-Truncated": str(answer.result.truncated).lower(),
    }
    content = _FORMATS[kind](answer.result.table)
    return Response(content, media_type=kind, status_code=200, headers=headers)


def _answer_body(answer: Answer) -> QueryAnswer:
    result, snapshot = answer.result, answer.snapshot
    return QueryAnswer(
        columns=list(result.table.column_names),
        column_types=list(result.column_types),
        rows=json_rows(result.table),
        snapshot_id=snapshot.snapshot_id,
        snapshot_time=snapshot.published_at.isoformat(),
        max_visibility_token=snapshot.watermark,
        visibility_scope=answer.scope,
        stats=QueryStats(
            round(result.duration_ms, 3),
            round(answer.waited_ms, 3),
            result.scanned_files,
            result.scanned_bytes,
            result.table.num_rows,
            result.truncated,
        ),
    )
