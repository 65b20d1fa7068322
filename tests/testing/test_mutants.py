"""Adapters that are broken on purpose: each breaks its law, so the suites can be believed when they pass.

A mutant names every law that it breaks. More than one is named where one fault is visible in several promises, as
a lost row is to every law that reads rows.
"""

import asyncio
from bisect import insort
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

import pytest
from attrs import evolve

from duckmesh.adapters.memory import MemoryBus, MemoryCatalog, PartitionedMemoryBus
from duckmesh.adapters.memory import bus as memory_bus
from duckmesh.adapters.memory.entries import StoredEntry
from duckmesh.adapters.memory.leases import LeaseSlot
from duckmesh.domain.errors import DuckMeshError, PublicationConflict, StaleEpoch
from duckmesh.domain.idempotency import LedgerEntry, decide_group
from duckmesh.domain.leases import Lease
from duckmesh.domain.snapshots import CatalogHead, Manifest, Publication, Snapshot
from duckmesh.domain.writes import Accepted, ClaimedBatch, KeyClaim, LogEntry, Outcome, Refused, WriteGroup
from duckmesh.ports.bus import BusCapabilities, ClaimLimits
from duckmesh.ports.catalog import SnapshotPublished
from duckmesh.testing.bus import IngestBusSuite
from duckmesh.testing.catalog import CatalogSuite
from duckmesh.testing.mutants import broken_laws


class BusLaws(IngestBusSuite):
    async def expire_lease(self, bus: MemoryBus, lease: Lease) -> None:
        bus.expire_lease(lease.tenant)


class CatalogLaws(CatalogSuite):
    async def set_published_at(self, catalog: MemoryCatalog, snapshot: Snapshot, at: datetime) -> None:
        catalog.set_published_at(snapshot.snapshot_id, at)


# Logs.


class DrawsTokensBeforeCommit(MemoryBus):
    """The sequence of the textbook: a later token commits first."""

    late: StoredEntry | None = None
    turn = 0

    def _store(self, log: Any, group: Any, decision: Any) -> None:
        super()._store(log, group, decision)
        self.late = log.entries.pop()

    async def publish(self, group: WriteGroup) -> Sequence[Outcome]:
        outcomes = await super().publish(group)
        late, self.late = self.late, None
        if late is not None:
            self.turn += 1
            for _ in range(self.turn % 4):
                await asyncio.sleep(0)
            insort(self._log(group.tenant).entries, late, key=lambda entry: entry.last_token)
        return outcomes


