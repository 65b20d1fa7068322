"""Laws of order: tokens, heads, control writes. They race real publishers where order is at stake."""

import asyncio
import itertools

import pytest
from attrs import frozen

from duckmesh.domain.errors import SchemaChanged
from duckmesh.domain.tables import CreateTable
from duckmesh.domain.writes import ClaimedBatch
from duckmesh.ports.bus import IngestBus
from duckmesh.testing.builders import EVENTS, ORDERS, create, group, put, write
from duckmesh.testing.bus_base import PATIENCE, BusHooks, TenantLog, tokens
from duckmesh.testing.exemptions import needs
from duckmesh.testing.laws import law

PUBLISHERS = 12
WRITES_EACH = 6


@frozen
class _Published:
    """A write's token, and when its publication began and ended on a counter that all publishers share."""

    token: int
    began: int
    ended: int


async def _race(log: TenantLog) -> list[_Published]:
    """Publish from many tasks at once."""
    counter = itertools.count()

    async def publisher(name: int) -> list[_Published]:
        done = []
        for number in range(WRITES_EACH):
            began = next(counter)
            [outcome] = await log.put(write(put(EVENTS, f"{name}-{number}")))
            done.append(_Published(outcome.token, began, next(counter)))
        return done

    return list(itertools.chain(*await asyncio.gather(*map(publisher, range(PUBLISHERS)))))


class OrderingLaws(BusHooks):
    """Tokens are the order in which writes were committed."""

    @law("BUS-1", "A write's token is larger than that of every write committed before it was published")
    async def test_tokens_grow_in_commit_order(self, bus: IngestBus) -> None:
        published = await _race(await self.log(bus))
        assert len({each.token for each in published}) == PUBLISHERS * WRITES_EACH
        assert all(each.token > 0 for each in published)
        by_end = sorted(published, key=lambda each: each.ended)
        for each in published:
            before = [other.token for other in by_end if other.ended < each.began]
            assert each.token > max(before, default=0)

    @law("BUS-2", "No write appears later at or below a token through which a claim has delivered")
    async def test_a_reader_sees_no_gap_that_is_filled_later(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        racing = asyncio.create_task(_race(log))
        batches = await _read_along(log, racing)
        published = {each.token for each in await racing}
        for batch in batches:
            seen = set(tokens(batch.entries))
            missing = {token for token in published - seen if batch.range.after < token <= batch.range.through}
            assert not missing, f"a claim delivered {batch.range} without {sorted(missing)}"
        assert published == {token for batch in batches for token in tokens(batch.entries)}

    @law("BUS-3", "Whatever is published after the head was read has a token beyond it")
    async def test_the_head_is_final(self, bus: IngestBus) -> None:
        log = await self.log(bus)

        async def publisher(name: int) -> None:
            for number in range(WRITES_EACH):
                before = await bus.head("acme")
                [outcome] = await log.put(write(put(EVENTS, f"{name}-{number}")))
                after = await bus.head("acme")
                assert before.token < outcome.token <= after.token

        await asyncio.gather(*map(publisher, range(PUBLISHERS)))

    @law("BUS-4", "A log without writes has the head 0, and a head says whose it is")
    async def test_an_empty_log_has_the_head_zero(self, bus: IngestBus) -> None:
        await self.log(bus)
        head = await bus.head("acme")
        assert (head.tenant, head.token, head.control_token) == ("acme", 0, 0)

    @law("BUS-5", "The writes of a group have growing tokens in the order in which they stand there")
    async def test_a_group_keeps_its_order(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        outcomes = await log.put(*(write(put(EVENTS, f"k{n}")) for n in range(10)))
        found = [outcome.token for outcome in outcomes]
        assert found == sorted(set(found))
        assert tokens(await log.drain()) == found

    @law("BUS-6", "A tenant's tokens have no gaps, whatever other tenants write and whatever is refused")
    @needs("dense_tokens", "tokens are positions in a log that tenants share")
    async def test_tokens_are_dense(self, bus: IngestBus) -> None:
        logs = [await self.log(bus, tenant) for tenant in ("acme", "globex", "initech", "umbrella", "hooli")]
        found: list[list[int]] = [[] for _ in logs]
        for number in range(3):
            for log, own in zip(logs, found, strict=True):
                accepted = await log.put(write(put(EVENTS, f"k{number}")), write(put(ORDERS, f"k{number}")))
                own += [outcome.token for outcome in accepted]
                await log.publish(write(put(EVENTS, f"k{number}", note="other content")))
        assert found == [[1, 2, 3, 4, 5, 6]] * len(logs)

    @law("BUS-7", "Control writes have a place among the data, and the head names the last one")
    async def test_control_writes_have_a_place(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        first, making = await log.put(write(put(EVENTS, "k1")), create(ORDERS))
        assert (await bus.head("acme")).control_token == making.token
        [second] = await log.put(write(put(ORDERS, "k1")))
        delivered = [each for entry in await log.drain() for each in entry.writes]
        assert [each.token for each in delivered] == [first.token, making.token, second.token]
        assert [each.control for each in delivered] == [None, CreateTable(ORDERS), None]
        assert [len(each.parts) for each in delivered] == [1, 0, 1]

    @law("BUS-8", "The head names a control write that is not the last of its group")
    async def test_a_control_write_is_seen_wherever_it_stands(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        making, data = await log.put(create(ORDERS), write(put(EVENTS, "k1")))
        head = await bus.head("acme")
        assert (head.control_token, head.token) == (making.token, data.token)

    @law("BUS-9", "A group validated before the last control write is refused, and nothing of it is stored")
    @needs("checks_schema", "the log cannot look at control writes while it appends")
    async def test_a_group_behind_a_control_write_is_refused(self, bus: IngestBus) -> None:
        log = await self.log(bus)
        [making] = await log.put(create(EVENTS))
        with pytest.raises(SchemaChanged):
            await bus.publish(group("acme", write(put(EVENTS, "k1")), schema_token=0))
        assert (await bus.head("acme")).token == making.token
        [again] = await log.put(write(put(EVENTS, "k1", note="its key is free")))
        assert again.accepted == (1,)
        assert tokens(await log.drain()) == [making.token, again.token]

    @law("BUS-10", "Of racing control writes that knew the same schema, exactly one is stored")
    @needs("checks_schema", "the log cannot look at control writes while it appends")
    async def test_racing_control_writes_are_ordered(self, bus: IngestBus) -> None:
        await self.log(bus)
        groups = [group("acme", create(EVENTS)) for _ in range(8)]
        outcomes = await asyncio.gather(*map(bus.publish, groups), return_exceptions=True)
        refused = [outcome for outcome in outcomes if isinstance(outcome, SchemaChanged)]
        assert len(refused) == len(groups) - 1, outcomes


async def _read_along(log: TenantLog, racing: "asyncio.Task[list[_Published]]") -> list[ClaimedBatch]:
    """Claim as fast as possible while publishers race, and then what is left."""
    batches: list[ClaimedBatch] = []
    known, idle = 0, 0
    while idle < PATIENCE:
        finished = racing.done()
        batch = await log.claim(after=known)
        if batch is None:
            if finished:
                return batches
            idle += 1
            await log.bus.wait_for_work(0.05)
            continue
        idle = 0
        batches.append(batch)
        known = max(known, batch.range.through)
        await log.bus.ack(batch.lease, known)
    raise AssertionError("the publishers did not finish")
