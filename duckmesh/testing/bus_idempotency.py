"""Laws of idempotency: what a key that was used before means (contract, promise 6)."""

import asyncio

from duckmesh.domain.errors import IdempotencyConflict
from duckmesh.domain.writes import Accepted, Outcome, Refused
from duckmesh.ports.bus import IngestBus
from duckmesh.testing.builders import EVENTS, ORDERS, body, put, ref, unpacked, write
from duckmesh.testing.bus_base import BusHooks, TenantLog, tokens
from duckmesh.testing.exemptions import needs
from duckmesh.testing.laws import law, unsupported


def conflict(outcome: Outcome) -> IdempotencyConflict:
    """The conflict for which a write was refused."""
    assert isinstance(outcome, Refused), f"not refused: {outcome}"
    assert isinstance(outcome.error, IdempotencyConflict)
    return outcome.error


async def notes(log: TenantLog) -> list[str]:
    """The notes of all rows that are left to deliver, in order."""
    delivered = unpacked(await log.drain())
    return [
        note
        for token in sorted(delivered)
        for batch in delivered[token].values()
        for note in batch.column("note").to_pylist()
    ]


class IdempotencyLaws(BusHooks):
    """A key stands for one content of one table of one tenant."""

    @law("BUS-21", "A retry is counted as a duplicate, stores nothing, and its token covers the original")
    async def test_a_retry_is_a_duplicate(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        [original] = await log.put(write(put(EVENTS, "k1", "k2")))
        assert (original.accepted, original.duplicates) == ((2,), (0,))
        head = await bus.head("acme")
        [retry] = await log.put(write(put(EVENTS, "k1", "k2")))
        assert (retry.accepted, retry.duplicates) == ((0,), (2,))
        assert original.token <= retry.token <= head.token
        assert (await bus.head("acme")).token == head.token
        assert await notes(log) == ["k1", "k2"]

    @law("BUS-22", "The same key twice in one write is stored once and counted once as a duplicate")
    async def test_a_key_twice_in_one_write(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        [outcome] = await log.put(write(put(EVENTS, "k1", "k2", "k1")))
        assert (outcome.accepted, outcome.duplicates) == ((2,), (1,))
        assert await notes(log) == ["k1", "k2"]

    @law("BUS-23", "The same key in two writes of a group is stored once, and the second is covered by the first")
    async def test_a_key_twice_in_one_group(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        first, second, third = await log.put(*(write(put(EVENTS, key)) for key in ("k1", "k1", "k2")))
        assert (second.accepted, second.duplicates) == ((0,), (1,))
        assert first.token <= second.token <= third.token
        assert tokens(await log.drain()) == [first.token, third.token]

    @law("BUS-24", "A write of old and new records stores the new ones under a token that covers all")
    async def test_a_partial_duplicate_stores_the_rest(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        [original] = await log.put(write(put(EVENTS, "k2")))
        [mixed] = await log.put(write(put(EVENTS, "k1", "k2", "k3"), put(ORDERS, "k2")))
        assert (mixed.accepted, mixed.duplicates) == ((2, 1), (1, 0))
        assert mixed.token > original.token
        assert await notes(log) == ["k2", "k1", "k3", "k2"]

    @law("BUS-25", "A key with other content refuses its write with a conflict that names table, record and key")
    async def test_other_content_is_a_conflict(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        [original] = await log.put(write(put(EVENTS, "k1")))
        [outcome] = await log.publish(write(put(EVENTS, "k2", "k1", note="other")))
        context = conflict(outcome).context
        assert (context["table"], context["record"], context["idempotency_key"]) == ("events", 1, "k1")
        assert context["original_token"] == original.token

    @law("BUS-26", "A refused write leaves no trace: no row, no key")
    async def test_a_refused_write_leaves_no_trace(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        await log.put(write(put(EVENTS, "k1")))
        [outcome] = await log.publish(write(put(ORDERS, "o1"), put(EVENTS, "k2", "k1", note="other")))
        conflict(outcome)
        [later] = await log.put(write(put(ORDERS, "o1", note="new"), put(EVENTS, "k2", note="new")))
        assert (later.accepted, later.duplicates) == ((1, 1), (0, 0))
        assert await notes(log) == ["k1", "new", "new"]

    @law("BUS-27", "A refused write does not touch its neighbours in the group")
    async def test_a_conflict_refuses_its_write_only(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        await log.put(write(put(EVENTS, "k1")))
        before, between, after = await log.publish(
            write(put(EVENTS, "k2", "k3"), put(ORDERS, "o2")),
            write(put(EVENTS, "k4", "k1", note="other"), put(ORDERS, "o3")),
            write(put(EVENTS, "k5"), put(ORDERS, "o5")),
        )
        conflict(between)
        assert isinstance(before, Accepted)
        assert isinstance(after, Accepted)
        assert await notes(log) == ["k1", "k2", "k3", "o2", "k5", "o5"]

    @law("BUS-28", "A key used with two contents in one group is a conflict of the second write")
    async def test_a_conflict_inside_a_group(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        first, second = await log.publish(write(put(EVENTS, "k1")), write(put(EVENTS, "k1", note="other")))
        assert isinstance(first, Accepted)
        conflict(second)
        assert await notes(log) == ["k1"]

    @law("BUS-29", "One key for a whole body makes all of its rows new, or all duplicates, or a conflict")
    async def test_one_key_covers_a_whole_body(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        [original, single] = await log.put(write(body(EVENTS, "b1", 5)), write(put(EVENTS, "k1")))
        assert original.accepted == (5,)
        [retry, more] = await log.put(write(body(EVENTS, "b1", 5)), write(body(EVENTS, "b2", 2)))
        assert (retry.accepted, retry.duplicates) == ((0,), (5,))
        assert retry.token >= original.token
        assert more.token > single.token
        [other] = await log.publish(write(body(EVENTS, "b1", 5, note="other")))
        conflict(other)
        assert await notes(log) == [*(f"b1-{n}" for n in range(5)), "k1", "b2-0", "b2-1"]

    @law("BUS-30", "Keys belong to a table of a tenant: the same key elsewhere is new")
    async def test_keys_are_scoped(self, bus: IngestBus) -> None:
        acme, globex = await self.log(bus), await self.log(bus, "globex")
        await acme.put(write(put(EVENTS, "k1")))
        [other_table] = await acme.put(write(put(ORDERS, "k1", note="other")))
        [other_tenant] = await globex.put(write(put(EVENTS, "k1", note="other")))
        assert other_table.duplicates == other_tenant.duplicates == (0,)

    @law("BUS-31", "Of publishers that race with the same keys, one stores each of them")
    @needs("deduplicates", "keys are decided outside of the log's transaction, and settled when it is materialised")
    async def test_racing_retries_are_stored_once(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        drafts = [write(put(EVENTS, f"k{n}", "shared")) for n in range(8)]
        outcomes = [outcome for [outcome] in await asyncio.gather(*map(log.put, drafts))]
        assert sum(outcome.duplicates[0] for outcome in outcomes) == len(drafts) - 1
        assert sorted(await notes(log)) == [*(f"k{n}" for n in range(8)), "shared"]

    @law("BUS-32", "A bus that does not deduplicate delivers the claims of every row, so that they can be settled")
    async def test_claims_are_delivered(self, bus: IngestBus) -> None:
        if bus.capabilities.deduplicates:
            unsupported("the bus settles keys itself")
        log = await self.log(bus)
        sent = put(EVENTS, "k1", "k2"), body(EVENTS, "b1", 3)
        await log.put(write(sent[0]), write(sent[1]))
        parts = [part for entry in await log.drain() for each in entry.writes for part in each.parts]
        for part, expected in zip(parts, (each.part("acme") for each in sent), strict=True):
            assert part.claim is not None
            assert list(part.claim.key_ids) == list(expected.key_ids)
            assert list(part.claim.content_ids) == list(expected.content_ids)
            assert (part.claim.whole, part.table) == (expected.whole, ref(EVENTS))
