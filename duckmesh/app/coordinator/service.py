"""The coordinator: claims what the log has, writes it to files, publishes, acknowledges.

Safety is not here: whatever two coordinators believe, the catalog's publication transaction lets one of them
through (contract, promise 3). This is the loop that makes progress: at once when idle or when somebody waits,
after `flush_interval_s` under continuous load, so that a busy tenant's micro-batches do not become tiny files.
"""

import asyncio
import contextlib
import functools
import os
import socket
import time
import uuid
from collections.abc import AsyncIterator, Callable
from typing import Final

import pyarrow as pa
import structlog
from attrs import define, field, frozen

from duckmesh.app.coordinator.materialise import DefaultOf, file_table, write_files
from duckmesh.domain.errors import DataCorrupt, DuckMeshError, LeaseLost, PublicationConflict, StaleEpoch
from duckmesh.domain.leases import Lease
from duckmesh.domain.planning import CommitPlan, plan_commit
from duckmesh.domain.snapshots import CatalogHead, ParkedWrite, Publication, Snapshot
from duckmesh.domain.tables import Tables
from duckmesh.domain.writes import ClaimedBatch, LoggedWrite
from duckmesh.ports.bus import ClaimLimits, IngestBus
from duckmesh.ports.catalog import Catalog, VisibilityDemanded
from duckmesh.ports.faults import crash_point
from duckmesh.ports.objectstore import ObjectStore
from duckmesh.ports.waiting import waited

log = structlog.get_logger(__name__)

_FIRST_BACKOFF_S: Final = 0.05
_LONGEST_BACKOFF_S: Final = 5.0
_BREATH_S: Final = 0.002
_GIVE_BACK_S: Final = 2.0
_PROBE: Final = ClaimLimits(max_records=1, max_bytes=1)


@frozen
class CoordinatorOptions:
    """``flush_interval_s`` bounds how long a busy tenant's writes gather; ``parallel`` tenants run at once."""

    limits: ClaimLimits = field(factory=ClaimLimits)
    flush_interval_s: float = 0.25
    poll_s: float = 0.25
    parallel: int = 4


@define
class _TenantState:
    """What the holder of a lease knows of a tenant, as long as it is the only one that publishes."""

    lease: Lease
    head: CatalogHead
    tables: Tables


@frozen(eq=False)
class Committed:
    """A published batch, for metrics and traces. ``duration_s`` is from claim to publication."""

    snapshot: Snapshot
    writes: tuple[LoggedWrite, ...]
    records: int
    duration_s: float


