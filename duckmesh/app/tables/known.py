"""The tables of each tenant as this process knows them, with their compiled decoders.

Knowledge may be old: a write says up to which control write its tables were known, and the log refuses it when
there is a later one. Then the tables are read again.
"""

from collections import OrderedDict
from typing import Final

from attrs import define, field

from duckmesh.app.ingest.decoder import RecordDecoder
from duckmesh.domain.errors import TableNotFound
from duckmesh.domain.names import fold
from duckmesh.domain.tables import TableDefinition, Tables
from duckmesh.ports.catalog import Catalog

_MAX_TENANTS: Final = 1_000


@define
class TenantTables:
    """Tables of a tenant up to ``schema_token``, the last control write that is applied."""

    tenant: str
    schema_token: int
    tables: Tables
    _decoders: dict[str, RecordDecoder] = field(factory=dict)

    def table(self, name: str) -> TableDefinition:
        """The table of that name; raises `TableNotFound`."""
        table = self.tables.get(fold(name))
        if table is None:
            raise TableNotFound(f"table {name[:80]!r} does not exist; create it with POST /v1/tables", table=name[:80])
        return table

    def decoder(self, table: TableDefinition) -> RecordDecoder:
        """The table's decoder, compiled once."""
        decoder = self._decoders.get(table.table_id)
        if decoder is None:
            decoder = self._decoders[table.table_id] = RecordDecoder(table, self.tenant)
        return decoder


class KnownTables:
    """A bounded cache of tenants' tables."""

    def __init__(self, catalog: Catalog) -> None:
        self._catalog = catalog
        self._known: OrderedDict[str, TenantTables] = OrderedDict()

    async def get(self, tenant: str) -> TenantTables:
        """What is known of the tenant's tables, read when there is nothing; raises `TenantNotFound`."""
        known = self._known.get(tenant)
        if known is None:
            return await self.refresh(tenant)
        self._known.move_to_end(tenant)
        return known

    async def with_table(self, tenant: str, name: str) -> TenantTables:
        """The tenant's tables, read again when ``name`` is not among those known."""
        known = await self.get(tenant)
        if fold(name) not in known.tables:
            known = await self.refresh(tenant)
        return known

    async def refresh(self, tenant: str) -> TenantTables:
        """Read the tenant's tables from the catalog."""
        # The head first: tables newer than the token only make the log refuse once more, never the other way.
        head = await self._catalog.head(tenant)
        before = self._known.get(tenant)
        if before is not None and before.schema_token == head.control_token:
            return before
        manifest = await self._catalog.manifest(tenant)
        known = TenantTables(tenant, head.control_token, manifest.tables)
        self._known[tenant] = known
        self._known.move_to_end(tenant)
        while len(self._known) > _MAX_TENANTS:
            self._known.popitem(last=False)
        return known
