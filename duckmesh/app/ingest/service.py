"""From a request's body to a receipt: validate, make durable, and wait for visibility when asked to."""

import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import Final

from attrs import evolve as changed
from attrs import frozen

from duckmesh.app.ingest.arrow_body import decode_arrow
from duckmesh.app.ingest.committer import GroupCommitter, PreparedPart, PreparedWrite
from duckmesh.app.ingest.decoder import DecodedRecords, RecordDecoder, split_tables
from duckmesh.app.ingest.infer import grown_specs
from duckmesh.app.query.barrier import VisibilityBarrier
from duckmesh.app.query.scope import Scopes
from duckmesh.app.tables.known import KnownTables, TenantTables
from duckmesh.app.tables.service import TableService
from duckmesh.domain.errors import (
    ConsistencyTimeout,
    DuckMeshError,
    InvalidRequest,
    Overloaded,
    PayloadTooLarge,
    SchemaChanged,
    ValidationFailed,
)
from duckmesh.domain.schema import SchemaMode
from duckmesh.domain.tables import TableDefinition
from duckmesh.domain.writes import Accepted, Operation, TableRef, WritePart
from duckmesh.ports.bus import IngestBus
from duckmesh.ports.catalog import Catalog

_SCHEMA_ATTEMPTS: Final = 20
_SCHEMA_WAIT_S: Final = 30.0
_PENDING_CHECK_S: Final = 1.0


@frozen
class TableCounts:
    """Records of one table in a receipt."""

    accepted: int
    duplicates: int


@frozen
class Receipt:
    """What a caller holds of a durable write. ``token`` covers it, and every original of a duplicate."""

    token: int
    scope: str
    accepted: int
    duplicates: int
    tables: dict[str, TableCounts]
    snapshot_id: int | None = None

    @property
    def status(self) -> str:
        """``visible`` when it waited and is covered, else whether there was a duplicate."""
        if self.snapshot_id is not None:
            return "visible"
        return "partial_duplicate" if self.duplicates else "accepted"


@frozen
class IngestOptions:
    """Limits of one request, and of what may be pending."""

    max_records: int = 100_000
    max_pending_records: int = 10_000_000
    default_timeout_s: float = 10.0
    max_timeout_s: float = 300.0


@frozen(eq=False)
class _Prepared:
    write: PreparedWrite
    tables: tuple[str, ...]
    wait: bool
    timeout_ms: int | None


