"""`IngestBusSuite`: the laws that every log keeps, to run against your own adapter.

A subclass says how to make a bus, and how to let a lease run out::

    class TestMyBus(IngestBusSuite):
        @pytest_asyncio.fixture
        async def bus(self):
            async with open_my_bus() as bus:
                yield bus

        async def expire_lease(self, bus, lease):
            await bus.connection.execute("UPDATE leases SET expires_at = now() WHERE tenant = $1", lease.tenant)

``bus`` is a new, empty log for every test. ``expire_lease`` is a back door that lets a lease run out without
waiting. A bus that needs something before a tenant's first write makes it in ``prepare_tenant(bus, tenant)``. Laws
that a bus does not promise are skipped through its `BusCapabilities`, and one that it keeps without promising it
is a failure.
"""

from duckmesh.testing.bus_delivery import DeliveryLaws
from duckmesh.testing.bus_idempotency import IdempotencyLaws
from duckmesh.testing.bus_leases import LeaseLaws
from duckmesh.testing.bus_ordering import OrderingLaws


class IngestBusSuite(OrderingLaws, IdempotencyLaws, LeaseLaws, DeliveryLaws):
    """All laws of `IngestBus`."""