class DrawsTokensInBlocks(MemoryBus):
    """Two sessions draw from blocks of their own, so a later commit has a lower token."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = {True: 0, False: 1000}
        self.first = False

    async def publish(self, group: WriteGroup) -> Sequence[Outcome]:
        log, self.first = self._log(group.tenant), not self.first
        highest, log.token = log.token, self.blocks[self.first]
        outcomes = await super().publish(group)
        self.blocks[self.first], log.token = log.token, max(highest, log.token)
        log.entries.sort(key=lambda entry: entry.last_token)
        return outcomes


class LeavesHoles(MemoryBus):
    """A refused write takes its number with it."""

    async def publish(self, group: WriteGroup) -> Sequence[Outcome]:
        outcomes = await super().publish(group)
        if any(isinstance(outcome, Refused) for outcome in outcomes):
            self._log(group.tenant).token += 1
        return outcomes


class LosesTheLastRow(MemoryBus):
    """A row of every batch of several does not reach the log."""

    def _store(self, log: Any, group: Any, decision: Any) -> None:
        cut = {ref: batch.slice(0, max(batch.num_rows - 1, 1)) for ref, batch in group.data.items()}
        super()._store(log, WriteGroup(group.tenant, group.writes, cut, 0), evolve(decision, kept={}))


class SkipsAtTheLimit(MemoryBus):
    """A batch that was cut says that it goes one entry further."""

    def _claim(self, log: Any, holder: str, limits: ClaimLimits, after: int | None) -> ClaimedBatch:
        batch = super()._claim(log, holder, limits, after)
        rest = log.after(batch.range.through)
        return evolve(batch, range=evolve(batch.range, through=rest[0].last_token)) if rest else batch


class ReadsTheLedgerTooEarly(MemoryBus):
    """Keys are looked up, and decided later: a racing retry is stored twice."""

    async def publish(self, group: WriteGroup) -> Sequence[Outcome]:
        log = self._log(group.tenant)
        known = dict(log.ledger)
        await asyncio.sleep(0)
        log.ledger, current = known, log.ledger
        outcomes = await super().publish(group)
        log.ledger = {**current, **log.ledger}
        return outcomes


class StoresDuplicates(MemoryBus):
    """A retry is counted as new."""

    async def publish(self, group: WriteGroup) -> Sequence[Outcome]:
        self._log(group.tenant).ledger.clear()
        return await super().publish(group)


class RefusesTheNeighbours(MemoryBus):
    """One conflict fails the transaction of all."""

    async def publish(self, group: WriteGroup) -> Sequence[Outcome]:
        log = self._log(group.tenant)
        decision = decide_group(group, log.ledger, lambda number: log.token + 1 + number)
        refused = next((outcome for outcome in decision.outcomes if isinstance(outcome, Refused)), None)
        return [refused] * len(group.writes) if refused is not None else await super().publish(group)


class KeepsKeysOfRefusedWrites(MemoryBus):
    """The keys of a refused write are taken although nothing of it was stored."""

    async def publish(self, group: WriteGroup) -> Sequence[Outcome]:
        outcomes = await super().publish(group)
        for write, outcome in zip(group.writes, outcomes, strict=True):
            for part in write.parts if isinstance(outcome, Refused) else ():
                for key_id, content_id in zip(part.key_ids, part.content_ids, strict=True):
                    self._log(group.tenant).ledger.setdefault(key_id, LedgerEntry(content_id, 1))
        return outcomes


class CountsABodyAsOneRecord(MemoryBus):
    """Counts keys where rows are meant."""

    async def publish(self, group: WriteGroup) -> Sequence[Outcome]:
        outcomes = await super().publish(group)
        whole = [any(part.whole for part in write.parts) for write in group.writes]
        return [
            evolve(outcome, duplicates=tuple(min(count, 1) for count in outcome.duplicates))
            if one_key and isinstance(outcome, Accepted)
            else outcome
            for one_key, outcome in zip(whole, outcomes, strict=True)
        ]


class ForgetsTheSchema(MemoryBus):
    """Control writes are not looked at."""

    async def publish(self, group: WriteGroup) -> Sequence[Outcome]:
        return await super().publish(evolve(group, schema_token=2**62))


class SeesControlsAtTheEndOnly(MemoryBus):
    """The head follows a control write only when it is the last of its group."""

    def _store(self, log: Any, group: Any, decision: Any) -> None:
        before = log.control_token
        super()._store(log, group, decision)
        if group.writes[-1].control is None:
            log.control_token = before


class NeverRaisesTheEpoch(MemoryBus):
    """All holders share one epoch."""

    def _claim(self, log: Any, holder: str, limits: ClaimLimits, after: int | None) -> ClaimedBatch:
        batch = super()._claim(log, holder, limits, after)
        log.lease.epoch = 1
        return evolve(batch, lease=evolve(batch.lease, epoch=1))


class ExtendsLostLeases(MemoryBus):
    """Whoever asks keeps the tenant."""

    async def extend_lease(self, lease: Lease) -> Lease:
        return lease


class _OpenSlot(LeaseSlot):
    def open_to(self, holder: str, now: float) -> bool:  # noqa: ARG002
        return True


class GivesTheTenantToAnybody(MemoryBus):
    """A lease keeps nobody away."""

    def _log(self, tenant: str) -> Any:
        if tenant not in self._logs:
            self._logs[tenant] = memory_bus._Log(tenant, lease=_OpenSlot())
        return self._logs[tenant]


class DeliversAtMostOnce(MemoryBus):
    """What was handed out counts as published."""

    def _claim(self, log: Any, holder: str, limits: ClaimLimits, after: int | None) -> ClaimedBatch:
        batch = super()._claim(log, holder, limits, after)
        log.acked = batch.range.through
        return batch


class DeliversNewestFirst(MemoryBus):
    """The order of a batch is that of the index."""

    def _claim(self, log: Any, holder: str, limits: ClaimLimits, after: int | None) -> ClaimedBatch:
        batch = super()._claim(log, holder, limits, after)
        return evolve(batch, entries=batch.entries[::-1])


class ForgetsTheTrace(MemoryBus):
    """Nobody can follow a write."""

    def _store(self, log: Any, group: Any, decision: Any) -> None:
        untraced = tuple(evolve(write, trace=None) for write in group.writes)
        super()._store(log, evolve(group, writes=untraced), decision)


class IgnoresWhatTheHolderKnows(MemoryBus):
    """A holder that knows everything is given it again."""

    async def claim_batch(
        self,
        holder: str,
        *,
        limits: ClaimLimits,
        tenant: str | None = None,
        after: int | None = None,  # noqa: ARG002
    ) -> ClaimedBatch | None:
        return await super().claim_batch(holder, limits=limits, tenant=tenant)


class MovesPositionsBack(MemoryBus):
    """The last acknowledgement counts, whoever it came from and whatever was known."""

    async def ack(self, lease: Lease, through: int) -> None:
        self._log(lease.tenant).acked = through


class FreesWhatOthersHold(MemoryBus):
    """Giving back does not ask who holds the tenant."""

    async def nack(self, lease: Lease) -> None:
        self._log(lease.tenant).lease.free()


class RequeuesLiveLeases(MemoryBus):
    """Takes tenants from those who work on them."""

    async def requeue_expired(self) -> int:
        for log in self._logs.values():
            if log.lease.holder is not None:
                log.lease.expire()
        return await super().requeue_expired()


class _LiveEntry(StoredEntry):
    live: Mapping[Any, Any]

    def delivered(self) -> LogEntry:
        return LogEntry(self.writes, self.live)


class SharesMemoryWithProducers(MemoryBus):
    """The log keeps the objects that it was given."""

    def _store(self, log: Any, group: Any, decision: Any) -> None:
        super()._store(log, group, decision)
        entry = log.entries[-1]
        if not decision.kept:
            live = _LiveEntry(entry.writes, entry.data, entry.stored_at)
            object.__setattr__(live, "live", group.data)
            log.entries[-1] = live


class CutsTheWrongRows(MemoryBus):
    """As many rows as are new, but the first ones."""

    def _store(self, log: Any, group: Any, decision: Any) -> None:
        first = {ref: range(len(rows)) for ref, rows in decision.kept.items()}
        super()._store(log, group, evolve(decision, kept=first))


class ShowsForeignWrites(MemoryBus):
    """A claim delivers whatever is in the log table, whoever wrote it."""

    def _claim(self, log: Any, holder: str, limits: ClaimLimits, after: int | None) -> ClaimedBatch:
        batch = super()._claim(log, holder, limits, after)
        foreign = [entry.delivered() for other in self._logs.values() if other is not log for entry in other.entries]
        return evolve(batch, entries=(*batch.entries, *foreign))


class ServesOneTenant(MemoryBus):
    """Without a name, always the same tenant."""

    async def claim_batch(
        self, holder: str, *, limits: ClaimLimits, tenant: str | None = None, after: int | None = None
    ) -> ClaimedBatch | None:
        return await super().claim_batch(holder, limits=limits, tenant=tenant or "acme", after=after)


class CountsWrites(MemoryBus):
    """The lag counts writes, not records."""

    async def lag(self, tenant: str, watermark: int) -> Any:
        lag = await super().lag(tenant, watermark)
        log = self._log(tenant)
        pending = sum(len(entry.writes) for entry in log.after(watermark))
        return evolve(lag, pending_events=pending)


class CountsClaimsForEver(MemoryBus):
    """Claimed records stay claimed when nobody works on them."""

    async def lag(self, tenant: str, watermark: int) -> Any:
        lag = await super().lag(tenant, watermark)
        return evolve(lag, claimed_events=lag.pending_events if self._log(tenant).lease.epoch else 0)


class SleepsInsteadOfWaiting(MemoryBus):
    """Nobody is woken."""

    async def wait_for_work(self, timeout_s: float) -> None:
        await asyncio.sleep(timeout_s)


class WaitsForEver(MemoryBus):
    """The time to wait is not looked at."""

    async def wait_for_work(self, timeout_s: float) -> None:  # noqa: ARG002
        await super().wait_for_work(3600)


class PromisesTooLittle(MemoryBus):
    """Keeps every law and declares none: exemptions must not go stale."""

    @property
    def capabilities(self) -> BusCapabilities:
        return BusCapabilities(dense_tokens=False, deduplicates=False, checks_schema=False)


class DropsForeignOffsets(PartitionedMemoryBus):
    """A tenant's watermark stays at its own last write."""

    def __init__(self) -> None:
        super().__init__(MemoryCatalog())

    def _claim(self, partition: Any, tenant: str, *rest: Any) -> ClaimedBatch:
        batch = super()._claim(partition, tenant, *rest)
        own = [write.token for entry in batch.entries for write in entry.writes]
        return evolve(batch, range=evolve(batch.range, through=max(own, default=batch.range.after)))