class IngestService:
    """Ingest of all forms of bodies."""

    def __init__(
        self,
        bus: IngestBus,
        catalog: Catalog,
        committer: GroupCommitter,
        known: KnownTables,
        tables: TableService,
        barrier: VisibilityBarrier,
        scopes: Scopes,
        options: IngestOptions,
    ) -> None:
        self._bus = bus
        self._catalog = catalog
        self._committer = committer
        self._known = known
        self._tables = tables
        self._barrier = barrier
        self._scopes = scopes
        self._options = options
        self._pending: dict[str, tuple[float, int]] = {}

    async def ingest(self, tenant: str, table: str, body: bytes, trace: str | None = None) -> Receipt:
        """Records of one table as JSON."""

        async def prepare(known: TenantTables) -> _Prepared:
            definition = known.table(table)
            decoder = known.decoder(definition)
            request = decoder.decode(body)
            write = self._write(known, [_json_part(definition, decoder, request.records)], trace)
            return _Prepared(write, (definition.name,), request.wait_for_visibility, request.visibility_timeout_ms)

        async def grow() -> bool:
            return await self._grow(tenant, {table: body})

        return await self._durable(tenant, (table,), prepare, grow)

    async def ingest_tables(self, tenant: str, body: bytes, trace: str | None = None) -> Receipt:
        """Records of several tables as JSON, in one atomic write."""
        raw, wait, timeout_ms = split_tables(body)
        if not raw:
            raise InvalidRequest("tables is empty: name at least one table with its records")

        async def prepare(known: TenantTables) -> _Prepared:
            parts = []
            for name, records in raw.items():
                definition = known.table(name)
                decoder = known.decoder(definition)
                parts.append(_json_part(definition, decoder, decoder.decode_records(bytes(records))))
            if len({part.part.table for part in parts}) != len(parts):
                raise InvalidRequest("a table is named twice (names are case-insensitive)")
            names = tuple(part.part.table_name for part in parts)
            return _Prepared(self._write(known, parts, trace), names, wait, timeout_ms)

        async def grow() -> bool:
            bodies = {name: b'{"records":' + _records_of(bytes(records)) + b"}" for name, records in raw.items()}
            return await self._grow(tenant, bodies)

        return await self._durable(tenant, tuple(raw), prepare, grow)

    async def ingest_arrow(
        self,
        tenant: str,
        table: str,
        body: bytes,
        *,
        idempotency_key: str,
        op: Operation = Operation.INSERT,
        wait: bool = False,
        timeout_ms: int | None = None,
        trace: str | None = None,
    ) -> Receipt:
        """Rows of one table as an Arrow stream, under one idempotency key."""

        async def prepare(known: TenantTables) -> _Prepared:
            definition = known.table(table)
            decoded = decode_arrow(
                definition, tenant, body, idempotency_key=idempotency_key, op=op, now=datetime.now(UTC)
            )
            part = WritePart(
                _ref(definition),
                definition.name,
                decoded.rows,
                decoded.keys,
                decoded.key_ids,
                decoded.content_ids,
                True,
            )
            write = PreparedWrite(known.schema_token, (PreparedPart(part, batch=decoded.batch),), trace=trace)
            return _Prepared(write, (definition.name,), wait, timeout_ms)

        return await self._durable(tenant, (table,), prepare, None)

    def _write(self, known: TenantTables, parts: list[PreparedPart], trace: str | None) -> PreparedWrite:
        write = PreparedWrite(known.schema_token, tuple(parts), trace=trace)
        if write.rows > self._options.max_records:
            raise PayloadTooLarge(
                f"a request has at most {self._options.max_records} records; send several",
                limit=self._options.max_records,
                records=write.rows,
            )
        return write

    async def _durable(
        self,
        tenant: str,
        tables: tuple[str, ...],
        prepare: Callable[[TenantTables], Awaitable[_Prepared]],
        grow: Callable[[], Awaitable[bool]] | None,
    ) -> Receipt:
        """Validate and publish, again whenever the tables changed in between; then wait if asked to."""
        await self._check_pending(tenant)
        for _ in range(_SCHEMA_ATTEMPTS):
            known = await self._known.get(tenant)
            for table in tables:
                known = await self._known.with_table(tenant, table)
            try:
                prepared = await prepare(known)
            except ValidationFailed:
                fresh = await self._known.refresh(tenant)
                # Only an up-to-date schema may refuse, and an automatic one may grow first.
                if fresh is known and not (grow is not None and await grow()):
                    raise
                continue
            try:
                outcome = await self._committer.submit(tenant, prepared.write)
            except SchemaChanged as error:
                await self._await_schema(tenant, error)
                continue
            return await self._receipt(tenant, prepared, outcome)
        raise Overloaded("the tables change too often for this write to be validated; try again", retry_after_s=1)

    async def _await_schema(self, tenant: str, error: SchemaChanged) -> None:
        token = error.context.get("control_token")
        if token is not None:
            await self._barrier.wait(tenant, token, _SCHEMA_WAIT_S)
        await self._known.refresh(tenant)

    async def _grow(self, tenant: str, bodies: dict[str, bytes]) -> bool:
        """Add the columns that the records bring to tables with an automatic schema; whether any were added."""
        known = await self._known.get(tenant)
        grown = False
        for name, body in bodies.items():
            definition = known.table(name)
            if definition.schema_mode is SchemaMode.AUTO:
                specs = grown_specs(definition.schema, body)
                if specs is not None:
                    await self._tables.grow(tenant, definition, specs)
                    grown = True
        return grown

    async def _receipt(self, tenant: str, prepared: _Prepared, outcome: Accepted) -> Receipt:
        counts = {
            name: TableCounts(accepted, duplicates)
            for name, accepted, duplicates in zip(prepared.tables, outcome.accepted, outcome.duplicates, strict=True)
        }
        scope = await self._scopes.scope(tenant)
        receipt = Receipt(outcome.token, scope, sum(outcome.accepted), sum(outcome.duplicates), counts)
        if not prepared.wait:
            return receipt
        return await self._visible(tenant, receipt, prepared.timeout_ms)

    async def _visible(self, tenant: str, receipt: Receipt, timeout_ms: int | None) -> Receipt:
        timeout_s = self._options.default_timeout_s if timeout_ms is None else timeout_ms / 1000
        try:
            head = await self._barrier.wait(tenant, receipt.token, min(timeout_s, self._options.max_timeout_s))
        except DuckMeshError as error:
            # The write is durable whatever happens to the wait, and the caller must learn its token.
            timed_out = error if isinstance(error, ConsistencyTimeout) else ConsistencyTimeout(
                f"the write is durable, but waiting for it failed: {error.message}"
            )  # fmt: skip
            timed_out.context["receipt"] = receipt_json(receipt)
            raise timed_out from error
        return changed(receipt, snapshot_id=head.snapshot_id)

    async def _check_pending(self, tenant: str) -> None:
        """Shed early when the tenant's backlog is over its cap; the figure is at most a second old."""
        now = time.monotonic()
        checked_at, pending = self._pending.get(tenant, (-_PENDING_CHECK_S, 0))
        if now - checked_at >= _PENDING_CHECK_S:
            self._pending[tenant] = (now, pending)  # one look at a time
            head = await self._catalog.head(tenant)
            pending = (await self._bus.lag(tenant, head.watermark)).pending_events
            self._pending[tenant] = (now, pending)
        if pending > self._options.max_pending_records:
            raise Overloaded(
                f"{pending} records of this tenant are not visible yet, over the cap of "
                f"{self._options.max_pending_records}; slow down",
                pending_records=pending,
                limit=self._options.max_pending_records,
                retry_after_s=1,
            )


def receipt_json(receipt: Receipt) -> dict[str, object]:
    """A receipt in the form of the API."""
    shown: dict[str, object] = {
        "accepted_count": receipt.accepted,
        "duplicate_count": receipt.duplicates,
        "max_visibility_token": receipt.token,
        "visibility_scope": receipt.scope,
        "status": receipt.status,
    }
    if receipt.snapshot_id is not None:
        shown["visible_snapshot_id"] = receipt.snapshot_id
    return shown


def _ref(definition: TableDefinition) -> TableRef:
    return TableRef(definition.table_id, definition.schema.version)


def _json_part(definition: TableDefinition, decoder: RecordDecoder, records: DecodedRecords) -> PreparedPart:
    part = WritePart(
        _ref(definition), definition.name, records.rows, records.keys, records.key_ids, records.content_ids
    )
    return PreparedPart(part, records=records, convert=decoder.batch)


def _records_of(table_body: bytes) -> bytes:
    """The records of one table of a several-tables body."""
    import msgspec  # noqa: PLC0415 - only when a schema grows

    return bytes(msgspec.json.decode(table_body, type=dict[str, msgspec.Raw]).get("records", msgspec.Raw(b"[]")))
