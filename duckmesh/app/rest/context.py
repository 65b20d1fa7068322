"""What stands around a request: its trace, its caller, and whether it may be answered at all."""

from collections.abc import Awaitable, Callable
from typing import Any, Final
from urllib.parse import urlsplit

import structlog
from litestar import Request

from duckmesh.app.access.service import AccessService
from duckmesh.app.telemetry.tracing import new_trace_id, parse_traceparent
from duckmesh.domain.access import ALL_ROLES, Principal, Role
from duckmesh.domain.errors import PermissionDenied, Unauthenticated

AnyRequest = Request[Any, Any, Any]

#: Key in a handler's ``opt``: the roles of which the caller needs one; absent for public calls.
ROLES: Final = "roles"
_TENANT_HEADER: Final = "x-tenant-id"
DEFAULT_TENANT: Final = "default"


def trace_id_of(request: AnyRequest) -> str:
    """The request's trace id: the caller's, when it sent a valid ``traceparent``, else a new one."""
    state = request.scope.setdefault("state", {})
    found: str | None = state.get("trace_id")
    if found is None:
        sent = parse_traceparent(request.headers.get("traceparent"))
        found = state["trace_id"] = sent.trace_id if sent is not None else new_trace_id()
    return found


def principal_of(request: AnyRequest) -> Principal:
    """The caller; only on calls that need a role."""
    principal: Principal = request.scope["state"]["principal"]
    return principal


def gate(
    access: AccessService, *, auth: bool, host_names: frozenset[str] | None
) -> Callable[[AnyRequest], Awaitable[None]]:
    """The hook before every request: host, caller, role."""

    async def before_request(request: AnyRequest) -> None:
        structlog.contextvars.clear_contextvars()
        structlog.contextvars.bind_contextvars(trace_id=trace_id_of(request))
        if host_names is not None:
            _check_host(request, host_names)
        roles: tuple[Role, ...] = request.route_handler.opt.get(ROLES, ())
        if not roles:
            return
        principal = await (_by_key(access, request) if auth else _local(access, request))
        structlog.contextvars.bind_contextvars(tenant_id=principal.tenant)
        principal.require(*roles)
        request.scope["state"]["principal"] = principal

    return before_request


def _check_host(request: AnyRequest, allowed: frozenset[str]) -> None:
    """Refuse a page of another site that talks to a server on this machine (DNS rebinding, cross-site calls)."""
    host = request.headers.get("host", "")
    if _host_name(f"//{host}") not in allowed:
        raise PermissionDenied(f"requests for the host {host[:80]!r} are not answered here")
    origin = request.headers.get("origin")
    if origin is not None and _host_name(origin) not in allowed:
        raise PermissionDenied(f"requests from pages of {origin[:80]!r} are not answered here")


def _host_name(url: str) -> str:
    """The host of a URL in lower case; empty when it has none, or is none."""
    try:
        return urlsplit(url).hostname or ""
    except ValueError:
        return ""


async def _by_key(access: AccessService, request: AnyRequest) -> Principal:
    principal = await access.principal(_credential(request))
    named = request.headers.get(_TENANT_HEADER)
    if named is not None and named != principal.tenant:
        raise PermissionDenied("X-Tenant-ID names another tenant than the API key belongs to")
    return principal


def _credential(request: AnyRequest) -> str:
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value:
        return value.strip()
    key = request.headers.get("x-api-key")
    if not key:
        raise Unauthenticated("an API key is needed: send `Authorization: Bearer <key>` or `X-API-Key: <key>`")
    return str(key)


async def _local(access: AccessService, request: AnyRequest) -> Principal:
    """Without authentication the header names the tenant, which is made when it is first seen."""
    tenant = request.headers.get(_TENANT_HEADER, DEFAULT_TENANT)
    await access.ensure_tenant(tenant)
    return Principal(tenant, ALL_ROLES, "local")