class PromisesTooMuch(PartitionedMemoryBus):
    """Declares what a shared log without transactions cannot keep."""

    def __init__(self) -> None:
        super().__init__(MemoryCatalog())

    @property
    def capabilities(self) -> BusCapabilities:
        return BusCapabilities(dense_tokens=True, deduplicates=True, checks_schema=True)


BUSES = [
    (DrawsTokensBeforeCommit, {"BUS-2"}),
    # Whatever compares two tokens, and delivery that goes by them.
    (
        DrawsTokensInBlocks,
        {"BUS-1", "BUS-3", "BUS-6", "BUS-9", "BUS-21", "BUS-48", "BUS-61", "BUS-67", "BUS-68", "BUS-71", "BUS-79"},
    ),
    (LeavesHoles, {"BUS-6"}),
    # Every law that reads more than one row.
    (LosesTheLastRow, {"BUS-21", "BUS-24", "BUS-27", "BUS-29", "BUS-31", "BUS-62", "BUS-63"}),
    # The law, and what it costs.
    (SkipsAtTheLimit, {"BUS-67", "BUS-68"}),
    (ReadsTheLedgerTooEarly, {"BUS-31"}),
    # Every law that sends a key again; the conflicts too.
    (
        StoresDuplicates,
        {"BUS-6", "BUS-21", "BUS-24", "BUS-25", "BUS-26", "BUS-27", "BUS-29", "BUS-31", "BUS-63", "BUS-77"},
    ),
    # Inside the group or from before.
    (RefusesTheNeighbours, {"BUS-27", "BUS-28"}),
    (KeepsKeysOfRefusedWrites, {"BUS-26"}),
    (CountsABodyAsOneRecord, {"BUS-29"}),
    # One after the other, and racing.
    (ForgetsTheSchema, {"BUS-9", "BUS-10"}),
    (SeesControlsAtTheEndOnly, {"BUS-8"}),
    # Every way in which a holder changes.
    (NeverRaisesTheEpoch, {"BUS-44", "BUS-46", "BUS-49", "BUS-51"}),
    # Lost, lost and taken again, and the time that did not run.
    (ExtendsLostLeases, {"BUS-45", "BUS-46", "BUS-47"}),
    # Every law that sends a second holder away.
    (GivesTheTenantToAnybody, {"BUS-41", "BUS-42", "BUS-47", "BUS-48", "BUS-50", "BUS-51"}),
    # Every law that claims the same write twice.
    (DeliversAtMostOnce, {"BUS-44", "BUS-45", "BUS-46", "BUS-49", "BUS-50", "BUS-51", "BUS-67", "BUS-70"}),
    # Every law that reads several entries in order.
    (DeliversNewestFirst, {"BUS-7", "BUS-9", "BUS-61", "BUS-64", "BUS-67", "BUS-68", "BUS-71"}),
    (ForgetsTheTrace, {"BUS-64"}),
    (IgnoresWhatTheHolderKnows, {"BUS-71"}),
    # Under a lost lease, and under the own.
    (MovesPositionsBack, {"BUS-48", "BUS-69"}),
    (FreesWhatOthersHold, {"BUS-50"}),
    (RequeuesLiveLeases, {"BUS-51"}),
    (SharesMemoryWithProducers, {"BUS-65"}),
    # Every law that reads what a duplicate left.
    (CutsTheWrongRows, {"BUS-24", "BUS-27", "BUS-29", "BUS-63"}),
    (ShowsForeignWrites, {"BUS-74"}),
    (ServesOneTenant, {"BUS-75"}),
    (CountsWrites, {"BUS-77"}),
    (CountsClaimsForEver, {"BUS-78"}),
    (SleepsInsteadOfWaiting, {"BUS-79"}),
    # Also the reader that waits between two claims.
    (WaitsForEver, {"BUS-2", "BUS-80"}),
    # The laws of its capabilities.
    (PromisesTooLittle, {"BUS-6", "BUS-9", "BUS-10", "BUS-31", "BUS-32"}),
    (DropsForeignOffsets, {"BUS-73"}),
    # The laws of its capabilities.
    (PromisesTooMuch, {"BUS-6", "BUS-9", "BUS-10", "BUS-31"}),
]


