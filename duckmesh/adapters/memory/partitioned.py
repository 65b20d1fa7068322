"""`PartitionedMemoryBus`: a log in the shape of Kafka's, to keep everything else honest about what a bus may be.

Tenants share partitions, and a token is the offset in the partition plus one, so a tenant's tokens have gaps. The
lease is the assignment of the partition, its epoch the generation. After a rebalance writes come again, in batches
with other boundaries. There is no transaction with the catalog: keys are reserved in its ledger, the writes are
appended, the keys confirmed; whatever was appended twice is dropped when it is materialised.
"""

import asyncio
import random
import time
import zlib
from collections.abc import Iterator, Sequence

from attrs import define, field, frozen

from duckmesh.adapters.memory.entries import (
    Clock,
    Now,
    StoredEntry,
    encode_kept,
    logged,
    measure_lag,
    utc_now,
    within,
)
from duckmesh.adapters.memory.leases import LeaseSlot
from duckmesh.adapters.memory.wakeup import Wakeup
from duckmesh.domain.errors import OutcomeUnknown
from duckmesh.domain.idempotency import GroupDecision, LedgerEntry, decide_group
from duckmesh.domain.leases import Lease
from duckmesh.domain.tokens import LogHead, LogRange
from duckmesh.domain.writes import ClaimedBatch, KeyClaim, Lag, Outcome, TableRef, WriteGroup, WritePart
from duckmesh.ports.bus import BusCapabilities, ClaimLimits
from duckmesh.ports.catalog import KeyLedger


@frozen(eq=False)
class _Message:
    """What stands at one offset: a write of one tenant."""

    tenant: str
    entry: StoredEntry


@define(eq=False)
class _Position:
    """How far a tenant's writes are published and delivered, in tokens of the partition."""

    acked: int = 0
    claimed: int = 0
    previous: int = 0
    generation: int = 0


@define(eq=False)
class _Partition:
    """An append-only list of messages; the message at offset n has the token n + 1."""

    messages: list[_Message] = field(factory=list)
    lease: LeaseSlot = field(factory=LeaseSlot)
    positions: dict[str, _Position] = field(factory=dict)
    control_tokens: dict[str, int] = field(factory=dict)

    @property
    def end(self) -> int:
        return len(self.messages)

    def position(self, tenant: str) -> _Position:
        return self.positions.setdefault(tenant, _Position())

    def after(self, tenant: str, token: int) -> list[StoredEntry]:
        return [message.entry for message in self.messages[max(token, 0) :] if message.tenant == tenant]


