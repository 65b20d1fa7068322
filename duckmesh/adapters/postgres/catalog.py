"""The catalog on PostgreSQL: snapshots, tables and files by begin and end, one transaction for a publication."""

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from typing import Any

from duckmesh.adapters.codec import (
    dump_change,
    dump_key,
    dump_table,
    json_text,
    load_change,
    load_key,
    load_table,
)
from duckmesh.adapters.postgres import catalog_sql as sql
from duckmesh.adapters.postgres.driver import Connection, Pool, acquired, translated
from duckmesh.adapters.postgres.ledger import PostgresLedger
from duckmesh.adapters.postgres.registry import PostgresRegistry
from duckmesh.adapters.postgres.signals import PostgresSignals
from duckmesh.domain.errors import SnapshotNotFound, TenantNotFound
from duckmesh.domain.leases import check_epoch
from duckmesh.domain.names import fold
from duckmesh.domain.snapshots import (
    CatalogHead,
    ControlResult,
    DataFile,
    Manifest,
    NewFile,
    ParkedWrite,
    Publication,
    Snapshot,
    check_publication,
)
from duckmesh.domain.tables import TableDefinition, apply_change
from duckmesh.ports.catalog import CatalogEvent
from duckmesh.ports.faults import crash_point


class PostgresCatalog(PostgresRegistry, PostgresLedger):
    """`Catalog` on PostgreSQL."""

    def __init__(self, pool: Pool, signals: PostgresSignals) -> None:
        super().__init__(pool)
        self._signals = signals

    async def head(self, tenant: str) -> CatalogHead:
        """See `Catalog.head`."""
        async with acquired(self._pool) as connection:
            return _head(tenant, await connection.fetchrow(sql.HEAD, tenant))

    async def record_epoch(self, tenant: str, epoch: int) -> CatalogHead:
        """See `Catalog.record_epoch`."""
        async with acquired(self._pool) as connection:
            row = await connection.fetchrow(sql.RECORD_EPOCH, tenant, epoch)
            if row is None:
                check_epoch(_head(tenant, await connection.fetchrow(sql.HEAD, tenant)).epoch, epoch, tenant)
        return _head(tenant, row)

    async def publish(self, publication: Publication) -> Snapshot:
        """See `Catalog.publish`."""
        async with acquired(self._pool) as connection:
            with translated(commits=True):
                async with connection.transaction():
                    snapshot = await self._publish(connection, publication)
                    crash_point("coordinator.inside_publication")
        self._signals.published(snapshot.tenant, snapshot.snapshot_id, snapshot.watermark)
        return snapshot

    async def _publish(self, connection: Connection, publication: Publication) -> Snapshot:
        head = _head(publication.tenant, await connection.fetchrow(sql.LOCK_HEAD, publication.tenant))
        live = (
            [r[0] for r in await connection.fetch(sql.LIVE, head.tenant, publication.ended)]
            if publication.ended
            else []
        )
        check_publication(head, publication, live)
        row = await connection.fetchrow(
            sql.ADVANCE,
            head.tenant,
            publication.watermark,
            publication.author,
            max((result.token for result in publication.controls), default=head.control_token),
        )
        snapshot = _snapshot(row)
        if publication.added:
            await connection.execute(
                sql.ADD_FILES, head.tenant, snapshot.snapshot_id, *_file_columns(publication.added)
            )
        if publication.ended:
            await connection.execute(sql.END_FILES, head.tenant, snapshot.snapshot_id, publication.ended)
        if publication.parked:
            await connection.execute(sql.PARK, head.tenant, *_parked_columns(publication.parked))
        if publication.controls:
            await self._apply_controls(connection, snapshot, publication.controls)
        return snapshot

    async def _apply_controls(
        self, connection: Connection, snapshot: Snapshot, controls: Sequence[ControlResult]
    ) -> None:
        """Write what the control changes make of the tables, and keep their results."""
        tenant = snapshot.tenant
        before = await self._tables(connection, tenant, snapshot.snapshot_id)
        after: Mapping[str, TableDefinition] = before
        for result in controls:
            if result.error_code is None:
                after = apply_change(after, result.change)
        old = {(t.table_id, t.schema.version) for t in before.values()}
        new = {(t.table_id, t.schema.version): t for t in after.values()}
        for table_id, version in old - set(new):
            await connection.execute(sql.END_TABLE, tenant, snapshot.snapshot_id, table_id, version)
        for (table_id, version), table in new.items():
            if (table_id, version) not in old:
                text = dump_table(table)
                await connection.execute(
                    sql.BEGIN_TABLE, tenant, snapshot.snapshot_id, table_id, version, fold(table.name), text
                )
        dropped = sorted({t.table_id for t in before.values()} - {t.table_id for t in after.values()})
        if dropped:
            await connection.execute(sql.END_TABLE_FILES, tenant, snapshot.snapshot_id, dropped)
        await connection.executemany(sql.ADD_CONTROL, [_control_row(tenant, result) for result in controls])

    async def manifest(self, tenant: str, snapshot_id: int | None = None) -> Manifest:
        """See `Catalog.manifest`."""
        async with acquired(self._pool) as connection:
            if snapshot_id is None:
                row = await connection.fetchrow(sql.LATEST_SNAPSHOT, tenant)
                if row is None:
                    raise _no_tenant(tenant)
            else:
                row = await connection.fetchrow(sql.SNAPSHOT, tenant, snapshot_id)
                if row is None:
                    raise SnapshotNotFound(
                        f"tenant {tenant!r} has no snapshot {snapshot_id}, or it has expired",
                        snapshot_id=snapshot_id,
                    )
            snapshot = _snapshot(row)
            tables = await self._tables(connection, tenant, snapshot.snapshot_id)
            rows = await connection.fetch(sql.FILES, tenant, snapshot.snapshot_id)
        files: dict[str, list[DataFile]] = {}
        for file in rows:
            files.setdefault(file["table_id"], []).append(_data_file(file))
        return Manifest(snapshot, tables, {table_id: tuple(found) for table_id, found in files.items()})

    async def _tables(self, connection: Connection, tenant: str, snapshot_id: int) -> dict[str, TableDefinition]:
        rows = await connection.fetch(sql.TABLES, tenant, snapshot_id)
        return {row["name"]: load_table(row["definition"]) for row in rows}

    async def snapshot_at(self, tenant: str, time: datetime) -> Snapshot:
        """See `Catalog.snapshot_at`."""
        async with acquired(self._pool) as connection:
            row = await connection.fetchrow(sql.SNAPSHOT_AT, tenant, time)
        if row is None:
            raise SnapshotNotFound(
                f"tenant {tenant!r} has no snapshot at or before {time.isoformat()}", snapshot_time=time.isoformat()
            )
        return _snapshot(row)

    async def snapshots(self, tenant: str, *, before: int | None = None, limit: int = 50) -> Sequence[Snapshot]:
        """See `Catalog.snapshots`."""
        async with acquired(self._pool) as connection:
            return [_snapshot(row) for row in await connection.fetch(sql.SNAPSHOTS, tenant, before, limit)]

    async def control_result(self, tenant: str, token: int) -> ControlResult | None:
        """See `Catalog.control_result`."""
        async with acquired(self._pool) as connection:
            row = await connection.fetchrow(sql.CONTROL_RESULT, tenant, token)
        if row is None:
            return None
        context = json.loads(row["error_context"])
        return ControlResult(token, load_change(row["change"]), row["error_code"], row["error_message"], context)

    async def parked(self, tenant: str, through: int) -> Sequence[ParkedWrite]:
        """See `Catalog.parked`."""
        async with acquired(self._pool) as connection:
            rows = await connection.fetch(sql.PARKED, tenant, through)
        return [ParkedWrite(r["token"], r["error_code"], r["reason"], tuple(r["tables"]), r["records"]) for r in rows]

    async def demand(self, tenant: str, token: int) -> None:
        """See `Catalog.demand`."""
        self._signals.demanded(tenant, token)

    def watch(self) -> AbstractAsyncContextManager[AsyncIterator[CatalogEvent]]:
        """See `Catalog.watch`."""
        return self._signals.watch()