# Catalogs.


class IgnoresTheEpoch(MemoryCatalog):
    """Fencing is left to the lease."""

    async def publish(self, publication: Publication) -> Snapshot:
        head = await self.head(publication.tenant)
        return await super().publish(evolve(publication, epoch=max(head.epoch, publication.epoch)))


class IgnoresTheWatermark(MemoryCatalog):
    """A publication counts wherever it was planned."""

    async def publish(self, publication: Publication) -> Snapshot:
        head = await self.head(publication.tenant)
        return await super().publish(evolve(publication, base_watermark=head.watermark))


class ChecksBeforeTheLock(MemoryCatalog):
    """What was checked is not what is changed."""

    async def publish(self, publication: Publication) -> Snapshot:
        state = self._tenant(publication.tenant)
        head, files = state.head, dict(state.files)
        await asyncio.sleep(0)
        snapshots = dict(state.snapshots)
        state.head, state.files = head, {**state.files, **files}
        try:
            return await super().publish(publication)
        finally:
            state.snapshots = {**snapshots, **state.snapshots}


class LetsTheWatermarkGoBack(MemoryCatalog):
    """Any watermark is as good."""

    async def publish(self, publication: Publication) -> Snapshot:
        lower = publication.watermark < publication.base_watermark
        snapshot = await super().publish(
            evolve(publication, watermark=publication.base_watermark) if lower else publication
        )
        state = self._tenant(publication.tenant)
        state.head = evolve(state.head, watermark=publication.watermark)
        return snapshot