class Coordinator:
    """Materialises the logs of all tenants that it gets a lease for."""

    def __init__(
        self,
        bus: IngestBus,
        catalog: Catalog,
        store: ObjectStore,
        *,
        default_of: DefaultOf,
        options: CoordinatorOptions | None = None,
        on_commit: Callable[[Committed], None] = lambda _: None,
        on_failure: Callable[[str, DuckMeshError], None] = lambda _tenant, _error: None,
    ) -> None:
        self._bus = bus
        self._catalog = catalog
        self._store = store
        self._default_of = default_of
        self._options = options or CoordinatorOptions()
        self._on_commit = on_commit
        self._on_failure = on_failure
        self.holder = f"{socket.gethostname()}:{os.getpid()}:{uuid.uuid4().hex[:8]}"
        self._states: dict[str, _TenantState] = {}
        self._busy: dict[str, asyncio.Task[None]] = {}
        self._demanded: dict[str, int] = {}
        self._flushed_at: dict[str, float] = {}
        self._wake = asyncio.Event()
        self._demand_event = asyncio.Event()

    async def run(self) -> None:
        """Work until cancelled; failures of infrastructure are retried without limit."""
        try:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self._watch_work())
                tasks.create_task(self._watch_demands())
                tasks.create_task(self._loop())
        finally:
            await self._stop()

    async def _stop(self) -> None:
        """End what is under way, and give the leases back, so that nobody has to wait until they run out."""
        for task in tuple(self._busy.values()):
            task.cancel()
        await asyncio.gather(*self._busy.values(), return_exceptions=True)
        with contextlib.suppress(DuckMeshError, TimeoutError):
            async with asyncio.timeout(_GIVE_BACK_S):
                for state in self._states.values():
                    await self._bus.nack(state.lease)

    async def run_once(self, tenant: str | None = None) -> bool:
        """Claim and publish one batch; whether there was one. For tests and for a drain."""
        batch = await self._claim(self._options.limits, tenant)
        if batch is None:
            return False
        await self._process(batch)
        return True

    # The loop.

    async def _loop(self) -> None:
        backoff = _FIRST_BACKOFF_S
        while True:
            self._wake.clear()
            try:
                found = await self._dispatch()
                backoff = _FIRST_BACKOFF_S
            except Exception as error:  # noqa: BLE001 - the loop outlives whatever goes wrong in one round
                self._failed("", error if isinstance(error, DuckMeshError) else DuckMeshError(repr(error)))
                await asyncio.sleep(backoff)
                backoff = min(backoff * 2, _LONGEST_BACKOFF_S)
                continue
            if not found:
                await waited(self._wake, self._options.poll_s)

    async def _dispatch(self) -> bool:
        """Start work for one tenant; False when there is nothing to start now."""
        if len(self._busy) >= self._options.parallel:
            await asyncio.wait(self._busy.values(), return_when=asyncio.FIRST_COMPLETED)
        # While some tenants gather, a full claim could read a lot only to find one of them.
        oldest = time.monotonic() - self._options.flush_interval_s
        self._flushed_at = {tenant: at for tenant, at in self._flushed_at.items() if at > oldest}
        gathering = any(self._due_in(tenant) > 0 for tenant in self._flushed_at)
        batch = await self._claim(_PROBE if gathering or self._busy else self._options.limits)
        if batch is None or batch.tenant in self._busy:
            return False
        probed = None if gathering or self._busy else batch
        task = asyncio.create_task(self._work(batch.tenant, probed), name=f"coordinate-{batch.tenant}")
        self._busy[batch.tenant] = task
        task.add_done_callback(functools.partial(self._finished, batch.tenant))
        return True

    def _finished(self, tenant: str, _task: "asyncio.Task[None]") -> None:
        self._busy.pop(tenant, None)
        self._wake.set()

    async def _work(self, tenant: str, batch: ClaimedBatch | None) -> None:
        """Process a tenant's batch when it is due; failures leave it for the next round."""
        backoff = _FIRST_BACKOFF_S
        while True:
            try:
                if batch is None:
                    await self._until_due(tenant)
                    batch = await self._claim(self._options.limits, tenant)
                if batch is not None:
                    await self._process(batch)
            except StaleEpoch as error:
                self._failed(tenant, error)
                return
            except DuckMeshError as error:
                self._failed(tenant, error)
            except Exception as error:
                self._failed(tenant, DuckMeshError(f"a bug in the coordinator: {error!r}"))
                log.exception("coordinator.bug", tenant_id=tenant)
            else:
                return
            await asyncio.sleep(backoff)
            backoff, batch = min(backoff * 2, _LONGEST_BACKOFF_S), None

    def _failed(self, tenant: str, error: DuckMeshError) -> None:
        self._states.pop(tenant, None)
        self._on_failure(tenant, error)
        log.warning("coordinator.failed", tenant_id=tenant, error_code=error.code, reason=error.message)

    def _due_in(self, tenant: str) -> float:
        """Seconds until the tenant's writes have gathered long enough; 0 when somebody waits."""
        state = self._states.get(tenant)
        if state is None or self._demanded.get(tenant, 0) > state.head.watermark:
            return 0.0
        return max(0.0, self._flushed_at.get(tenant, 0.0) + self._options.flush_interval_s - time.monotonic())

    async def _until_due(self, tenant: str) -> None:
        while True:
            demand = self._demand_event
            seconds = self._due_in(tenant)
            if seconds <= 0:
                return
            await waited(demand, seconds)

    async def _watch_work(self) -> None:
        while True:
            try:
                await self._bus.wait_for_work(self._options.poll_s)
            except DuckMeshError:
                await asyncio.sleep(self._options.poll_s)
            self._wake.set()
            # A bus may say so as long as there is any work, also what is under way here already.
            await asyncio.sleep(_BREATH_S)

    async def _watch_demands(self) -> None:
        async with self._catalog.watch() as events:
            async for event in events:
                if isinstance(event, VisibilityDemanded):
                    self._demanded[event.tenant] = max(event.token, self._demanded.get(event.tenant, 0))
                    # A fresh event for whoever waits next, so that nobody clears it for somebody else.
                    demand, self._demand_event = self._demand_event, asyncio.Event()
                    demand.set()
                    self._wake.set()

    # One batch.

    async def _claim(self, limits: ClaimLimits, tenant: str | None = None) -> ClaimedBatch | None:
        state = self._states.get(tenant) if tenant is not None else None
        after = state.head.watermark if state is not None else None
        return await self._bus.claim_batch(self.holder, limits=limits, tenant=tenant, after=after)

    async def _process(self, batch: ClaimedBatch) -> None:
        crash_point("coordinator.after_claim")
        started = time.monotonic()
        async with self._lease_kept(batch):
            while True:
                try:
                    await self._commit(batch, started)
                except PublicationConflict as error:
                    self._failed(batch.tenant, error)  # maintenance was faster: plan again on what is there now
                    await asyncio.sleep(_FIRST_BACKOFF_S)
                    continue
                break
        self._flushed_at[batch.tenant] = time.monotonic()

    async def _commit(self, batch: ClaimedBatch, started: float) -> None:
        state = await self._state(batch)
        poisoned: dict[int, ParkedWrite] = {}
        while True:
            repeated = await self._repeated(batch)
            plan = plan_commit(batch, state.head.watermark, state.tables, poisoned, repeated)
            if plan.empty:
                await self._bus.ack(batch.lease, state.head.watermark)
                return
            try:
                files = await write_files(self._store, batch.tenant, plan.files, self._default_of)
            except (pa.ArrowException, ValueError, OverflowError) as error:
                found = await asyncio.to_thread(self._poison, plan, error)
                if not found.keys() - poisoned.keys():
                    raise DataCorrupt(f"the batch cannot be written to Parquet: {error}") from error
                poisoned.update(found)
                continue
            break
        crash_point("coordinator.after_upload")
        publication = Publication(
            tenant=batch.tenant,
            epoch=batch.lease.epoch,
            author=self.holder,
            base_watermark=state.head.watermark,
            watermark=plan.watermark,
            added=files,
            controls=plan.controls,
            parked=plan.parked,
        )
        snapshot = await self._catalog.publish(publication)
        crash_point("coordinator.after_publication")
        await self._published(batch, state, plan, snapshot, started)

    async def _published(
        self, batch: ClaimedBatch, state: _TenantState, plan: CommitPlan, snapshot: Snapshot, started: float
    ) -> None:
        state.head = CatalogHead(batch.tenant, plan.watermark, snapshot.snapshot_id, batch.lease.epoch)
        state.tables = plan.tables
        if self._demanded.get(batch.tenant, 0) <= plan.watermark:
            self._demanded.pop(batch.tenant, None)
        for parked in plan.parked:
            log.error("write.parked", tenant_id=batch.tenant, token=parked.token, error_code=parked.error_code,
                      reason=parked.reason)  # fmt: skip
        records = sum(file.rows for file in plan.files)
        self._on_commit(Committed(snapshot, plan.writes, records, time.monotonic() - started))
        await self._bus.ack(batch.lease, plan.watermark)

    async def _state(self, batch: ClaimedBatch) -> _TenantState:
        """What is known of the tenant; read anew, and the epoch recorded, when the lease is new."""
        state = self._states.get(batch.tenant)
        if state is None or state.lease.epoch != batch.lease.epoch:
            head = await self._catalog.record_epoch(batch.tenant, batch.lease.epoch)
            manifest = await self._catalog.manifest(batch.tenant, head.snapshot_id)
            state = _TenantState(batch.lease, head, manifest.tables)
            self._states[batch.tenant] = state
        return state

    async def _repeated(self, batch: ClaimedBatch) -> dict[tuple[int, int], list[int]]:
        """Rows whose key an earlier token holds, on a bus that leaves this to the catalog's ledger."""
        if self._bus.capabilities.deduplicates:
            return {}
        repeated: dict[tuple[int, int], list[int]] = {}
        for entry in batch.entries:
            for write in entry.writes:
                for number, part in enumerate(write.parts):
                    if part.claim is None:
                        continue
                    rows = await self._catalog.settle(batch.tenant, write.token, part.claim)
                    if rows:
                        repeated[write.token, number] = list(range(part.rows)) if part.claim.whole else list(rows)
        return repeated

    def _poison(self, plan: CommitPlan, cause: Exception) -> dict[int, ParkedWrite]:
        """The writes that fail by themselves too, with the reason; nothing when it was not any single one."""
        found: dict[int, ParkedWrite] = {}
        for file in plan.files:
            for single in file.by_write():
                token = single.parts[0].runs[0].token
                try:
                    file_table(single, self._default_of)
                except (pa.ArrowException, ValueError, OverflowError) as error:
                    names = (file.table.name,)
                    found[token] = ParkedWrite(token, "MATERIALISATION_FAILED", str(error)[:500], names, single.rows)
        log.error("coordinator.poison", tokens=sorted(found), cause=type(cause).__name__)
        return found

    @contextlib.asynccontextmanager
    async def _lease_kept(self, batch: ClaimedBatch) -> AsyncIterator[None]:
        task = asyncio.create_task(self._extend(batch), name="extend-lease")
        try:
            yield
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def _extend(self, batch: ClaimedBatch) -> None:
        """Extend the lease while the batch takes time. A lost lease is left to the publication to find."""
        while True:
            await asyncio.sleep(batch.lease.ttl_s / 3)
            try:
                await self._bus.extend_lease(batch.lease)
            except LeaseLost:
                return
            except DuckMeshError as error:
                log.warning("lease.extend_failed", tenant_id=batch.tenant, error_code=error.code)
