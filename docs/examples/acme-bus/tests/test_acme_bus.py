"""The whole contract of an ingest bus, in a dozen lines."""

import pytest
from acme_bus import AcmeBus

from duckmesh.testing.bus import IngestBusSuite


class TestAcmeBus(IngestBusSuite):
    @pytest.fixture
    def bus(self):
        return AcmeBus()

    async def expire_lease(self, bus, lease):
        bus.expire_lease(lease.tenant)
