"""An ingest bus from outside: it counts what passes, and keeps its log in memory.

A real one would keep it in your broker. What matters here is what DuckMesh asks of a package: a function that opens
the bus, named as an entry point in the group ``duckmesh.ingest_bus``, and the contract suite green.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from duckmesh.adapters.memory import MemoryBus
from duckmesh.domain.writes import Outcome, WriteGroup
from duckmesh.ports.bus import BusOptions


class AcmeBus(MemoryBus):
    """A log that counts the groups it stored."""

    groups = 0

    async def publish(self, group: WriteGroup) -> Sequence[Outcome]:
        """See `IngestBus.publish`."""
        outcomes = await super().publish(group)
        self.groups += 1
        return outcomes


@asynccontextmanager
async def open_bus(options: BusOptions) -> AsyncIterator[AcmeBus]:
    """Open the bus; settings of its own come from ``options.environment``."""
    yield AcmeBus(lease_ttl_s=options.lease_ttl_s)