def _no_tenant(tenant: str) -> TenantNotFound:
    return TenantNotFound(f"tenant {tenant!r} does not exist", tenant=tenant)


def _head(tenant: str, row: Any) -> CatalogHead:
    if row is None:
        raise _no_tenant(tenant)
    return CatalogHead(tenant, row["watermark"], row["snapshot_id"], row["epoch"], row["control_token"])


def _snapshot(row: Any) -> Snapshot:
    return Snapshot(
        row["snapshot_id"], row["tenant_id"], row["watermark"], row["published_at"], row["author"], row["parent_id"]
    )


def _file_columns(files: Sequence[NewFile]) -> list[list[Any]]:
    rows = [
        (
            f.table_id, f.path, f.schema_version, f.rows, f.bytes, f.checksum, f.min_token, f.max_token,
            f.min_event_time, f.max_event_time, dump_key(f.key_min), dump_key(f.key_max),
        )
        for f in files
    ]  # fmt: skip
    return [list(column) for column in zip(*rows, strict=True)]


def _data_file(row: Any) -> DataFile:
    file = NewFile(
        row["table_id"], row["path"], row["schema_version"], row["rows"], row["bytes"], row["checksum"],
        row["min_token"], row["max_token"], _instant(row["min_event_time"]), _instant(row["max_event_time"]),
        load_key(row["key_min"]), load_key(row["key_max"]),
    )  # fmt: skip
    return DataFile(row["file_id"], file, row["begin_snapshot"], row["end_snapshot"])


def _instant(time: datetime) -> datetime:
    """The driver gives the first and the last instant that it knows without their zone."""
    return time if time.tzinfo is not None else time.replace(tzinfo=UTC)


def _parked_columns(parked: Sequence[ParkedWrite]) -> list[list[Any]]:
    rows = [(p.token, p.error_code, p.reason, json_text(list(p.tables)), p.records) for p in parked]
    return [list(column) for column in zip(*rows, strict=True)]


def _control_row(tenant: str, result: ControlResult) -> tuple[Any, ...]:
    context = json_text(dict(result.error_context))
    return tenant, result.token, dump_change(result.change), result.error_code, result.error_message, context
