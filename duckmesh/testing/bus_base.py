"""What every part of `IngestBusSuite` stands on: the hooks of an adapter, and a log in few words."""

from collections.abc import AsyncIterator, Sequence

import pytest_asyncio
from attrs import field, frozen

from duckmesh.domain.leases import Lease
from duckmesh.domain.writes import Accepted, ClaimedBatch, LogEntry, Outcome
from duckmesh.ports.bus import ClaimLimits, IngestBus
from duckmesh.testing.builders import Draft, group
from duckmesh.testing.laws import LawSuite, missing_hook

#: Claims in a row without progress after which a suite says that a bus does not deliver.
PATIENCE = 200


@frozen(eq=False)
class TenantLog:
    """One tenant's log on a bus."""

    bus: IngestBus
    tenant: str
    limits: ClaimLimits = field(factory=ClaimLimits)

    async def publish(self, *drafts: Draft) -> Sequence[Outcome]:
        """Publish a group that knows all control writes so far."""
        known = await self.bus.head(self.tenant)
        return await self.bus.publish(group(self.tenant, *drafts, schema_token=known.control_token))

    async def put(self, *drafts: Draft) -> list[Accepted]:
        """Publish a group of which every write must be accepted."""
        outcomes = await self.publish(*drafts)
        assert len(outcomes) == len(drafts)
        accepted = [outcome for outcome in outcomes if isinstance(outcome, Accepted)]
        assert len(accepted) == len(drafts), f"refused: {outcomes}"
        return accepted

    async def claim(
        self, holder: str = "one", *, after: int | None = None, limits: ClaimLimits | None = None
    ) -> ClaimedBatch | None:
        """Claim this tenant."""
        return await self.bus.claim_batch(holder, limits=limits or self.limits, tenant=self.tenant, after=after)

    async def claimed(self, holder: str = "one", *, after: int | None = None) -> ClaimedBatch:
        """Claim this tenant, which must have work and be free."""
        batch = await self.claim(holder, after=after)
        assert batch is not None, f"nothing was delivered to {holder!r}"
        assert batch.tenant == self.tenant
        return batch

    async def drain(self, holder: str = "one") -> list[LogEntry]:
        """Claim and acknowledge until nothing is left; the entries in the order of delivery."""
        entries: list[LogEntry] = []
        for _ in range(PATIENCE):
            batch = await self.claim(holder)
            if batch is None:
                return entries
            entries += batch.entries
            await self.bus.ack(batch.lease, batch.range.through)
        raise AssertionError(f"{PATIENCE} claims were acknowledged and there is still work")


class BusHooks(LawSuite):
    """The hooks that a subclass of a bus suite defines."""

    @pytest_asyncio.fixture
    async def bus(self) -> AsyncIterator[IngestBus]:
        """Required: a new, empty bus."""
        missing_hook(self, "bus", "yield a new, empty IngestBus")
        yield  # keeps it a generator; never reached

    async def expire_lease(self, bus: IngestBus, lease: Lease) -> None:  # noqa: ARG002 - the hook's signature
        """Required back door: let the lease's time be over now, as if its holder had been silent."""
        missing_hook(self, "expire_lease", "let the lease run out without waiting")

    async def prepare_tenant(self, bus: IngestBus, tenant: str) -> None:
        """Make what the bus needs before a tenant's first write, when it needs anything."""

    async def log(self, bus: IngestBus, tenant: str = "acme") -> TenantLog:
        """The log of a tenant that was prepared."""
        await self.prepare_tenant(bus, tenant)
        return TenantLog(bus, tenant)


def tokens(entries: Sequence[LogEntry]) -> list[int]:
    """The tokens of delivered writes, in the order of delivery."""
    return [write.token for entry in entries for write in entry.writes]
