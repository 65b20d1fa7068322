"""What every part of `CatalogSuite` stands on: the hooks of an adapter, and a tenant's state in few words."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import pytest
import pytest_asyncio
from attrs import frozen

from duckmesh.domain.errors import DuckMeshError
from duckmesh.domain.snapshots import CatalogHead, DataFile, Snapshot
from duckmesh.domain.tables import TableDefinition
from duckmesh.ports.catalog import Catalog
from duckmesh.testing.builders import EVENTS, created, publication
from duckmesh.testing.laws import LawSuite, missing_hook


@frozen(eq=False)
class TenantCatalog:
    """One tenant of a catalog."""

    catalog: Catalog
    tenant: str

    async def head(self) -> CatalogHead:
        """The newest state."""
        return await self.catalog.head(self.tenant)

    async def publish(self, watermark: int | None = None, **parts: Any) -> Snapshot:
        """Publish on the present state; the watermark moves by one unless it is given."""
        return await self.catalog.publish(publication(await self.head(), watermark, **parts))

    async def make(self, *tables: TableDefinition) -> Snapshot:
        """Publish control writes that made tables, each under the next token."""
        watermark = (await self.head()).watermark
        results = [created(watermark + number, table) for number, table in enumerate(tables, start=1)]
        return await self.publish(watermark + len(tables), controls=results)

    async def tables(self, snapshot_id: int | None = None) -> dict[str, TableDefinition]:
        """The tables of a snapshot by folded name."""
        return dict((await self.catalog.manifest(self.tenant, snapshot_id)).tables)

    async def files(self, of: TableDefinition = EVENTS, snapshot_id: int | None = None) -> dict[str, DataFile]:
        """The files of a table in a snapshot, by path."""
        manifest = await self.catalog.manifest(self.tenant, snapshot_id)
        found = manifest.files.get(of.table_id, ())
        assert len({file.file.path for file in found}) == len(found)
        return {file.file.path: file for file in found}

    async def state(self) -> tuple[Any, ...]:
        """Everything that a refused publication must not change; the recorded epoch is not part of it."""
        head, manifest = await self.head(), await self.catalog.manifest(self.tenant)
        files = {file.file_id: file for found in manifest.files.values() for file in found}
        snapshots = await self.catalog.snapshots(self.tenant)
        parked = await self.catalog.parked(self.tenant, 2**62)
        position = (head.watermark, head.snapshot_id, head.control_token)
        return position, manifest.snapshot, dict(manifest.tables), files, list(snapshots), list(parked)

    @asynccontextmanager
    async def refused(self, *errors: type[DuckMeshError]) -> AsyncIterator[None]:
        """Expect one of the errors, and that nothing changed."""
        before = await self.state()
        with pytest.raises(errors):
            yield
        assert await self.state() == before


class CatalogHooks(LawSuite):
    """The hooks that a subclass of a catalog suite defines."""

    @pytest_asyncio.fixture
    async def catalog(self) -> AsyncIterator[Catalog]:
        """Required: a new catalog without tenants."""
        missing_hook(self, "catalog", "yield a new Catalog without tenants")
        yield  # keeps it a generator; never reached

    async def set_published_at(self, catalog: Catalog, snapshot: Snapshot, at: datetime) -> None:  # noqa: ARG002
        """Required back door: let the snapshot have been published at another time."""
        missing_hook(self, "set_published_at", "change the time at which a snapshot was published")

    async def tenant(self, catalog: Catalog, name: str = "acme", *tables: TableDefinition) -> TenantCatalog:
        """A new tenant with tables."""
        await catalog.create_tenant(name)
        made = TenantCatalog(catalog, name)
        if tables:
            await made.make(*tables)
        return made


def ids(snapshots: Sequence[Snapshot]) -> list[int]:
    """The ids of snapshots."""
    return [snapshot.snapshot_id for snapshot in snapshots]