class EndsFilesThatAreGone(MemoryCatalog):
    """Files that are gone are ended again."""

    async def publish(self, publication: Publication) -> Snapshot:
        files = self._tenant(publication.tenant).files
        live = [number for number in publication.ended if number in files and files[number].end_snapshot is None]
        return await super().publish(evolve(publication, ended=tuple(live)))


class PublishesInParts(MemoryCatalog):
    """Files are there before the control writes fail."""

    async def publish(self, publication: Publication) -> Snapshot:
        try:
            return await super().publish(publication)
        except (StaleEpoch, PublicationConflict):
            raise
        except DuckMeshError:
            await super().publish(evolve(publication, controls=()))
            raise


class AppliesFailedControls(MemoryCatalog):
    """A control write that failed drops a table all the same."""

    async def publish(self, publication: Publication) -> Snapshot:
        snapshot = await super().publish(publication)
        if any(result.error_code for result in publication.controls):
            self._tenant(publication.tenant).tables[snapshot.snapshot_id].clear()
        return snapshot


class ForgetsFailedControls(MemoryCatalog):
    """A control write that failed was never there: every later write waits for it."""

    async def publish(self, publication: Publication) -> Snapshot:
        applied = tuple(result for result in publication.controls if result.error_code is None)
        return await super().publish(evolve(publication, controls=applied))


