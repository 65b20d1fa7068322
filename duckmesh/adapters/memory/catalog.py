"""`MemoryCatalog`: the reference model of the catalog.

Every operation is one step between two awaits, which stands for a transaction: a publication is checked and applied
on copies, and replaces the tenant's state as a whole or not at all.
"""

import asyncio
import itertools
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import datetime

from attrs import define, evolve, field

from duckmesh.adapters.memory.entries import Clock, utc_now
from duckmesh.adapters.memory.ledger import MemoryKeyLedger
from duckmesh.domain.access import ApiKey
from duckmesh.domain.errors import NotFound, SnapshotNotFound, TenantExists, TenantNotFound
from duckmesh.domain.idempotency import LedgerEntry
from duckmesh.domain.leases import check_epoch
from duckmesh.domain.snapshots import (
    CatalogHead,
    ControlResult,
    DataFile,
    Manifest,
    ParkedWrite,
    Publication,
    Snapshot,
    check_publication,
)
from duckmesh.domain.tables import TableDefinition, Tables, apply_change
from duckmesh.domain.writes import KeyClaim
from duckmesh.ports.catalog import CatalogEvent, SnapshotPublished, VisibilityDemanded


@define(eq=False)
class _Tenant:
    """One tenant's state; ``tables`` are kept for every snapshot."""

    head: CatalogHead
    snapshots: dict[int, Snapshot]
    tables: dict[int, dict[str, TableDefinition]]
    files: dict[int, DataFile] = field(factory=dict)
    results: dict[int, ControlResult] = field(factory=dict)
    parked: dict[int, ParkedWrite] = field(factory=dict)


