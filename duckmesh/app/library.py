"""DuckMesh as a library: the same use cases as the server, in the caller's own process."""

import asyncio
import contextlib
import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec
import pyarrow as pa
from attrs import frozen

from duckmesh.adapters.postgres import migrate
from duckmesh.adapters.postgres.embedded import EmbeddedPostgres
from duckmesh.app.container import Adapters, Container, compose, memory_adapters, open_adapters
from duckmesh.app.ingest.service import Receipt
from duckmesh.app.query.encoding import encode_json_rows
from duckmesh.app.query.service import Freshness
from duckmesh.app.settings import Settings, load_settings
from duckmesh.app.tables.service import TableRequest
from duckmesh.domain.snapshots import Manifest, Snapshot
from duckmesh.domain.tables import TableDefinition
from duckmesh.domain.writes import Operation

MEMORY = "memory"


@frozen(eq=False)
class Result:
    """The rows of one query, and the snapshot that they come from.

    ``truncated`` says that the row limit cut them. ``duration_ms`` is the engine's time.
    """

    arrow: pa.Table
    column_types: tuple[str, ...]
    snapshot: Snapshot
    truncated: bool
    duration_ms: float

    def rows(self) -> list[tuple[Any, ...]]:
        """The rows with the values that the HTTP API shows."""
        return [tuple(row) for row in msgspec.json.decode(encode_json_rows(self.arrow))]

    def to_pandas(self) -> Any:
        """The rows as a pandas frame; pandas must be installed."""
        return self.arrow.to_pandas()

    def to_polars(self) -> Any:
        """The rows as a polars frame; polars must be installed."""
        import polars as pl  # noqa: PLC0415 - optional

        return pl.from_arrow(self.arrow)


class Mesh:
    """One tenant of an open DuckMesh. Made by `duckmesh.open`."""

    def __init__(self, container: Container, adapters: Adapters, tenant: str) -> None:
        self._ingest = container.ingest()
        self._queries = container.queries()
        self._tables = container.tables()
        self._adapters = adapters
        self.tenant = tenant

    async def create_table(
        self,
        name: str,
        schema: Mapping[str, Any],
        *,
        primary_key: Sequence[str] = (),
        schema_mode: Literal["strict", "auto"] = "strict",
    ) -> TableDefinition:
        """Create a table: ``schema`` maps a column to a DuckDB type. Raises `TableExists`, `InvalidSchema`."""
        request = TableRequest(name, schema, primary_key, schema_mode=schema_mode)
        return (await self._tables.create(self.tenant, request)).table

    async def tables(self) -> list[TableDefinition]:
        """All tables, by name."""
        return await self._tables.list(self.tenant)

    async def alter_table(self, name: str, schema: Mapping[str, Any]) -> TableDefinition:
        """Make the next version from the whole new schema. Raises `IncompatibleSchema`."""
        return (await self._tables.alter(self.tenant, name, schema)).table

    async def drop_table(self, name: str) -> None:
        """Hide the table from later snapshots. Raises `TableNotFound`."""
        await self._tables.drop(self.tenant, name)

    async def ingest(
        self,
        table: str,
        records: Sequence[Mapping[str, Any]] | pa.Table | pa.RecordBatch,
        *,
        idempotency_key: str | None = None,
        op: Literal["insert", "upsert", "delete"] = "insert",
        wait: bool = False,
        timeout_s: float | None = None,
    ) -> Receipt:
        """Write rows; durable when this returns, visible too with ``wait``.

        ``records`` are rows as mappings or an Arrow table. With ``idempotency_key`` a repeated call is not stored
        twice: it is the key of an Arrow table as a whole, and the beginning of the keys of single rows. Raises
        `ValidationFailed`, `IdempotencyConflict`, `ConsistencyTimeout`.
        """
        key = idempotency_key or uuid.uuid4().hex
        timeout_ms = None if timeout_s is None else round(timeout_s * 1000)
        if isinstance(records, pa.Table | pa.RecordBatch):
            return await self._ingest.ingest_arrow(
                self.tenant,
                table,
                _stream(records),
                idempotency_key=key,
                op=Operation[op.upper()],
                wait=wait,
                timeout_ms=timeout_ms,
            )
        numbered = [
            {"idempotency_key": f"{key}:{number}", "op": op, "payload": row} for number, row in enumerate(records)
        ]
        body: dict[str, Any] = {"records": numbered, "wait_for_visibility": wait}
        if timeout_ms is not None:
            body["visibility_timeout_ms"] = timeout_ms
        return await self._ingest.ingest(self.tenant, table, msgspec.json.encode(body))

    async def query(
        self,
        sql: str,
        parameters: Sequence[Any] | Mapping[str, Any] | None = None,
        *,
        min_visibility_token: int | None = None,
        snapshot_id: int | None = None,
        snapshot_time: datetime | None = None,
        timeout_s: float | None = None,
        row_limit: int | None = None,
    ) -> Result:
        """Run one SELECT on the latest snapshot, or on the one that is named.

        With ``min_visibility_token`` it sees that write or raises `ConsistencyTimeout`.
        """
        freshness = Freshness(snapshot_id, snapshot_time, min_visibility_token, timeout_s=timeout_s)
        answer = await self._queries.query(
            self.tenant, sql, parameters=parameters, freshness=freshness, row_limit=row_limit
        )
        found = answer.result
        return Result(found.table, found.column_types, answer.snapshot, found.truncated, found.duration_ms)

    async def snapshots(self, limit: int = 50) -> Sequence[Snapshot]:
        """The newest snapshots, newest first."""
        return await self._adapters.catalog.snapshots(self.tenant, limit=limit)

    async def manifest(self, snapshot_id: int | None = None) -> Manifest:
        """A snapshot with its tables and files; the newest by default. Raises `SnapshotNotFound`."""
        return await self._queries.manifest(self.tenant, snapshot_id)