class ForgetsParkedWrites(MemoryCatalog):
    """Keeps the last publication's parked writes only."""

    async def publish(self, publication: Publication) -> Snapshot:
        before = dict(self._tenant(publication.tenant).parked)
        snapshot = await super().publish(publication)
        for token in before:
            del self._tenant(publication.tenant).parked[token]
        return snapshot


class ShowsThePresentInOldSnapshots(MemoryCatalog):
    """A manifest of any snapshot has the files of the newest."""

    async def manifest(self, tenant: str, snapshot_id: int | None = None) -> Manifest:
        manifest = await super().manifest(tenant, snapshot_id)
        return evolve(manifest, files=(await super().manifest(tenant)).files)


class CachesManifests(MemoryCatalog):
    """The newest manifest is the first one that was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.cached: dict[Any, Manifest] = {}

    async def manifest(self, tenant: str, snapshot_id: int | None = None) -> Manifest:
        if (tenant, snapshot_id) not in self.cached:
            self.cached[tenant, snapshot_id] = await super().manifest(tenant, snapshot_id)
        return self.cached[tenant, snapshot_id]


class KeepsFilesOfDroppedTables(MemoryCatalog):
    """A dropped table leaves its files behind."""

    async def manifest(self, tenant: str, snapshot_id: int | None = None) -> Manifest:
        manifest = await super().manifest(tenant, snapshot_id)
        files = [file for file in self._tenant(tenant).files.values() if not manifest.files.get(file.file.table_id)]
        orphans = {file.file.table_id: (file,) for file in files}
        return evolve(manifest, files={**orphans, **manifest.files})


class GivesTiesToTheEarlier(MemoryCatalog):
    """Of two snapshots of one instant the first."""

    async def snapshot_at(self, tenant: str, time: datetime) -> Snapshot:
        at = await super().snapshot_at(tenant, time)
        return min(
            (s for s in self._tenant(tenant).snapshots.values() if s.published_at == at.published_at),
            key=lambda snapshot: snapshot.snapshot_id,
        )


class RepeatsTheCursor(MemoryCatalog):
    """A page begins with the last of the page before."""

    async def snapshots(self, tenant: str, *, before: int | None = None, limit: int = 50) -> Sequence[Snapshot]:
        return await super().snapshots(tenant, before=before + 1 if before else None, limit=limit)


class ShowsForeignSnapshots(MemoryCatalog):
    """A snapshot id opens any tenant's snapshot."""

    async def manifest(self, tenant: str, snapshot_id: int | None = None) -> Manifest:
        owners = [name for name, state in self._tenants.items() if snapshot_id in state.snapshots]
        return await super().manifest(owners[0] if owners else tenant, snapshot_id)


class LetsEpochsFall(MemoryCatalog):
    """The last epoch counts, not the highest."""

    async def record_epoch(self, tenant: str, epoch: int) -> CatalogHead:
        state = self._tenant(tenant)
        state.head = evolve(state.head, epoch=epoch)
        return state.head


