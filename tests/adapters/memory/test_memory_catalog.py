"""The reference catalog keeps every law, also when all its snapshots are of one instant."""

from datetime import datetime

import pytest

from duckmesh.adapters.memory import MemoryCatalog
from duckmesh.domain.snapshots import Snapshot
from duckmesh.testing.builders import NOON
from duckmesh.testing.catalog import CatalogSuite


class TestMemoryCatalog(CatalogSuite):
    @pytest.fixture
    def catalog(self) -> MemoryCatalog:
        return MemoryCatalog()

    async def set_published_at(self, catalog: MemoryCatalog, snapshot: Snapshot, at: datetime) -> None:
        catalog.set_published_at(snapshot.snapshot_id, at)


class TestMemoryCatalogAtOneInstant(TestMemoryCatalog):
    @pytest.fixture
    def catalog(self) -> MemoryCatalog:
        return MemoryCatalog(clock=lambda: NOON)
