"""`CatalogSuite`: the laws that every catalog keeps, to run against your own adapter.

A subclass says how to make one, and how to change the time of a snapshot::

    class TestMyCatalog(CatalogSuite):
        @pytest_asyncio.fixture
        async def catalog(self):
            async with open_my_catalog() as catalog:
                yield catalog

        async def set_published_at(self, catalog, snapshot, at):
            catalog.rows[snapshot.snapshot_id].published_at = at

``catalog`` has no tenants and is new for every test. ``set_published_at`` is a back door, so that ties of time are
no matter of luck.
"""

from duckmesh.testing.catalog_publication import PublicationLaws
from duckmesh.testing.catalog_snapshots import SnapshotLaws
from duckmesh.testing.catalog_tenants import EventLaws, LedgerLaws, TenantLaws


class CatalogSuite(PublicationLaws, SnapshotLaws, TenantLaws, LedgerLaws, EventLaws):
    """All laws of `Catalog`."""
