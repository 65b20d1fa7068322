"""A state machine that drives a log and a catalog through writes, crashes and takeovers, beside a model.

Hypothesis draws histories: producers that retry, coordinators that stop at any point, leases that run out in
between, compaction in the middle. After every step the machine compares what is visible with what was acknowledged
(invariants D, P, F and S of ``docs/reliability.md``), and at the end everything must drain::

    class MyMachine(HistoryMachine):
        def open(self):
            return my_system()      # an async context manager that yields a `System`

    TestMyAdapters = MyMachine.TestCase

A failing history is printed as a program, and is found again from its seed.
"""

import asyncio
import itertools
import zlib
from collections import Counter
from collections.abc import Awaitable, Callable, Coroutine, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, TypeVar

import pytest
from attrs import define, evolve, field, frozen
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from duckmesh.domain.errors import OutcomeUnknown, PublicationConflict, StaleEpoch
from duckmesh.domain.leases import Lease
from duckmesh.domain.planning import CommitPlan, PlannedFile, plan_commit
from duckmesh.domain.snapshots import NewFile, Publication
from duckmesh.domain.tables import CreateTable, DropTable, TableDefinition
from duckmesh.domain.writes import Accepted, ClaimedBatch, Outcome, Refused
from duckmesh.ports.bus import ClaimLimits, IngestBus
from duckmesh.ports.catalog import Catalog
from duckmesh.testing.builders import (
    EVENTS,
    NOON,
    ORDERS,
    Draft,
    control,
    create,
    data_file,
    group,
    publication,
    put,
    write,
)

T = TypeVar("T")

TENANTS = ("acme", "globex")
HOLDERS = ("one", "two")
KEYS = [f"k{number}" for number in range(6)]
PATIENCE = 300

#: A row as it is compared: the table's id, the number made from its key, and its note.
Row = tuple[str, int, str]


@frozen(eq=False)
class System:
    """What is driven. ``lose_answer`` lets the next append be stored and not answered, where a bus can do that."""

    bus: IngestBus
    catalog: Catalog
    expire_lease: Callable[[Lease], Awaitable[None]]
    lose_answer: Callable[[], None] | None = None


@frozen
class _Record:
    """An acknowledged record. A record that was appended twice may be visible before ``token`` is."""

    row: Row
    token: int
    maybe_earlier: bool


@define(eq=False)
class _Model:
    """What a tenant was told: records by table and key, and where its table ``orders`` ended."""

    records: dict[tuple[str, str], _Record] = field(factory=dict)
    writes: dict[int, frozenset[str]] = field(factory=dict)
    dropped_at: int | None = None
    contents: dict[int, Counter[Row]] = field(factory=dict)
    watermark: int = 0

    def parked(self, through: int) -> set[int]:
        """Writes to the dropped table that stand behind its end are parked whole."""
        end = self.dropped_at
        return {t for t, tables in self.writes.items() if end and end < t <= through and ORDERS.table_id in tables}

    def visible(self, watermark: int) -> tuple[set[Row], set[Row]]:
        """The rows that must be visible, and those that may be."""
        parked = self.parked(watermark)
        shown = [
            record
            for record in self.records.values()
            if record.token not in parked and not self._hidden(record.row[0], watermark)
        ]
        must = {record.row for record in shown if record.token <= watermark}
        return must, must | {record.row for record in shown if record.maybe_earlier}

    def _hidden(self, table_id: str, watermark: int) -> bool:
        return table_id == ORDERS.table_id and self.dropped_at is not None and self.dropped_at <= watermark


@frozen(eq=False)
class _InFlight:
    """A publication that a coordinator planned and did not publish yet."""

    batch: ClaimedBatch
    publication: Publication


@frozen
class _Sent:
    """The keys of one write, for ``events`` and ``orders``; ``other`` sends other content."""

    events: tuple[str, ...]
    orders: tuple[str, ...]
    other: bool

    def draft(self) -> Draft:
        note = "other" if self.other else None
        parts = [(EVENTS, self.events), (ORDERS, self.orders)]
        return write(*(put(table, *keys, note=note) for table, keys in parts if keys))

    def rows(self) -> list[tuple[tuple[str, str], Row]]:
        """Key and row of each record, in order."""
        parts = [(EVENTS, self.events), (ORDERS, self.orders)]
        return [
            ((table.table_id, key), (table.table_id, zlib.crc32(key.encode()), "other" if self.other else key))
            for table, keys in parts
            for key in keys
        ]


