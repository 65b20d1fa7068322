"""Making, changing and dropping tables: control writes that take their place among the data."""

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from attrs import frozen

from duckmesh.app.ingest.committer import GroupCommitter, PreparedWrite
from duckmesh.app.ingest.decoder import check_default
from duckmesh.app.query.barrier import VisibilityBarrier
from duckmesh.app.tables.known import KnownTables, TenantTables
from duckmesh.domain.errors import (
    IncompatibleSchema,
    InvalidRequest,
    InvalidSchema,
    Overloaded,
    SchemaChanged,
    TableExists,
    error_of,
)
from duckmesh.domain.names import check_table_name, fold
from duckmesh.domain.schema import (
    ColumnSpec,
    CompatibilityMode,
    SchemaMode,
    first_schema,
    grown_schema,
    parse_specs,
)
from duckmesh.domain.tables import AlterTable, ControlChange, CreateTable, DropTable, TableDefinition
from duckmesh.ports.catalog import Catalog

_ATTEMPTS: Final = 20
_WAIT_S: Final = 30.0


@frozen
class TableRequest:
    """What a user asks of a new table."""

    name: str
    schema_json: Mapping[str, Any]
    primary_key: Sequence[str] = ()
    compatibility: str = CompatibilityMode.BACKWARD.value
    schema_mode: str = SchemaMode.STRICT.value


@frozen
class Changed:
    """A control write that took effect: the table after it, and the token that covers it."""

    table: TableDefinition
    token: int


class TableService:
    """Tables of tenants. Every change is durable and visible when a call returns."""

    def __init__(
        self, catalog: Catalog, committer: GroupCommitter, known: KnownTables, barrier: VisibilityBarrier
    ) -> None:
        self._catalog = catalog
        self._committer = committer
        self._known = known
        self._barrier = barrier

    async def list(self, tenant: str) -> list[TableDefinition]:
        """All tables of the tenant, by name."""
        known = await self._known.refresh(tenant)
        return sorted(known.tables.values(), key=lambda table: fold(table.name))

    async def get(self, tenant: str, name: str) -> TableDefinition:
        """One table; raises `TableNotFound`."""
        return (await self._known.refresh(tenant)).table(name)

    async def create(self, tenant: str, request: TableRequest) -> Changed:
        """Make a table; raises `TableExists`, `InvalidSchema` or `InvalidName`."""
        table = new_table(request)

        def plan(known: TenantTables) -> ControlChange:
            if fold(table.name) in known.tables:
                raise TableExists(f"table {table.name!r} exists already", table=table.name)
            return CreateTable(table)

        token = await self._change(tenant, plan)
        return Changed(table, token)

    async def alter(self, tenant: str, name: str, schema_json: Mapping[str, Any]) -> Changed:
        """Make the next schema version from the whole new schema; raises `IncompatibleSchema`."""
        specs = _checked_specs(schema_json)
        made: list[TableDefinition] = []

        def plan(known: TenantTables) -> ControlChange:
            current = known.table(name)
            schema = grown_schema(current.schema, specs, current.compatibility)
            made.append(current)
            return AlterTable(current.table_id, schema)

        token = await self._change(tenant, plan)
        return Changed(await self.get(tenant, made[-1].name), token)

    async def grow(self, tenant: str, table: TableDefinition, specs: Sequence[ColumnSpec]) -> None:
        """Add inferred columns; when somebody else changed the table first, the caller infers again."""

        def plan(known: TenantTables) -> ControlChange:
            current = known.table(table.name)
            if current.schema.version != table.schema.version:
                raise _ChangedMeanwhile
            return AlterTable(current.table_id, grown_schema(current.schema, specs, current.compatibility))

        try:
            await self._change(tenant, plan)
        except (_ChangedMeanwhile, IncompatibleSchema):
            await self._known.refresh(tenant)

    async def drop(self, tenant: str, name: str) -> Changed:
        """Hide the table from later snapshots; raises `TableNotFound`."""
        dropped: list[TableDefinition] = []

        def plan(known: TenantTables) -> ControlChange:
            dropped.append(known.table(name))
            return DropTable(dropped[-1].table_id)

        token = await self._change(tenant, plan)
        return Changed(dropped[-1], token)

    async def _change(self, tenant: str, plan: Callable[[TenantTables], ControlChange]) -> int:
        """Put a control write into the log, planned on the tables as they are, and wait for its outcome."""
        for _ in range(_ATTEMPTS):
            known = await self._known.refresh(tenant)
            write = PreparedWrite(known.schema_token, control=plan(known))
            try:
                outcome = await self._committer.submit(tenant, write)
            except SchemaChanged as error:
                await self._barrier.wait(tenant, error.context.get("control_token", 0), _WAIT_S)
                continue
            await self._barrier.wait(tenant, outcome.token, _WAIT_S)
            await self._known.refresh(tenant)
            result = await self._catalog.control_result(tenant, outcome.token)
            if result is not None and result.error_code is not None:
                raise error_of(result.error_code, result.error_message or "", result.error_context)
            return outcome.token
        raise Overloaded("the tables change too often; try again", retry_after_s=1)


class _ChangedMeanwhile(Exception):
    pass


def new_table(request: TableRequest) -> TableDefinition:
    """The definition that a request asks for, with an id of its own."""
    check_table_name(request.name)
    mode = _choice(SchemaMode, request.schema_mode, "schema_mode")
    if not request.schema_json and mode is SchemaMode.STRICT:
        raise InvalidSchema("schema_json is empty: name at least one column, or use schema_mode 'auto'")
    schema = first_schema(_checked_specs(request.schema_json), request.primary_key)
    compatibility = _choice(CompatibilityMode, request.compatibility, "compatibility_mode")
    return TableDefinition(uuid.uuid4().hex, request.name, schema, compatibility, mode)


def _checked_specs(schema_json: Mapping[str, Any]) -> tuple[ColumnSpec, ...]:
    specs = parse_specs(schema_json)
    for spec in specs:
        check_default(spec)
    return specs


_E = TypeVar("_E", SchemaMode, CompatibilityMode)


def _choice(kind: type[_E], value: str, name: str) -> _E:
    try:
        return kind(value)
    except ValueError as error:
        allowed = ", ".join(member.value for member in kind)
        raise InvalidRequest(f"{name} {value[:40]!r} is unknown; use one of {allowed}") from error