def _stream(rows: pa.Table | pa.RecordBatch) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, rows.schema) as writer:
        writer.write(rows)
    return bytes(sink.getvalue())


@asynccontextmanager
async def open_mesh(
    location: str | Path = MEMORY, *, tenant: str = "default", settings: Settings | None = None
) -> AsyncIterator[Mesh]:
    """See `duckmesh.open`."""
    async with AsyncExitStack() as stack:
        adapters, chosen = await stack.enter_async_context(_opened(location, settings))
        container = compose(chosen, adapters)
        await container.access().ensure_tenant(tenant)
        await stack.enter_async_context(container.barrier().open())
        coordinator = asyncio.create_task(container.coordinator().run(), name="coordinator")
        stack.push_async_callback(_cancelled, coordinator)
        yield Mesh(container, adapters, tenant)


async def _cancelled(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


@asynccontextmanager
async def _opened(location: str | Path, settings: Settings | None) -> AsyncIterator[tuple[Adapters, Settings]]:
    if settings is not None:
        async with open_adapters(settings) as adapters:
            yield adapters, settings
    elif location == MEMORY:
        chosen = load_settings(env={}, object_store_url="memory://")
        async with memory_adapters(chosen) as adapters:
            yield adapters, chosen
    else:
        async with _embedded(Path(location)) as opened:
            yield opened


def _made(folder: Path) -> Path:
    absolute = folder.expanduser().absolute()
    absolute.mkdir(parents=True, exist_ok=True)
    return absolute


@asynccontextmanager
async def _embedded(folder: Path) -> AsyncIterator[tuple[Adapters, Settings]]:
    folder = await asyncio.to_thread(_made, folder)
    postgres = EmbeddedPostgres(folder)
    await postgres.start()
    try:
        await migrate.upgrade_if_empty(postgres.dsn)
        settings = load_settings(env={}, data_dir=folder, postgres_dsn=postgres.dsn)
        async with open_adapters(settings) as adapters:
            yield adapters, settings
    finally:
        await postgres.stop()