class ForgetsValues(MemoryCatalog):
    """Key bounds are stored as text."""

    async def publish(self, publication: Publication) -> Snapshot:
        as_text = [
            evolve(file, key_min=tuple(map(str, file.key_min)) if file.key_min else None) for file in publication.added
        ]
        return await super().publish(evolve(publication, added=tuple(as_text)))


class RevokesAgain(MemoryCatalog):
    """The last revocation counts."""

    async def revoke_api_key(self, tenant: str, key_id: str, at: datetime) -> None:
        await super().revoke_api_key(tenant, key_id, at)
        self._keys[key_id] = evolve(self._keys[key_id], revoked_at=at)


class RevokesForeignKeys(MemoryCatalog):
    """A key's id is enough."""

    async def revoke_api_key(self, tenant: str, key_id: str, at: datetime) -> None:
        key = self._keys.get(key_id)
        await super().revoke_api_key(key.tenant if key else tenant, key_id, at)


class ReservesTwice(MemoryCatalog):
    """Looks first and reserves later."""

    async def reserve(self, tenant: str, claim: KeyClaim) -> Mapping[bytes, LedgerEntry]:
        found = {key: entry for key in claim.key_ids if (entry := self._ledger._entries.get((tenant, key)))}
        await asyncio.sleep(0)
        await super().reserve(tenant, claim)
        return found


class ConfirmsAgain(MemoryCatalog):
    """The last token counts."""

    async def confirm(self, tenant: str, entries: Mapping[bytes, LedgerEntry]) -> None:
        self._ledger._entries.update({(tenant, key): entry for key, entry in entries.items()})


class ReleasesConfirmedKeys(MemoryCatalog):
    """Gives up what is in the log."""

    async def release(self, tenant: str, key_ids: Sequence[bytes]) -> None:
        for key in key_ids:
            self._ledger._entries.pop((tenant, key), None)


class SettlesForTheFirstConfirmed(MemoryCatalog):
    """The copy that was confirmed is kept, although the other one is visible already."""

    async def settle(self, tenant: str, token: int, claim: KeyClaim) -> Sequence[int]:
        entries = self._ledger._entries
        repeated = []
        for row, (key, content) in enumerate(zip(claim.key_ids, claim.content_ids, strict=True)):
            entry = entries.get((tenant, key))
            if entry is None or entry.token == 0:
                entries[tenant, key] = LedgerEntry(content, token)
            elif entry.token != token:
                repeated.append(row)
        return repeated


class SettlesOnce(MemoryCatalog):
    """A part that is delivered again is taken for a copy."""

    async def settle(self, tenant: str, token: int, claim: KeyClaim) -> Sequence[int]:
        repeated = set(await super().settle(tenant, token, claim))
        entries = self._ledger._entries
        for row, key in enumerate(claim.key_ids):
            if (tenant, key, "seen") in entries:
                repeated.add(row)
            entries[tenant, key, "seen"] = LedgerEntry(b"", token)  # type: ignore[index]
        return sorted(repeated)


class SharesTheLedger(MemoryCatalog):
    """One tenant's keys are everybody's."""

    async def reserve(self, tenant: str, claim: KeyClaim) -> Mapping[bytes, LedgerEntry]:  # noqa: ARG002
        return await super().reserve("everybody", claim)

    async def confirm(self, tenant: str, entries: Mapping[bytes, LedgerEntry]) -> None:  # noqa: ARG002
        await super().confirm("everybody", entries)

    async def release(self, tenant: str, key_ids: Sequence[bytes]) -> None:  # noqa: ARG002
        await super().release("everybody", key_ids)

    async def settle(self, tenant: str, token: int, claim: KeyClaim) -> Sequence[int]:  # noqa: ARG002
        return await super().settle("everybody", token, claim)


class TellsOfRefusals(MemoryCatalog):
    """Watchers hear of what did not happen."""

    async def publish(self, publication: Publication) -> Snapshot:
        try:
            return await super().publish(publication)
        except DuckMeshError:
            self._tell(SnapshotPublished(publication.tenant, 0, publication.watermark))
            raise