class MemoryCatalog:
    """`Catalog` in one process; ``clock`` gives the times of snapshots."""

    def __init__(self, clock: Clock = utc_now) -> None:
        self._clock = clock
        self._tenants: dict[str, _Tenant] = {}
        self._keys: dict[str, ApiKey] = {}
        self._ledger = MemoryKeyLedger()
        self._snapshot_ids = itertools.count(1)
        self._file_ids = itertools.count(1)
        self._watchers: set[asyncio.Queue[CatalogEvent]] = set()

    # Tenants and keys.

    async def create_tenant(self, tenant: str) -> None:
        """See `TenantRegistry.create_tenant`."""
        if tenant in self._tenants:
            raise TenantExists(f"tenant {tenant!r} exists already", tenant=tenant)
        first = Snapshot(next(self._snapshot_ids), tenant, 0, self._clock(), "duckmesh")
        head = CatalogHead(tenant, 0, first.snapshot_id)
        self._tenants[tenant] = _Tenant(head, {first.snapshot_id: first}, {first.snapshot_id: {}})

    async def tenants(self) -> Sequence[str]:
        """See `TenantRegistry.tenants`."""
        return sorted(self._tenants)

    async def add_api_key(self, key: ApiKey) -> None:
        """See `TenantRegistry.add_api_key`."""
        self._tenant(key.tenant)
        self._keys[key.key_id] = key

    async def api_key(self, key_id: str) -> ApiKey | None:
        """See `TenantRegistry.api_key`."""
        return self._keys.get(key_id)

    async def api_keys(self, tenant: str) -> Sequence[ApiKey]:
        """See `TenantRegistry.api_keys`."""
        keys = [key for key in self._keys.values() if key.tenant == tenant]
        return sorted(keys, key=lambda key: (key.created_at, key.key_id))

    async def revoke_api_key(self, tenant: str, key_id: str, at: datetime) -> None:
        """See `TenantRegistry.revoke_api_key`."""
        key = self._keys.get(key_id)
        if key is None or key.tenant != tenant:
            raise NotFound(f"tenant {tenant!r} has no API key {key_id!r}", key_id=key_id)
        if key.revoked_at is None:
            self._keys[key_id] = evolve(key, revoked_at=at)

    # Publication.

    async def head(self, tenant: str) -> CatalogHead:
        """See `Catalog.head`."""
        return self._tenant(tenant).head

    async def record_epoch(self, tenant: str, epoch: int) -> CatalogHead:
        """See `Catalog.record_epoch`."""
        state = self._tenant(tenant)
        check_epoch(state.head.epoch, epoch, tenant)
        state.head = evolve(state.head, epoch=epoch)
        return state.head

    async def publish(self, publication: Publication) -> Snapshot:
        """See `Catalog.publish`."""
        state = self._tenant(publication.tenant)
        live = [number for number in publication.ended if _is_live(state.files.get(number))]
        check_publication(state.head, publication, live)
        before = state.tables[state.head.snapshot_id]
        tables = _applied(before, publication.controls)
        snapshot = Snapshot(
            next(self._snapshot_ids),
            publication.tenant,
            publication.watermark,
            max(self._clock(), state.snapshots[state.head.snapshot_id].published_at),
            publication.author,
            state.head.snapshot_id,
        )
        dropped = {table.table_id for table in before.values()} - {table.table_id for table in tables.values()}
        state.files = self._files_after(state.files, publication, dropped, snapshot.snapshot_id)
        state.snapshots[snapshot.snapshot_id] = snapshot
        state.tables[snapshot.snapshot_id] = tables
        state.results.update((result.token, result) for result in publication.controls)
        state.parked.update((write.token, write) for write in publication.parked)
        state.head = _head_after(state.head, publication, snapshot)
        self._tell(SnapshotPublished(publication.tenant, snapshot.snapshot_id, snapshot.watermark))
        return snapshot

    def _files_after(
        self, files: Mapping[int, DataFile], publication: Publication, dropped: set[str], snapshot_id: int
    ) -> dict[int, DataFile]:
        """The files after a publication; those of dropped tables end with them."""
        after = dict(files)
        for number, file in files.items():
            if number in publication.ended or (file.end_snapshot is None and file.file.table_id in dropped):
                after[number] = evolve(file, end_snapshot=snapshot_id)
        for added in publication.added:
            file = DataFile(next(self._file_ids), added, snapshot_id)
            after[file.file_id] = file
        return after

    # Snapshots.

    async def manifest(self, tenant: str, snapshot_id: int | None = None) -> Manifest:
        """See `Catalog.manifest`."""
        state = self._tenant(tenant)
        wanted = state.head.snapshot_id if snapshot_id is None else snapshot_id
        snapshot = state.snapshots.get(wanted)
        if snapshot is None:
            raise SnapshotNotFound(f"tenant {tenant!r} has no snapshot {wanted}", snapshot_id=wanted)
        tables = state.tables[wanted]
        live = [file for file in state.files.values() if file.live_in(wanted)]
        files = {
            table.table_id: tuple(file for file in live if file.file.table_id == table.table_id)
            for table in tables.values()
        }
        return Manifest(snapshot, dict(tables), files)

    async def snapshot_at(self, tenant: str, time: datetime) -> Snapshot:
        """See `Catalog.snapshot_at`."""
        published = [s for s in self._tenant(tenant).snapshots.values() if s.published_at <= time]
        if not published:
            raise SnapshotNotFound(
                f"tenant {tenant!r} has no snapshot as old as {time.isoformat()}", snapshot_time=time.isoformat()
            )
        return max(published, key=lambda snapshot: (snapshot.published_at, snapshot.snapshot_id))

    async def snapshots(self, tenant: str, *, before: int | None = None, limit: int = 50) -> Sequence[Snapshot]:
        """See `Catalog.snapshots`."""
        newest_first = sorted(self._tenant(tenant).snapshots.values(), key=lambda s: -s.snapshot_id)
        return [s for s in newest_first if before is None or s.snapshot_id < before][:limit]

    async def control_result(self, tenant: str, token: int) -> ControlResult | None:
        """See `Catalog.control_result`."""
        return self._tenant(tenant).results.get(token)

    async def parked(self, tenant: str, through: int) -> Sequence[ParkedWrite]:
        """See `Catalog.parked`."""
        parked = self._tenant(tenant).parked
        return [parked[token] for token in sorted(parked) if token <= through]

    # Keys.

    async def reserve(self, tenant: str, claim: KeyClaim) -> Mapping[bytes, LedgerEntry]:
        """See `KeyLedger.reserve`."""
        return await self._ledger.reserve(tenant, claim)

    async def confirm(self, tenant: str, entries: Mapping[bytes, LedgerEntry]) -> None:
        """See `KeyLedger.confirm`."""
        await self._ledger.confirm(tenant, entries)

    async def release(self, tenant: str, key_ids: Sequence[bytes]) -> None:
        """See `KeyLedger.release`."""
        await self._ledger.release(tenant, key_ids)

    async def settle(self, tenant: str, token: int, claim: KeyClaim) -> Sequence[int]:
        """See `KeyLedger.settle`."""
        return await self._ledger.settle(tenant, token, claim)

    # Events.

    async def demand(self, tenant: str, token: int) -> None:
        """See `Catalog.demand`."""
        self._tell(VisibilityDemanded(tenant, token))

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[AsyncIterator[CatalogEvent]]:
        """See `Catalog.watch`."""
        queue: asyncio.Queue[CatalogEvent] = asyncio.Queue()
        self._watchers.add(queue)
        try:
            yield _Events(queue)
        finally:
            self._watchers.discard(queue)

    def _tell(self, event: CatalogEvent) -> None:
        for queue in self._watchers:
            queue.put_nowait(event)

    def set_published_at(self, snapshot_id: int, at: datetime) -> None:
        """Change when a snapshot was published: a back door for tests."""
        for state in self._tenants.values():
            if snapshot_id in state.snapshots:
                state.snapshots[snapshot_id] = evolve(state.snapshots[snapshot_id], published_at=at)

    def _tenant(self, tenant: str) -> _Tenant:
        if tenant not in self._tenants:
            raise TenantNotFound(f"there is no tenant {tenant!r}", tenant=tenant)
        return self._tenants[tenant]


class _Events:
    """An endless iterator that may be left at any time."""

    def __init__(self, queue: asyncio.Queue[CatalogEvent]) -> None:
        self._queue = queue

    def __aiter__(self) -> AsyncIterator[CatalogEvent]:
        return self

    async def __anext__(self) -> CatalogEvent:
        return await self._queue.get()


def _is_live(file: DataFile | None) -> bool:
    return file is not None and file.end_snapshot is None


def _applied(tables: Tables, controls: Sequence[ControlResult]) -> dict[str, TableDefinition]:
    """The tables after the control writes that succeeded, in their order."""
    after = dict(tables)
    for result in controls:
        if result.error_code is None:
            after = apply_change(after, result.change)
    return after


def _head_after(head: CatalogHead, publication: Publication, snapshot: Snapshot) -> CatalogHead:
    """A control write counts as seen whether it could be applied or not: a later validation knows about it."""
    return CatalogHead(
        head.tenant,
        snapshot.watermark,
        snapshot.snapshot_id,
        max(head.epoch, publication.epoch),
        max([head.control_token, *(result.token for result in publication.controls)]),
    )
