"""Laws of leases: one holder at a time, and epochs that grow (contract, promise 3)."""

import asyncio

import pytest

from duckmesh.domain.errors import LeaseLost
from duckmesh.ports.bus import IngestBus
from duckmesh.testing.builders import EVENTS, put, write
from duckmesh.testing.bus_base import BusHooks, tokens
from duckmesh.testing.laws import law


class LeaseLaws(BusHooks):
    """A lease keeps two holders from the same work, and its epoch tells them apart afterwards."""

    @law("BUS-41", "While a lease lives, nobody else is given the tenant")
    async def test_a_second_holder_gets_nothing(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        await log.put(write(put(EVENTS, "k1")))
        await log.claimed("one")
        assert await log.claim("two") is None
        assert await bus.claim_batch("two", limits=log.limits) is None

    @law("BUS-42", "Of holders that race, exactly one gets the tenant")
    async def test_racing_holders(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        await log.put(write(put(EVENTS, "k1")))
        batches = await asyncio.gather(*(log.claim(f"holder-{n}") for n in range(8)))
        assert len([batch for batch in batches if batch is not None]) == 1

    @law("BUS-43", "A holder keeps its lease and epoch from claim to claim")
    async def test_a_holder_keeps_its_epoch(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        await log.put(write(put(EVENTS, "k1")))
        first = await log.claimed("one")
        await bus.ack(first.lease, first.range.through)
        await log.put(write(put(EVENTS, "k2")))
        second = await log.claimed("one")
        assert (second.lease.holder, second.lease.epoch) == ("one", first.lease.epoch)
        assert first.lease.ttl_s > 0

    @law("BUS-44", "A lease that ran out can be taken, under a higher epoch")
    async def test_an_expired_lease_is_taken_with_a_higher_epoch(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        await log.put(write(put(EVENTS, "k1")))
        epochs = []
        for holder in ("one", "two", "one"):
            batch = await log.claimed(holder)
            epochs.append(batch.lease.epoch)
            assert batch.lease.holder == holder
            assert tokens(batch.entries)
            await self.expire_lease(bus, batch.lease)
        assert epochs == sorted(set(epochs))

    @law("BUS-45", "Who lost a lease cannot extend it")
    async def test_a_lost_lease_cannot_be_extended(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        await log.put(write(put(EVENTS, "k1")))
        lost = (await log.claimed("one")).lease
        await self.expire_lease(bus, lost)
        kept = (await log.claimed("two")).lease
        with pytest.raises(LeaseLost):
            await bus.extend_lease(lost)
        assert (await bus.extend_lease(kept)).epoch == kept.epoch

    @law("BUS-46", "Who lost a lease and took it again cannot extend it under the old epoch")
    async def test_an_old_epoch_cannot_be_extended(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        await log.put(write(put(EVENTS, "k1")))
        old = (await log.claimed("one")).lease
        await self.expire_lease(bus, old)
        await self.expire_lease(bus, (await log.claimed("two")).lease)
        await log.claimed("one")
        with pytest.raises(LeaseLost):
            await bus.extend_lease(old)

    @law("BUS-47", "Extending a lease lets its time run again")
    async def test_an_extended_lease_lives(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        await log.put(write(put(EVENTS, "k1")))
        lease = (await log.claimed("one")).lease
        await self.expire_lease(bus, lease)
        extended = await bus.extend_lease(lease)
        assert (extended.tenant, extended.holder, extended.epoch) == ("acme", "one", lease.epoch)
        assert await log.claim("two") is None

    @law("BUS-48", "An acknowledgement under a lost lease moves no position back and takes nothing away")
    async def test_a_late_ack_does_no_harm(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        [first] = await log.put(write(put(EVENTS, "k1")))
        lost = await log.claimed("one")
        await self.expire_lease(bus, lost.lease)
        [second] = await log.put(write(put(EVENTS, "k2")))
        kept = await log.claimed("two", after=first.token)
        await bus.ack(kept.lease, second.token)
        [third] = await log.put(write(put(EVENTS, "k3")))
        await bus.ack(lost.lease, first.token)
        assert await log.claim("one") is None
        assert (await bus.extend_lease(kept.lease)).epoch == kept.lease.epoch
        assert tokens(await log.drain("two")) == [third.token]

    @law("BUS-49", "A tenant that was given back can be claimed at once, with everything that was not published")
    async def test_nack_gives_the_tenant_back(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        [published] = await log.put(write(put(EVENTS, "k1")))
        batch = await log.claimed("one")
        await bus.nack(batch.lease)
        again = await log.claimed("two")
        assert tokens(again.entries) == [published.token]
        assert again.lease.epoch > batch.lease.epoch

    @law("BUS-50", "Giving back a lost lease does not take the tenant from its new holder")
    async def test_a_late_nack_does_no_harm(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        await log.put(write(put(EVENTS, "k1")))
        lost = (await log.claimed("one")).lease
        await self.expire_lease(bus, lost)
        await log.claimed("two")
        await bus.nack(lost)
        assert await log.claim("one") is None

    @law("BUS-51", "Leases that ran out are counted and made claimable, and those that live are left alone")
    async def test_expired_leases_are_requeued(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        await log.put(write(put(EVENTS, "k1")))
        lease = (await log.claimed("one")).lease
        assert await bus.requeue_expired() == 0
        assert await log.claim("two") is None
        await self.expire_lease(bus, lease)
        assert await bus.requeue_expired() == 1
        assert await bus.requeue_expired() == 0
        assert (await log.claimed("two")).lease.epoch > lease.epoch
