"""The ports in memory: the reference models that every other adapter is compared with."""

from duckmesh.adapters.memory.bus import MemoryBus
from duckmesh.adapters.memory.catalog import MemoryCatalog
from duckmesh.adapters.memory.partitioned import PartitionedMemoryBus

__all__ = ["MemoryBus", "MemoryCatalog", "PartitionedMemoryBus"]
