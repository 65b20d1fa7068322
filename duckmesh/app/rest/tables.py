"""The table calls."""

from typing import Any

import msgspec
from litestar import Request, Response, delete, get, patch, post
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath

from duckmesh.app.rest.bodies import answer, body_of, error_specs, json_answer
from duckmesh.app.rest.context import ROLES, principal_of
from duckmesh.app.rest.described import described_body
from duckmesh.app.tables.service import Changed, TableRequest, TableService
from duckmesh.domain.access import Role
from duckmesh.domain.errors import InvalidRequest
from duckmesh.domain.schema import schema_json
from duckmesh.domain.tables import TableDefinition

_MAX_BODY = 4 * 1024 * 1024
_READ = {ROLES: (Role.TABLE_ADMIN, Role.QUERY_READER)}
_WRITE = {ROLES: (Role.TABLE_ADMIN,)}


class TableBody(msgspec.Struct, forbid_unknown_fields=True):
    """A new table. ``schema_json`` maps a column to a DuckDB type, or to an object with ``type`` and more."""

    table_name: str
    schema_json: dict[str, Any] = {}
    primary_key_cols: list[str] = []
    partition_spec: list[Any] | None = None
    compatibility_mode: str = "backward"
    schema_mode: str = "strict"


class TableChangeBody(msgspec.Struct, forbid_unknown_fields=True):
    """The whole new schema of a table."""

    schema_json: dict[str, Any]
    rename: dict[str, str] | None = None
    drop: list[str] | None = None


class TableInfo(msgspec.Struct, omit_defaults=True):
    """A table at its newest schema version; ``visibility_token`` covers the change that was just made."""

    table_name: str
    table_id: str
    schema_version: int
    schema_json: dict[str, Any]
    primary_key_cols: list[str]
    compatibility_mode: str
    schema_mode: str
    visibility_token: int | None = None


class TableList(msgspec.Struct):
    """Tables by name."""

    tables: list[TableInfo]
    next_cursor: str | None


def _info(table: TableDefinition, token: int | None = None) -> TableInfo:
    return TableInfo(
        table.name,
        table.table_id,
        table.schema.version,
        schema_json(table.schema),
        [column.name for column in table.schema.key_columns],
        table.compatibility.value,
        table.schema_mode.value,
        token,
    )


def _changed(change: Changed, status: int = 200) -> Response[bytes]:
    return json_answer(_info(change.table, change.token), status)


def _decode(body: bytes, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(f"the body is not what this call reads: {error}") from error


def table_routes(service: TableService) -> list[HTTPRouteHandler]:
    """The handlers of `/v1/tables`."""

    @post(
        "/v1/tables",
        status_code=201,
        opt=_WRITE,
        summary="Create a table",
        operation_class=described_body(TableBody),
        responses={
            201: answer(TableInfo, "The table."),
            **error_specs(400, 401, 403, 409, 413, 429, 503, 504),
        },
    )
    async def create_table(request: Request[Any, Any, Any]) -> Response[bytes]:
        body: TableBody = _decode(await body_of(request, _MAX_BODY), TableBody)
        if body.partition_spec:
            raise InvalidRequest("partition_spec is not available in this version; leave it out")
        asked = TableRequest(
            body.table_name, body.schema_json, body.primary_key_cols, body.compatibility_mode, body.schema_mode
        )
        return _changed(await service.create(principal_of(request).tenant, asked), 201)

    @get(
        "/v1/tables",
        opt=_READ,
        summary="List the tables",
        responses={200: answer(TableList, "All tables."), **error_specs(400, 401, 403, 503)},
    )
    async def list_tables(request: Request[Any, Any, Any]) -> Response[bytes]:
        tables = await service.list(principal_of(request).tenant)
        return json_answer(TableList([_info(table) for table in tables], None))

    @get(
        "/v1/tables/{table:str}",
        opt=_READ,
        summary="Show a table",
        responses={200: answer(TableInfo, "The table."), **error_specs(400, 401, 403, 404, 503)},
    )
    async def show_table(request: Request[Any, Any, Any], table: FromPath[str]) -> Response[bytes]:
        return json_answer(_info(await service.get(principal_of(request).tenant, table)))

    @patch(
        "/v1/tables/{table:str}",
        opt=_WRITE,
        summary="Make the next schema version of a table",
        operation_class=described_body(TableChangeBody),
        responses={
            200: answer(TableInfo, "The table after the change."),
            **error_specs(400, 401, 403, 404, 409, 413, 429, 503, 504),
        },
    )
    async def alter_table(request: Request[Any, Any, Any], table: FromPath[str]) -> Response[bytes]:
        body: TableChangeBody = _decode(await body_of(request, _MAX_BODY), TableChangeBody)
        if body.rename or body.drop:
            raise InvalidRequest("rename and drop are not available in this version; columns can be added")
        return _changed(await service.alter(principal_of(request).tenant, table, body.schema_json))

    @delete(
        "/v1/tables/{table:str}",
        status_code=200,
        opt=_WRITE,
        summary="Drop a table",
        responses={
            200: answer(TableInfo, "The table that was dropped."),
            **error_specs(400, 401, 403, 404, 429, 503, 504),
        },
    )
    async def drop_table(request: Request[Any, Any, Any], table: FromPath[str]) -> Response[bytes]:
        return _changed(await service.drop(principal_of(request).tenant, table))

    return [create_table, list_tables, show_table, alter_table, drop_table]
