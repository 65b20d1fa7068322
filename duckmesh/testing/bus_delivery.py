"""Laws of delivery: everything that was committed, in order, exactly as it was published."""

import asyncio
from typing import Any

import pyarrow as pa

from duckmesh.domain.writes import WriteGroup
from duckmesh.ports.bus import ClaimLimits, IngestBus
from duckmesh.testing.builders import (
    EVENTS,
    EVERY_TYPE,
    EVERY_VALUE,
    ORDERS,
    body,
    group,
    put,
    ref,
    rows,
    unpacked,
    write,
)
from duckmesh.testing.bus_base import PATIENCE, BusHooks, TenantLog, tokens
from duckmesh.testing.laws import law

#: How long a notification may take; reached only when it never comes.
BOUND_S = 10.0
#: A wait that would end the test as a failure if nothing woke it.
FOREVER_S = 600.0


class DeliveryLaws(BusHooks):
    """What is claimed, how it looks, and what acknowledgement means."""

    @law("BUS-61", "Every committed write is delivered once to who acknowledges, in token order")
    async def test_everything_is_delivered_in_order(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        published = []
        for number in range(10):
            drafts = [write(put(EVENTS, f"k{number}-{n}")) for n in range(number % 3 + 1)]
            published += [outcome.token for outcome in await log.put(*drafts)]
        assert tokens(await log.drain()) == published

    @law("BUS-62", "Rows are delivered exactly as they were published, in values of every type")
    async def test_rows_are_what_was_published(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        wide = rows(EVERY_TYPE, ["w1", "w2"], EVERY_VALUE)
        events, more = put(EVENTS, "k1", "k2", "k3"), put(EVENTS, "k4")
        first, second = await log.put(write(events, wide), write(more))
        delivered = unpacked(await log.drain())
        assert _same(delivered[first.token], {ref(EVENTS): events.batch, ref(EVERY_TYPE): wide.batch})
        assert _same(delivered[second.token], {ref(EVENTS): more.batch})

    @law("BUS-63", "Rows of duplicates are cut out of their batch, and all others keep their place")
    async def test_duplicates_are_cut_out(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        wide = rows(EVERY_TYPE, ["w1", "w2"], EVERY_VALUE)
        await log.put(write(rows(EVERY_TYPE, ["w1"], {name: values[:1] for name, values in EVERY_VALUE.items()})))
        [rest, last] = await log.put(write(wide), write(rows(EVERY_TYPE, ["w3", "w4"], EVERY_VALUE)))
        delivered = unpacked(await log.drain())
        assert _same(delivered[rest.token], {ref(EVERY_TYPE): wide.batch.slice(1, 1)})
        assert _same(delivered[last.token], {ref(EVERY_TYPE): wide.batch})

    @law("BUS-64", "A write carries its trace and the time of its acceptance, with a zone")
    async def test_writes_carry_trace_and_time(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
        await log.put(write(put(EVENTS, "k1"), trace=trace))
        await log.put(write(put(EVENTS, "k2")))
        first, second = (each for entry in await log.drain() for each in entry.writes)
        assert (first.trace, second.trace) == (trace, None)
        assert first.accepted_at.tzinfo is not None
        assert first.accepted_at <= second.accepted_at

    @law("BUS-65", "What is stored does not change when a producer uses its memory again")
    async def test_the_log_keeps_its_own_copy(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        memory = bytearray((42).to_bytes(8, "little"))
        sent = group("acme", write(put(EVENTS, "k1")))
        [batch] = sent.data.values()
        ids = pa.Array.from_buffers(pa.int64(), 1, [None, pa.py_buffer(memory)])
        shared = pa.record_batch([ids, *batch.columns[1:]], schema=batch.schema)
        await bus.publish(WriteGroup("acme", sent.writes, {ref(EVENTS): shared}, 0))
        memory[0] = 7
        [delivered] = unpacked(await log.drain()).values()
        assert delivered[ref(EVENTS)].column("id").to_pylist() == [42]

    @law("BUS-66", "A write of many megabytes is delivered whole, between its neighbours")
    async def test_large_writes(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        large = body(EVENTS, "b1", 64, note="".join(map(chr, range(0x4E00, 0x9E00))) * 3)
        found = await log.put(write(put(EVENTS, "k1")), write(large), write(put(EVENTS, "k2")))
        delivered = unpacked(await log.drain())
        assert sorted(delivered) == [outcome.token for outcome in found]
        assert _same(delivered[found[1].token], {ref(EVENTS): large.batch})

    @law("BUS-67", "Limits bound a batch, and one entry is delivered however large it is")
    async def test_limits_bound_a_batch(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        published = [(await log.put(write(body(EVENTS, f"b{n}", 10))))[0].token for n in range(6)]
        for limits, most in (
            (ClaimLimits(max_records=25), 30),
            (ClaimLimits(1), 10),
            (ClaimLimits(max_bytes=1), 10),
        ):
            batch = await log.claim(limits=limits)
            assert batch is not None
            assert 10 <= batch.records <= most
            assert tokens(batch.entries) == published[: batch.records // 10]
            assert batch.range.through == published[batch.records // 10 - 1]

    @law("BUS-68", "A log that is read in small batches is delivered whole")
    async def test_small_batches_lose_nothing(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        published = [(await log.put(write(put(EVENTS, f"k{n}"))))[0].token for n in range(12)]
        small = TenantLog(bus, "acme", ClaimLimits(max_records=2))
        assert tokens(await small.drain()) == published

    @law("BUS-69", "What a holder acknowledged is not delivered to it again, and positions only grow")
    async def test_acknowledged_writes_are_done(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        [first] = await log.put(write(put(EVENTS, "k1")))
        batch = await log.claimed()
        [second] = await log.put(write(put(EVENTS, "k2")))
        await bus.ack(batch.lease, first.token)
        await bus.ack(batch.lease, first.token)
        batch = await log.claimed()
        assert tokens(batch.entries) == [second.token]
        await bus.ack(batch.lease, second.token)
        await bus.ack(batch.lease, first.token)
        assert await log.claim() is None

    @law("BUS-70", "What was not acknowledged is delivered again")
    async def test_unacknowledged_writes_come_again(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        first, second = [(await log.put(write(put(EVENTS, key))))[0] for key in ("k1", "k2")]
        batch = await log.claimed("one")
        await bus.ack(batch.lease, first.token)
        assert tokens((await log.claimed("one")).entries) == [second.token]
        await self.expire_lease(bus, batch.lease)
        assert second.token in tokens((await log.claimed("two")).entries)

    @law("BUS-71", "Writes up to the watermark that the holder knows need not be delivered, all later ones are")
    async def test_after_spares_what_is_known(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        published = [(await log.put(write(put(EVENTS, f"k{n}"))))[0].token for n in range(4)]
        batch = await log.claimed(after=published[1])
        assert batch.range.after <= published[1]
        assert [token for token in tokens(batch.entries) if token > published[1]] == published[2:]
        head = await bus.head("acme")
        assert await log.claim(after=head.token) is None

    @law("BUS-72", "A batch covers its range: it ends at or beyond its last write and within the head")
    async def test_a_batch_covers_its_range(self, bus: IngestBus) -> None:
        log, other = await self.log(bus), await self.log(bus, "globex")
        for number in range(3):
            await log.put(write(put(EVENTS, f"k{number}")))
            await other.put(write(put(EVENTS, f"k{number}")))
        batch = await log.claimed()
        assert batch.range.after < min(tokens(batch.entries))
        assert max(tokens(batch.entries)) <= batch.range.through <= (await bus.head("acme")).token

    @law("BUS-73", "A log's watermark can reach its head, whoever wrote last")
    async def test_the_watermark_reaches_the_head(self, bus: IngestBus) -> None:
        log, other = await self.log(bus), await self.log(bus, "globex")
        await log.put(write(put(EVENTS, "k1")))
        await other.put(write(put(EVENTS, "k1")))
        head, watermark = await bus.head("acme"), 0
        for _ in range(PATIENCE):
            if watermark >= head.token:
                return
            batch = await log.claimed(after=watermark)
            watermark = max(watermark, batch.range.through)
            await bus.ack(batch.lease, watermark)
        raise AssertionError(f"the watermark stays at {watermark}, before the head {head.token}")

    @law("BUS-74", "A claim shows the writes of one tenant only, and acknowledging them leaves others alone")
    async def test_tenants_are_isolated(self, bus: IngestBus) -> None:
        acme, globex = await self.log(bus), await self.log(bus, "globex")
        await acme.put(write(put(EVENTS, "k1")))
        await globex.put(write(put(EVENTS, "k2")), write(put(ORDERS, "k3")))
        delivered = unpacked(await acme.drain())
        assert [set(parts) for parts in delivered.values()] == [{ref(EVENTS)}]
        assert [len(parts) for parts in unpacked(await globex.drain()).values()] == [1, 1]

    @law("BUS-75", "A claim without a tenant finds every tenant that has work, and then none")
    async def test_every_tenant_is_served(self, bus: IngestBus) -> None:
        names = {"acme", "globex", "initech"}
        for name in names:
            await (await self.log(bus, name)).put(write(put(EVENTS, "k1")))
        served = set()
        for _ in range(PATIENCE):
            batch = await bus.claim_batch("one", limits=ClaimLimits())
            if batch is None:
                break
            served.add(batch.tenant)
            await bus.ack(batch.lease, batch.range.through)
        assert served == names
        assert await bus.claim_batch("one", limits=ClaimLimits()) is None

    @law("BUS-76", "There is nothing to claim in an empty log or for a tenant without writes")
    async def test_an_empty_log_gives_nothing(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        assert await log.claim() is None
        assert await bus.claim_batch("one", limits=ClaimLimits()) is None
        assert await bus.requeue_expired() == 0

    @law("BUS-77", "The lag counts records that were accepted, that are beyond the watermark, and that are claimed")
    async def test_lag_counts_records(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        empty = await bus.lag("acme", 0)
        assert (empty.head, empty.accepted_events, empty.pending_events, empty.oldest_pending_ms) == (0, 0, 0, 0)
        [first] = await log.put(write(put(EVENTS, "k1", "k2")))
        [second] = await log.put(write(put(EVENTS, "k2", "k3"), body(ORDERS, "b1", 3)))
        halfway = await bus.lag("acme", first.token)
        behind = await bus.lag("acme", 0)  # asked later, and of an older write
        assert (behind.head, behind.accepted_events, behind.pending_events) == (second.token, 6, 6)
        assert (halfway.accepted_events, halfway.pending_events, halfway.claimed_events) == (6, 4, 0)
        assert behind.oldest_pending_ms >= halfway.oldest_pending_ms >= 0
        done = await bus.lag("acme", second.token)
        assert (done.pending_events, done.claimed_events, done.oldest_pending_ms) == (0, 0, 0)

    @law("BUS-78", "Claimed records are those that are pending under a lease that lives")
    async def test_lag_counts_claimed_records(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        await log.put(write(put(EVENTS, "k1", "k2")))
        assert (await bus.lag("acme", 0)).claimed_events == 0
        batch = await log.claimed()
        assert (await bus.lag("acme", 0)).claimed_events == 2
        await self.expire_lease(bus, batch.lease)
        assert (await bus.lag("acme", 0)).claimed_events == 0

    @law("BUS-79", "Who waits for work is woken by a publication")
    async def test_waiting_is_ended_by_a_write(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        async with asyncio.timeout(BOUND_S):
            for number in range(3):
                waiting = asyncio.create_task(bus.wait_for_work(FOREVER_S))
                await asyncio.sleep(0)
                await log.put(write(put(EVENTS, f"k{number}")))
                await waiting
                await log.drain()

    @law("BUS-80", "Waiting for work ends by itself after its time")
    async def test_waiting_ends_by_itself(self, bus: IngestBus) -> None:
        await self.log(bus)
        async with asyncio.timeout(BOUND_S):
            await bus.wait_for_work(0.01)


def _same(delivered: dict[Any, Any], published: dict[Any, Any]) -> bool:
    """Whether rows are equal as Arrow sees them, in values, types and field ids."""
    assert set(delivered) == set(published)
    for table, batch in published.items():
        assert delivered[table].schema.equals(batch.schema, check_metadata=True)
        assert delivered[table].equals(batch), f"{delivered[table].to_pylist()} is not {batch.to_pylist()}"
    return True