class PartitionedMemoryBus:
    """`IngestBus` with the manners of a partitioned log, on the keys of a ``ledger``.

    ``seed`` draws the boundaries of batches and how far back a redelivery goes after a rebalance.
    """

    def __init__(
        self,
        ledger: KeyLedger,
        *,
        partitions: int = 1,
        seed: int = 0,
        now: Now = time.monotonic,
        clock: Clock = utc_now,
        lease_ttl_s: float = 10.0,
    ) -> None:
        self._ledger = ledger
        self._partitions = [_Partition() for _ in range(partitions)]
        self._seed = seed
        self._now = now
        self._clock = clock
        self._lease_ttl_s = lease_ttl_s
        self._answers_to_lose = 0
        self._work = Wakeup()

    @property
    def capabilities(self) -> BusCapabilities:
        """Only what the port asks of every bus."""
        return BusCapabilities(dense_tokens=False, deduplicates=False, checks_schema=False)

    async def publish(self, group: WriteGroup) -> Sequence[Outcome]:
        """See `IngestBus.publish`. Every write is a message of its own, and the ledger joins them."""
        return [await self._publish_one(single) for single in _singles(group)]

    async def _publish_one(self, group: WriteGroup) -> Outcome:
        """Reserve, append, confirm. Between reserving and appending is where other producers come in."""
        known, reserved = await self._reserve(group)
        await asyncio.sleep(0)
        token = self._partition(group.tenant).end + 1
        decision = decide_group(group, known, lambda _: token)
        if decision.stored:
            self._append(group, decision)
        await self._ledger.confirm(group.tenant, decision.claims)
        await self._ledger.release(group.tenant, [key for key in reserved if key not in decision.claims])
        return decision.outcomes[0]

    async def _reserve(self, group: WriteGroup) -> tuple[dict[bytes, LedgerEntry], set[bytes]]:
        """The entries that decide about the write, and the keys that this call reserved.

        An entry that was never confirmed may be of a write that did not reach the log. The same content is
        appended again, and materialisation keeps one of the two; other content is a conflict.
        """
        known: dict[bytes, LedgerEntry] = {}
        reserved: set[bytes] = set()
        for part in group.writes[0].parts:
            found = await self._ledger.reserve(group.tenant, KeyClaim(part.key_ids, part.content_ids, part.whole))
            reserved.update(key for key in part.key_ids if key not in found)
            for key, content in zip(part.key_ids, part.content_ids, strict=True):
                entry = found.get(key)
                if entry is not None and (entry.token > 0 or entry.content_id != content):
                    known[key] = entry
        return known, reserved

    def _append(self, group: WriteGroup, decision: GroupDecision) -> None:
        partition = self._partition(group.tenant)
        write, stored = group.writes[0], decision.stored[0]
        claims = [_claim(part, decision.kept.get(part.table)) for part in write.parts]
        entry = StoredEntry(
            (logged(write, stored, self._clock(), claims),), encode_kept(group.data, decision.kept), self._now()
        )
        partition.messages.append(_Message(group.tenant, entry))
        partition.position(group.tenant)
        if write.control is not None:
            partition.control_tokens[group.tenant] = stored.token
        self._work.wake()
        if self._answers_to_lose:
            self._answers_to_lose -= 1
            raise OutcomeUnknown("the log did not answer; the write may be stored, a retry with the same keys is safe")

    async def claim_batch(
        self, holder: str, *, limits: ClaimLimits, tenant: str | None = None, after: int | None = None
    ) -> ClaimedBatch | None:
        """See `IngestBus.claim_batch`. With ``after``, a batch may only move the range over foreign offsets."""
        now = self._now()
        for candidate in self._candidates(tenant):
            partition = self._partition(candidate)
            position = partition.position(candidate)
            start = position.acked if after is None else after
            foreign_end = partition.end > start and after is not None and tenant is not None
            if partition.lease.open_to(holder, now) and (partition.after(candidate, start) or foreign_end):
                return self._claim(partition, candidate, holder, limits, start)
        return None

    def _candidates(self, tenant: str | None) -> list[str]:
        """Tenants to look at; of several, the one whose last delivery is furthest back comes first."""
        if tenant is not None:
            return [tenant]
        positions = {name: at.claimed for each in self._partitions for name, at in each.positions.items()}
        return sorted(positions, key=positions.__getitem__)

    def _claim(self, partition: _Partition, tenant: str, holder: str, limits: ClaimLimits, start: int) -> ClaimedBatch:
        generation = partition.lease.take(holder, self._now() + self._lease_ttl_s)
        position = partition.position(tenant)
        start = self._rewound(position, tenant, generation, start)
        entries = partition.after(tenant, start)
        taken = self._cut(within(entries, limits), tenant, generation, start)
        # Nothing of the tenant follows the last own write, so the range may go on to the partition's end.
        through = partition.end if len(taken) == len(entries) else taken[-1].last_token
        position.claimed = max(position.claimed, through)
        lease = Lease(tenant, holder, generation, self._lease_ttl_s)
        return ClaimedBatch(lease, LogRange(start, through), tuple(entry.delivered() for entry in taken))

    def _rewound(self, position: _Position, tenant: str, generation: int, start: int) -> int:
        """After a rebalance delivery begins somewhere between the last two positions."""
        if position.generation == generation:
            return start
        first, position.generation = position.generation == 0, generation
        position.claimed = 0
        return start if first else self._random(tenant, generation, start).randint(min(position.previous, start), start)

    def _cut(self, entries: list[StoredEntry], tenant: str, generation: int, start: int) -> list[StoredEntry]:
        """From the second generation on, batches end anywhere."""
        if generation == 1 or not entries:
            return entries
        return entries[: self._random(tenant, generation, start, "cut").randint(1, len(entries))]

    def _random(self, *drawn_for: object) -> random.Random:
        return random.Random(repr((self._seed, *drawn_for)))  # noqa: S311 - draws a test's history, no secret

    async def ack(self, lease: Lease, through: int) -> None:
        """See `IngestBus.ack`."""
        partition = self._partition(lease.tenant)
        position = partition.position(lease.tenant)
        if partition.lease.held_under(lease) and through > position.acked:
            position.previous, position.acked = position.acked, min(through, partition.end)

    async def nack(self, lease: Lease) -> None:
        """See `IngestBus.nack`. The whole partition is given back: another assignment is another generation."""
        slot = self._partition(lease.tenant).lease
        if slot.held_under(lease):
            slot.free()
            self._work.wake()

    async def extend_lease(self, lease: Lease) -> Lease:
        """See `IngestBus.extend_lease`."""
        self._partition(lease.tenant).lease.extend(lease, self._now() + self._lease_ttl_s)
        return lease

    async def requeue_expired(self) -> int:
        """See `IngestBus.requeue_expired`."""
        now = self._now()
        freed = 0
        for partition in self._partitions:
            if partition.lease.holder is not None and not partition.lease.live(now):
                partition.lease.free()
                freed += max(len(partition.positions), 1)
        if freed:
            self._work.wake()
        return freed

    async def head(self, tenant: str) -> LogHead:
        """See `IngestBus.head`. It is the partition's end: no later write of the tenant has a token up to it."""
        partition = self._partition(tenant)
        return LogHead(tenant, partition.end, control_token=partition.control_tokens.get(tenant, 0))

    async def lag(self, tenant: str, watermark: int) -> Lag:
        """See `IngestBus.lag`."""
        partition, now = self._partition(tenant), self._now()
        claimed = partition.position(tenant).claimed if partition.lease.live(now) else 0
        return measure_lag(partition.after(tenant, 0), partition.end, watermark, claimed, now)

    async def wait_for_work(self, timeout_s: float) -> None:
        """See `IngestBus.wait_for_work`."""
        await self._work.wait(self._wants_work, timeout_s)

    def _wants_work(self) -> bool:
        now = self._now()
        return any(
            partition.after(tenant, position.claimed if partition.lease.live(now) else position.acked)
            for partition in self._partitions
            for tenant, position in partition.positions.items()
        )

    def append_answer_lost(self, times: int = 1) -> None:
        """Let the next appends be stored but raise `OutcomeUnknown`: a back door for tests."""
        self._answers_to_lose += times

    def rebalance(self) -> None:
        """Take every partition from its holder: a back door for tests."""
        for partition in self._partitions:
            partition.lease.free()

    def expire_lease(self, tenant: str) -> None:
        """Let the lease of a tenant's partition run out without waiting: a back door for tests."""
        self._partition(tenant).lease.expire()

    def _partition(self, tenant: str) -> _Partition:
        return self._partitions[zlib.crc32(tenant.encode()) % len(self._partitions)]


def _singles(group: WriteGroup) -> Iterator[WriteGroup]:
    """The group's writes, each with its own rows."""
    start: dict[TableRef, int] = {}
    for write in group.writes:
        data = {}
        for part in write.parts:
            first = start.get(part.table, 0)
            data[part.table] = group.data[part.table].slice(first, part.rows)
            start[part.table] = first + part.rows
        yield WriteGroup(group.tenant, (write,), data, group.schema_token)


def _claim(part: WritePart, kept: Sequence[int] | None) -> KeyClaim:
    """What the kept rows claim; one key covers a whole body, which is kept or not as one."""
    if kept is None or part.whole:
        return KeyClaim(tuple(part.key_ids), tuple(part.content_ids), part.whole)
    return KeyClaim([part.key_ids[row] for row in kept], [part.content_ids[row] for row in kept])
