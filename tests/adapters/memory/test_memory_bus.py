"""The reference log keeps every law."""

import pytest

from duckmesh.adapters.memory import MemoryBus, MemoryCatalog, PartitionedMemoryBus
from duckmesh.domain.leases import Lease
from duckmesh.testing.bus import IngestBusSuite


class TestMemoryBus(IngestBusSuite):
    @pytest.fixture
    def bus(self) -> MemoryBus:
        return MemoryBus()

    async def expire_lease(self, bus: MemoryBus, lease: Lease) -> None:
        bus.expire_lease(lease.tenant)


class TestPartitionedMemoryBus(IngestBusSuite):
    partitions = 1

    @pytest.fixture
    def bus(self) -> PartitionedMemoryBus:
        return PartitionedMemoryBus(MemoryCatalog(), partitions=self.partitions)

    async def expire_lease(self, bus: PartitionedMemoryBus, lease: Lease) -> None:
        bus.expire_lease(lease.tenant)


class TestPartitionedMemoryBusOfThreePartitions(TestPartitionedMemoryBus):
    partitions = 3