class TellsOneWatcher(MemoryCatalog):
    """An event is taken by whoever comes first."""

    def _tell(self, event: Any) -> None:
        for queue in list(self._watchers)[:1]:
            queue.put_nowait(event)


CATALOGS = [
    (IgnoresTheEpoch, {"CAT-3"}),
    # One after the other, and racing.
    (IgnoresTheWatermark, {"CAT-5", "CAT-8"}),
    # Racing for the watermark, and for a file.
    (ChecksBeforeTheLock, {"CAT-8", "CAT-9"}),
    # 63 lets a watermark go back to be refused.
    (LetsTheWatermarkGoBack, {"CAT-6", "CAT-63"}),
    # Gone, gone to a racer, and never the own.
    (EndsFilesThatAreGone, {"CAT-7", "CAT-9", "CAT-30"}),
    (PublishesInParts, {"CAT-13"}),
    (AppliesFailedControls, {"CAT-12"}),
    (ForgetsFailedControls, {"CAT-12"}),
    (ForgetsParkedWrites, {"CAT-14"}),
    # Two ways to replace a file.
    (ShowsThePresentInOldSnapshots, {"CAT-10", "CAT-21"}),
    # Every law that asks for the newest twice.
    (CachesManifests, {"CAT-9", "CAT-10", "CAT-21"}),
    # Dropped, and dropped and made again.
    (KeepsFilesOfDroppedTables, {"CAT-22", "CAT-23"}),
    (GivesTiesToTheEarlier, {"CAT-28"}),
    (RepeatsTheCursor, {"CAT-27"}),
    (ShowsForeignSnapshots, {"CAT-29"}),
    (LetsEpochsFall, {"CAT-4"}),
    (ForgetsValues, {"CAT-32"}),
    (RevokesAgain, {"CAT-46"}),
    (RevokesForeignKeys, {"CAT-47"}),
    (ReservesTwice, {"CAT-52"}),
    (ConfirmsAgain, {"CAT-53"}),
    (ReleasesConfirmedKeys, {"CAT-54"}),
    (SettlesForTheFirstConfirmed, {"CAT-56"}),
    # Both deliver a part again.
    (SettlesOnce, {"CAT-55", "CAT-56"}),
    (SharesTheLedger, {"CAT-57"}),
    (TellsOfRefusals, {"CAT-63"}),
    (TellsOneWatcher, {"CAT-62"}),
]


#: Mutants that hang are given up early; all others are given the time that a slow machine needs.
HANGING = {DrawsTokensInBlocks, SleepsInsteadOfWaiting, WaitsForEver, TellsOneWatcher}


def patience(mutant: type[Any]) -> float:
    return 2.0 if mutant in HANGING else 30.0


@pytest.mark.asyncio
@pytest.mark.parametrize(("mutant", "laws"), BUSES, ids=lambda value: getattr(value, "__name__", ""))
async def test_a_broken_log_breaks_its_law(mutant: type[Any], laws: set[str]) -> None:
    assert await broken_laws(BusLaws, timeout_s=patience(mutant), bus=mutant) == laws


@pytest.mark.asyncio
@pytest.mark.parametrize(("mutant", "laws"), CATALOGS, ids=lambda value: getattr(value, "__name__", ""))
async def test_a_broken_catalog_breaks_its_law(mutant: type[Any], laws: set[str]) -> None:
    assert await broken_laws(CatalogLaws, timeout_s=patience(mutant), catalog=mutant) == laws


@pytest.mark.asyncio
async def test_a_sound_adapter_breaks_none() -> None:
    assert await broken_laws(BusLaws, bus=MemoryBus) == set()
    assert await broken_laws(BusLaws, bus=lambda: PartitionedMemoryBus(MemoryCatalog())) == set()
    assert await broken_laws(CatalogLaws, catalog=MemoryCatalog) == set()