_KEY_LISTS = st.lists(st.sampled_from(KEYS), max_size=3).map(tuple)
WRITES = st.builds(_Sent, _KEY_LISTS, _KEY_LISTS, st.sampled_from([False, False, False, True])).filter(
    lambda sent: bool(sent.events or sent.orders)
)
EVENT_WRITES = st.builds(_Sent, _KEY_LISTS.filter(bool), st.just(()), st.just(False))


class HistoryMachine(RuleBasedStateMachine):
    """The rules and invariants; a subclass says what is driven."""

    def open(self) -> AbstractAsyncContextManager[System]:
        """Required: a new log and a new catalog without tenants."""
        raise NotImplementedError(f"{type(self).__name__} must define open()")

    def __init__(self) -> None:
        super().__init__()
        self._runner = asyncio.Runner()
        self._context = self.open()
        self._system = self._run(self._context.__aenter__())
        self._models = {tenant: _Model() for tenant in TENANTS}
        self._objects: dict[str, list[Row]] = {}
        self._paths = itertools.count(1)
        self._in_flight: dict[tuple[str, str], _InFlight] = {}

    def _run(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(coroutine)

    # Producers.

    @initialize()
    def make_tenants(self) -> None:
        for tenant in TENANTS:
            self._run(self._system.catalog.create_tenant(tenant))
            self._publish(tenant, create(EVENTS), create(ORDERS))

    @rule(tenant=st.sampled_from(TENANTS), sent=st.lists(WRITES, min_size=1, max_size=3))
    def publish(self, tenant: str, sent: list[_Sent]) -> None:
        outcomes = self._publish(tenant, *(each.draft() for each in sent))
        for each, outcome in zip(sent, outcomes, strict=True):
            self._learn(self._models[tenant], each, outcome, maybe_earlier=False)

    @precondition(lambda self: self._system.lose_answer is not None)
    @rule(tenant=st.sampled_from(TENANTS), sent=EVENT_WRITES)
    def publish_and_lose_the_answer(self, tenant: str, sent: _Sent) -> None:
        assert self._system.lose_answer is not None
        known = self._models[tenant].records
        if all(key in known for key, _ in sent.rows()) or any(known[k].row != r for k, r in sent.rows() if k in known):
            return  # nothing would be appended
        self._system.lose_answer()
        with pytest.raises(OutcomeUnknown):
            self._publish(tenant, sent.draft())
        [outcome] = self._publish(tenant, sent.draft())
        self._learn(self._models[tenant], sent, outcome, maybe_earlier=True)

    @rule(tenant=st.sampled_from(TENANTS))
    def make_a_table_that_is_there(self, tenant: str) -> None:
        self._publish(tenant, control(CreateTable(evolve(EVENTS, table_id="table-twin"))))

    @rule(tenant=st.sampled_from(TENANTS))
    def drop_a_table(self, tenant: str) -> None:
        model = self._models[tenant]
        [outcome] = self._publish(tenant, control(DropTable(ORDERS.table_id)))
        assert isinstance(outcome, Accepted)
        model.dropped_at = model.dropped_at or outcome.token

    def _publish(self, tenant: str, *drafts: Draft) -> Sequence[Outcome]:
        head = self._run(self._system.bus.head(tenant))
        sent = group(tenant, *drafts, schema_token=head.control_token)
        return self._run(_awaited(self._system.bus.publish(sent)))

    def _learn(self, model: _Model, sent: _Sent, outcome: Outcome, *, maybe_earlier: bool) -> None:
        """Compare an outcome with what the model expects, and remember it."""
        new: dict[tuple[str, str], Row] = {}
        covered = 0
        for key, row in sent.rows():
            known = model.records.get(key)
            if (known.row if known else new.get(key, row)) != row:
                assert isinstance(outcome, Refused), f"{key} has other content: {outcome}"
                return
            # Of a record that was appended twice the lower copy is kept, so its receipt may name that one.
            covered = max(covered, known.token if known and not known.maybe_earlier else 0)
            if known is None:
                new[key] = row
        assert isinstance(outcome, Accepted), outcome
        assert sum(outcome.accepted) == len(new)
        assert sum(outcome.duplicates) == len(sent.rows()) - len(new)
        assert outcome.token >= covered
        if new:
            model.writes[outcome.token] = frozenset(table_id for table_id, _ in new)
        for key, row in new.items():
            model.records[key] = _Record(row, outcome.token, maybe_earlier)

    # Coordinators.

    @rule(
        tenant=st.sampled_from(TENANTS),
        holder=st.sampled_from(HOLDERS),
        records=st.sampled_from([1, 3, 1000]),
        knows=st.booleans(),
        folds=st.booleans(),
    )
    def claim_and_plan(self, tenant: str, holder: str, records: int, knows: bool, folds: bool) -> None:
        planned = self._run(self._plan(tenant, holder, ClaimLimits(max_records=records), knows, folds))
        if planned is not None:
            self._in_flight[tenant, holder] = planned

    @precondition(lambda self: self._in_flight)
    @rule(data=st.data(), acks=st.booleans())
    def finish(self, data: st.DataObject, acks: bool) -> None:
        """Publish what was planned some time ago; perhaps stop before the acknowledgement."""
        which = data.draw(st.sampled_from(sorted(self._in_flight)))
        planned = self._in_flight.pop(which)
        published = self._run(self._finish(planned))
        if published and acks:
            self._run(self._system.bus.ack(planned.batch.lease, planned.publication.watermark))

    @precondition(lambda self: self._in_flight)
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        """A coordinator stops between its plan and its publication."""
        del self._in_flight[data.draw(st.sampled_from(sorted(self._in_flight)))]

    @precondition(lambda self: self._in_flight)
    @rule(data=st.data(), gives_back=st.booleans(), is_taken=st.booleans())
    def lose_a_lease(self, data: st.DataObject, gives_back: bool, is_taken: bool) -> None:
        """A lease runs out, or is given back, while its publication is under way; perhaps the other takes over."""
        tenant, holder = data.draw(st.sampled_from(sorted(self._in_flight)))
        lease = self._in_flight[tenant, holder].batch.lease
        if gives_back:
            self._run(self._system.bus.nack(lease))
        else:
            self._run(_awaited(self._system.expire_lease(lease)))
        if is_taken:
            self.claim_and_plan(tenant, next(other for other in HOLDERS if other != holder), 1000, True, False)

    @rule(tenant=st.sampled_from(TENANTS), of=st.sampled_from([EVENTS, ORDERS]))
    def compact(self, tenant: str, of: TableDefinition) -> None:
        """Maintenance replaces all files of a table by one."""
        self._run(self._compact(tenant, of))

    async def _plan(self, tenant: str, holder: str, limits: ClaimLimits, knows: bool, folds: bool) -> _InFlight | None:
        catalog = self._system.catalog
        after = (await catalog.head(tenant)).watermark if knows else None
        batch = await self._system.bus.claim_batch(holder, limits=limits, tenant=tenant, after=after)
        if batch is None:
            return None
        head = await catalog.record_epoch(tenant, batch.lease.epoch)
        manifest = await catalog.manifest(tenant)
        plan = plan_commit(batch, head.watermark, manifest.tables, repeated=await self._repeated(batch))
        if plan.empty:
            await self._system.bus.ack(batch.lease, head.watermark)
            return None
        added, ended = [], []
        for planned in plan.files:
            live = manifest.files.get(planned.table.table_id, ())[:1] if folds else ()
            ended += [file.file_id for file in live]
            rows = _planned_rows(planned) + [row for file in live for row in self._objects[file.file.path]]
            added.append(self._file(planned.table, rows, plan))
        return _InFlight(
            batch,
            evolve(
                publication(head, plan.watermark, added=added, ended=ended, controls=plan.controls, parked=plan.parked),
                epoch=batch.lease.epoch,
            ),
        )

    async def _repeated(self, batch: ClaimedBatch) -> dict[tuple[int, int], list[int]]:
        """The rows that the log holds twice; one key of a whole body stands for all of its rows."""
        repeated: dict[tuple[int, int], list[int]] = {}
        for logged in (logged for entry in batch.entries for logged in entry.writes):
            for number, part in enumerate(logged.parts):
                if part.claim is not None:
                    found = await self._system.catalog.settle(batch.tenant, logged.token, part.claim)
                    repeated[logged.token, number] = (
                        list(range(part.rows)) if part.claim.whole and found else list(found)
                    )
        return repeated

    def _file(self, table: TableDefinition, rows: list[Row], plan: CommitPlan) -> NewFile:
        path = f"{next(self._paths)}.parquet"
        self._objects[path] = rows
        return data_file(table, path, (plan.base_watermark + 1, plan.watermark), rows=len(rows))

    async def _finish(self, planned: _InFlight) -> bool:
        """Publish; a coordinator that was overtaken is refused, and must have been."""
        head = await self._system.catalog.head(planned.batch.tenant)
        try:
            snapshot = await self._system.catalog.publish(planned.publication)
        except StaleEpoch:
            assert head.epoch > planned.publication.epoch
            return False
        except PublicationConflict:
            assert head.watermark != planned.publication.base_watermark or planned.publication.ended
            return False
        assert head.epoch <= planned.publication.epoch
        assert head.watermark == planned.publication.base_watermark
        assert snapshot.watermark == planned.publication.watermark
        return True

    async def _compact(self, tenant: str, of: TableDefinition) -> None:
        manifest = await self._system.catalog.manifest(tenant)
        files = manifest.files.get(of.table_id, ())
        if not files:
            return
        head = await self._system.catalog.head(tenant)
        path = f"{next(self._paths)}.parquet"
        self._objects[path] = [row for file in files for row in self._objects[file.file.path]]
        merged = data_file(of, path, rows=len(self._objects[path]), min_event_time=NOON)
        ended = [file.file_id for file in files]
        await self._system.catalog.publish(publication(head, head.watermark, added=[merged], ended=ended))

    # Invariants.

    @invariant()
    def what_is_visible_is_what_was_acknowledged(self) -> None:
        """D, P and F: a snapshot is the fold of the log up to its watermark, every record once."""
        for tenant, model in self._models.items():
            self._run(self._check(tenant, model))

    async def _check(self, tenant: str, model: _Model) -> None:
        if tenant not in await self._system.catalog.tenants():
            return
        head = await self._system.catalog.head(tenant)
        assert head.watermark >= model.watermark, "the watermark went back"
        model.watermark = head.watermark
        content = await self._content(tenant, head.snapshot_id)
        must, may = model.visible(head.watermark)
        assert not (lost := must - content.keys()), f"acknowledged up to {head.watermark} and not visible: {lost}"
        assert not (foreign := content.keys() - may), f"visible at {head.watermark} and not in the log: {foreign}"
        assert max(content.values(), default=1) == 1, f"visible twice: {content}"
        parked = await self._system.catalog.parked(tenant, head.watermark)
        assert {each.token for each in parked} == model.parked(head.watermark)
        model.contents.setdefault(head.snapshot_id, content)

    def _check_old_snapshots(self) -> None:
        """S: whatever compaction did meanwhile."""
        for tenant, model in self._models.items():
            for snapshot_id, content in model.contents.items():
                assert self._run(self._content(tenant, snapshot_id)) == content

    async def _content(self, tenant: str, snapshot_id: int) -> Counter[Row]:
        manifest = await self._system.catalog.manifest(tenant, snapshot_id)
        return Counter(
            row for files in manifest.files.values() for file in files for row in self._objects[file.file.path]
        )

    def teardown(self) -> None:
        """L: when all is well again, everything becomes visible, also under a holder that was never seen."""
        try:
            for tenant in TENANTS:
                self._run(self._drain(tenant))
            self.what_is_visible_is_what_was_acknowledged()
            self._check_old_snapshots()
        finally:
            self._run(_awaited(self._context.__aexit__(None, None, None)))
            self._runner.close()

    async def _drain(self, tenant: str) -> None:
        if tenant not in await self._system.catalog.tenants():
            return
        for planned in self._in_flight.values():
            await self._system.expire_lease(planned.batch.lease)
        for _ in range(PATIENCE):
            head, end = await self._system.catalog.head(tenant), await self._system.bus.head(tenant)
            if head.watermark >= end.token:
                return
            plans = [await self._plan(tenant, holder, ClaimLimits(), knows=True, folds=True) for holder in HOLDERS]
            for ready in filter(None, plans):
                if await self._finish(ready):
                    await self._system.bus.ack(ready.batch.lease, ready.publication.watermark)
        raise AssertionError(f"the backlog of {tenant!r} does not drain")


def _planned_rows(planned: PlannedFile) -> list[Row]:
    """The rows of a planned file, read from the log's batches as a coordinator reads them."""
    found: list[Row] = []
    for part in planned.parts:
        batch = part.entry.data[part.table]
        for run in part.runs:
            rows: Iterable[dict[str, Any]] = batch.slice(run.start, run.rows).to_pylist()
            found += [(planned.table.table_id, row["id"], row["note"]) for row in rows]
    return found


async def _awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable
