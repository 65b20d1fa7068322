"""Histories of writes, crashes and takeovers on the reference adapters; others are plugged in the same way."""

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
from hypothesis import Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from duckmesh.adapters.memory import MemoryBus, MemoryCatalog, PartitionedMemoryBus
from duckmesh.domain.leases import Lease
from duckmesh.domain.snapshots import Publication, Snapshot
from duckmesh.testing.stateful import HistoryMachine, System

# A failing history is shown as it was found: to make it small takes minutes, with Phase.shrink when it is wanted.
SETTINGS = settings(
    max_examples=25,
    stateful_step_count=30,
    deadline=None,
    print_blob=True,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],
)


@asynccontextmanager
async def system(bus: MemoryBus | PartitionedMemoryBus, catalog: MemoryCatalog) -> AsyncIterator[System]:
    async def expire(lease: Lease) -> None:
        bus.expire_lease(lease.tenant)

    lose = bus.append_answer_lost if isinstance(bus, PartitionedMemoryBus) else None
    yield System(bus, catalog, expire, lose)


class MemoryMachine(HistoryMachine):
    def open(self) -> AbstractAsyncContextManager[System]:
        return system(MemoryBus(), MemoryCatalog())


class PartitionedMachine(HistoryMachine):
    def open(self) -> AbstractAsyncContextManager[System]:
        catalog = MemoryCatalog()
        return system(PartitionedMemoryBus(catalog, partitions=1, seed=7), catalog)


class _UnfencedCatalog(MemoryCatalog):
    async def publish(self, publication: Publication) -> Snapshot:
        state = self._tenant(publication.tenant)
        state.head = type(state.head)(
            publication.tenant, publication.base_watermark, state.head.snapshot_id, 0, state.head.control_token
        )
        return await super().publish(publication)


class _ForgetfulCatalog(MemoryCatalog):
    async def settle(self, *_: object) -> list[int]:  # type: ignore[override]
        return []


class UnfencedMachine(HistoryMachine):
    def open(self) -> AbstractAsyncContextManager[System]:
        return system(MemoryBus(), _UnfencedCatalog())


class UnsettledMachine(HistoryMachine):
    def open(self) -> AbstractAsyncContextManager[System]:
        catalog = _ForgetfulCatalog()
        return system(PartitionedMemoryBus(catalog), catalog)


@pytest.mark.parametrize("machine", [MemoryMachine, PartitionedMachine])
def test_every_history_keeps_the_invariants(machine: type[HistoryMachine]) -> None:
    run_state_machine_as_test(machine, settings=SETTINGS)


@pytest.mark.parametrize("machine", [UnfencedMachine, UnsettledMachine])
def test_a_history_finds_what_is_broken(machine: type[HistoryMachine]) -> None:
    found = settings(SETTINGS, max_examples=300, database=None, derandomize=True)
    with pytest.raises(AssertionError):
        run_state_machine_as_test(machine, settings=found)
