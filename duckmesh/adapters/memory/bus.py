"""`MemoryBus`: the reference model of the log.

Every operation is one step between two awaits, so the laws of the port can be read from the code: commit order is
token order because a group is stored in the step that draws its tokens.
"""

import time
import uuid
from bisect import bisect_right
from collections.abc import Sequence

from attrs import define, field

from duckmesh.adapters.memory.entries import (
    Clock,
    Now,
    StoredEntry,
    control_tokens,
    encode_kept,
    logged,
    measure_lag,
    utc_now,
    within,
)
from duckmesh.adapters.memory.leases import LeaseSlot
from duckmesh.adapters.memory.wakeup import Wakeup
from duckmesh.domain.errors import SchemaChanged
from duckmesh.domain.idempotency import GroupDecision, LedgerEntry, decide_group
from duckmesh.domain.leases import Lease
from duckmesh.domain.tokens import LogHead, LogRange
from duckmesh.domain.writes import ClaimedBatch, Lag, Outcome, WriteGroup
from duckmesh.ports.bus import BusCapabilities, ClaimLimits


@define(eq=False)
class _Log:
    """One tenant's log. Positions are tokens: ``acked`` is published, ``claimed`` was delivered at least once."""

    tenant: str
    token: int = 0
    control_token: int = 0
    acked: int = 0
    claimed: int = 0
    entries: list[StoredEntry] = field(factory=list)
    ledger: dict[bytes, LedgerEntry] = field(factory=dict)
    lease: LeaseSlot = field(factory=LeaseSlot)

    def after(self, position: int) -> list[StoredEntry]:
        return self.entries[bisect_right(self.entries, position, key=lambda entry: entry.last_token) :]

    def wants_work(self, now: float) -> bool:
        """Whether a write was never delivered, or was and nobody works on it."""
        return self.token > (self.claimed if self.lease.live(now) else self.acked)


class MemoryBus:
    """`IngestBus` in one process: dense tokens, keys decided in the log, leases by the clock ``now``.

    ``lease_ttl_s`` is how long a silent holder keeps a tenant, ``clock`` gives the time that writes carry.
    """

    def __init__(self, now: Now = time.monotonic, *, clock: Clock = utc_now, lease_ttl_s: float = 10.0) -> None:
        self._now = now
        self._clock = clock
        self._lease_ttl_s = lease_ttl_s
        self._logs: dict[str, _Log] = {}
        self._work = Wakeup()
        self._log_id = uuid.uuid4().hex

    @property
    def capabilities(self) -> BusCapabilities:
        """Everything that a log can promise."""
        return BusCapabilities(dense_tokens=True, deduplicates=True, checks_schema=True)

    async def publish(self, group: WriteGroup) -> Sequence[Outcome]:
        """See `IngestBus.publish`."""
        log = self._log(group.tenant)
        if group.schema_token < log.control_token:
            raise SchemaChanged(
                "the tables changed while the write was under way; validate it again",
                control_token=log.control_token,
            )
        decision = decide_group(group, log.ledger, lambda number: log.token + 1 + number)
        if decision.stored:
            self._store(log, group, decision)
        return decision.outcomes

    def _store(self, log: _Log, group: WriteGroup, decision: GroupDecision) -> None:
        accepted_at = self._clock()
        writes = tuple(logged(group.writes[write.index], write, accepted_at) for write in decision.stored)
        log.entries.append(StoredEntry(writes, encode_kept(group.data, decision.kept), self._now()))
        log.ledger.update(decision.claims)
        log.token = writes[-1].token
        log.control_token = max(log.control_token, *control_tokens(group, decision), 0)
        self._work.wake()

    async def claim_batch(
        self, holder: str, *, limits: ClaimLimits, tenant: str | None = None, after: int | None = None
    ) -> ClaimedBatch | None:
        """See `IngestBus.claim_batch`."""
        now = self._now()
        open_logs = [
            log
            for log in self._logs.values()
            if tenant in {None, log.tenant} and log.after(_start(log, after)) and log.lease.open_to(holder, now)
        ]
        if not open_logs:
            return None
        # Tenants that the holder does not work on yet come first, then the one that waited longest.
        log = min(open_logs, key=lambda each: (each.lease.live(now), each.after(_start(each, after))[0].stored_at))
        return self._claim(log, holder, limits, after)

    def _claim(self, log: _Log, holder: str, limits: ClaimLimits, after: int | None) -> ClaimedBatch:
        start = _start(log, after)
        entries = within(log.after(start), limits)
        before = log.lease.epoch
        epoch = log.lease.take(holder, self._now() + self._lease_ttl_s)
        through = entries[-1].last_token
        log.claimed = through if epoch != before else max(log.claimed, through)
        lease = Lease(log.tenant, holder, epoch, self._lease_ttl_s)
        return ClaimedBatch(lease, LogRange(start, through), tuple(entry.delivered() for entry in entries))

    async def ack(self, lease: Lease, through: int) -> None:
        """See `IngestBus.ack`. Under a lost lease it is not heard: who has the tenant now speaks for it."""
        log = self._log(lease.tenant)
        if log.lease.held_under(lease):
            log.acked = max(log.acked, min(through, log.token))

    async def nack(self, lease: Lease) -> None:
        """See `IngestBus.nack`."""
        log = self._log(lease.tenant)
        if log.lease.held_under(lease):
            log.lease.free()
            self._work.wake()

    async def extend_lease(self, lease: Lease) -> Lease:
        """See `IngestBus.extend_lease`."""
        self._log(lease.tenant).lease.extend(lease, self._now() + self._lease_ttl_s)
        return lease

    async def requeue_expired(self) -> int:
        """See `IngestBus.requeue_expired`."""
        now = self._now()
        slots = [log.lease for log in self._logs.values()]
        expired = [slot for slot in slots if slot.holder is not None and not slot.live(now)]
        for slot in expired:
            slot.free()
        if expired:
            self._work.wake()
        return len(expired)

    async def head(self, tenant: str) -> LogHead:
        """See `IngestBus.head`."""
        log = self._log(tenant)
        return LogHead(tenant, log.token, control_token=log.control_token, log_id=self._log_id)

    async def lag(self, tenant: str, watermark: int) -> Lag:
        """See `IngestBus.lag`."""
        log, now = self._log(tenant), self._now()
        claimed = log.claimed if log.lease.live(now) else 0
        return measure_lag(log.entries, log.token, watermark, claimed, now)

    async def wait_for_work(self, timeout_s: float) -> None:
        """See `IngestBus.wait_for_work`."""
        await self._work.wait(lambda: any(log.wants_work(self._now()) for log in self._logs.values()), timeout_s)

    def expire_lease(self, tenant: str) -> None:
        """Let a lease run out without waiting: a back door for tests."""
        self._log(tenant).lease.expire()

    def _log(self, tenant: str) -> _Log:
        return self._logs.setdefault(tenant, _Log(tenant))


def _start(log: _Log, after: int | None) -> int:
    """Where a claim begins; a holder that knows less than was acknowledged is given what it lacks."""
    return log.acked if after is None else after
