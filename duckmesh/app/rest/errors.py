"""Errors as answers: one body for all of them, a status for each kind, and no traceback for anybody."""

import math
from typing import Any, Final

import msgspec
import structlog
from litestar import MediaType, Request, Response
from litestar.exceptions import (
    ClientException,
    HTTPException,
    MethodNotAllowedException,
    NotFoundException,
    ValidationException,
)

from duckmesh.app.rest.context import trace_id_of
from duckmesh.domain.errors import DuckMeshError, ErrorKind, InvalidRequest, NotFound

log = structlog.get_logger(__name__)

STATUS: Final[dict[ErrorKind, int]] = {
    ErrorKind.INVALID: 400,
    ErrorKind.UNAUTHENTICATED: 401,
    ErrorKind.FORBIDDEN: 403,
    ErrorKind.NOT_FOUND: 404,
    ErrorKind.QUERY_TIMEOUT: 408,
    ErrorKind.CONFLICT: 409,
    ErrorKind.TOO_LARGE: 413,
    ErrorKind.UNSUPPORTED_MEDIA: 415,
    ErrorKind.UNPROCESSABLE: 422,
    ErrorKind.OVERLOADED: 429,
    ErrorKind.INTERNAL: 500,
    ErrorKind.UNAVAILABLE: 503,
    ErrorKind.DEADLINE: 504,
}


class ErrorBody(msgspec.Struct):
    """The body of every error. ``error_code`` is stable; ``context`` helps a client to retry."""

    error_code: str
    message: str
    retryable: bool
    context: dict[str, Any]
    trace_id: str


class MethodNotAllowed(DuckMeshError):
    """The path exists, but not for this method."""

    code = "METHOD_NOT_ALLOWED"
    kind = ErrorKind.INVALID


def error_response(request: Request[Any, Any, Any], error: DuckMeshError, status: int | None = None) -> Response[bytes]:
    """The answer for an error of ours."""
    body = ErrorBody(error.code, error.message, error.retryable, _plain(error.context), trace_id_of(request))
    headers = {"X-Trace-Id": body.trace_id}
    status = status or STATUS[error.kind]
    if status in {429, 503}:
        headers["Retry-After"] = str(math.ceil(error.context.get("retry_after_s", 1)))
    if status == 401:  # noqa: PLR2004 - the one status that must name its scheme
        headers["WWW-Authenticate"] = "Bearer"
    return Response(
        msgspec.json.encode(body, enc_hook=str), status_code=status, media_type=MediaType.JSON, headers=headers
    )


def _plain(context: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in context.items() if value is not None}


def on_domain_error(request: Request[Any, Any, Any], error: DuckMeshError) -> Response[bytes]:
    """Answer one of ours."""
    if error.kind in {ErrorKind.INTERNAL, ErrorKind.UNAVAILABLE}:
        log.warning("request.failed", error_code=error.code, reason=error.message, trace_id=trace_id_of(request))
    return error_response(request, error)


def on_http_error(request: Request[Any, Any, Any], error: HTTPException) -> Response[bytes]:
    """Answer what the framework found wrong: routes, methods, bodies and parameters."""
    if isinstance(error, NotFoundException):
        return error_response(request, NotFound(f"there is nothing at {request.url.path[:200]}"))
    if isinstance(error, MethodNotAllowedException):
        return error_response(request, MethodNotAllowed(f"{request.method} is not possible here"), 405)
    if isinstance(error, ValidationException):
        return error_response(request, InvalidRequest(_validation_message(error)))
    if isinstance(error, ClientException):
        return error_response(request, InvalidRequest(str(error.detail)), error.status_code)
    return on_bug(request, error)


def _validation_message(error: ValidationException) -> str:
    found = error.extra if isinstance(error.extra, list) else []
    details = [f"{item.get('key') or 'body'}: {item.get('message')}" for item in found if isinstance(item, dict)]
    return "; ".join(details) or str(error.detail)


def on_bug(request: Request[Any, Any, Any], error: Exception) -> Response[bytes]:
    """Answer what should not happen: logged with its traceback, of which the caller sees nothing."""
    log.error(
        "request.bug",
        trace_id=trace_id_of(request),
        path=request.url.path,
        error_code="INTERNAL_ERROR",
        exc_info=error,
    )
    return error_response(
        request,
        DuckMeshError("an error of the server, which has been logged under this trace id; please report it"),
    )
