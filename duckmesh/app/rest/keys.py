"""API keys of the caller's own tenant."""

from typing import Any

import msgspec
from litestar import Request, Response, delete, get, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from duckmesh.app.access.service import AccessService
from duckmesh.app.rest.bodies import answer, body_of, error_specs, json_answer
from duckmesh.app.rest.context import ROLES, principal_of
from duckmesh.app.rest.described import described_body
from duckmesh.domain.access import ApiKey, Role, parse_roles
from duckmesh.domain.errors import InvalidRequest

_OPT = {ROLES: (Role.OPS_ADMIN,)}
_MAX_BODY = 64 * 1024


class KeyBody(msgspec.Struct, forbid_unknown_fields=True):
    """A new key with its roles."""

    roles: list[str]
    name: str = ""


class KeyInfo(msgspec.Struct, omit_defaults=True):
    """A key without its secret; ``key`` is shown once, when it is made."""

    key_id: str
    roles: list[str]
    name: str
    created_at: str
    revoked_at: str | None = None
    key: str | None = None


class KeyList(msgspec.Struct):
    """Keys, oldest first."""

    keys: list[KeyInfo]


def key_info(key: ApiKey, text: str | None = None) -> KeyInfo:
    """What is shown of a key."""
    revoked = key.revoked_at.isoformat() if key.revoked_at is not None else None
    roles = sorted(role.value for role in key.roles)
    return KeyInfo(key.key_id, roles, key.name, key.created_at.isoformat(), revoked, text)


def key_routes(access: AccessService) -> list[HTTPRouteHandler]:
    """The handlers of `/v1/keys`."""

    @post(
        "/v1/keys",
        status_code=201,
        opt=_OPT,
        summary="Create an API key of this tenant",
        operation_class=described_body(KeyBody),
        responses={201: answer(KeyInfo, "The key."), **error_specs(400, 401, 403, 413, 503)},
    )
    async def create_key(request: Request[Any, Any, Any]) -> Response[bytes]:
        try:
            body = msgspec.json.decode(await body_of(request, _MAX_BODY), type=KeyBody)
            roles = parse_roles(body.roles)
        except (msgspec.MsgspecError, ValueError, RecursionError) as error:
            raise InvalidRequest(f"the body is not a key: {error}") from error
        if not roles or len(body.name) > 200 or "\x00" in body.name:  # noqa: PLR2004
            raise InvalidRequest("a key needs at least one role, and a name of at most 200 characters")
        text, key = await access.create_key(principal_of(request).tenant, roles, body.name)
        return json_answer(key_info(key, text), 201)

    @get(
        "/v1/keys",
        opt=_OPT,
        summary="List the API keys of this tenant",
        responses={200: answer(KeyList, "Keys."), **error_specs(400, 401, 403, 503)},
    )
    async def list_keys(request: Request[Any, Any, Any]) -> Response[bytes]:
        keys = await access.keys(principal_of(request).tenant)
        return json_answer(KeyList([key_info(key) for key in keys]))

    @delete(
        "/v1/keys/{key_id:str}",
        status_code=200,
        opt=_OPT,
        summary="Revoke an API key; it stops working within seconds",
        responses={200: answer(KeyList, "The keys left."), **error_specs(400, 401, 403, 404, 503)},
    )
    async def revoke_key(request: Request[Any, Any, Any], key_id: FromPath[str]) -> Response[bytes]:
        tenant = principal_of(request).tenant
        await access.revoke(tenant, key_id[:64].replace("\x00", ""))
        return json_answer(KeyList([key_info(key) for key in await access.keys(tenant)]))

    return [create_key, list_keys, revoke_key]
