"""Laws of snapshots and manifests: what was published stays what it was (contract, promises 4 and 5)."""

from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from uuid import UUID

import pytest
from attrs import evolve

from duckmesh.domain.errors import PublicationConflict, SnapshotNotFound
from duckmesh.domain.schema import CompatibilityMode, SchemaMode, grown_schema, parse_specs
from duckmesh.domain.snapshots import ControlResult
from duckmesh.domain.tables import AlterTable, DropTable
from duckmesh.ports.catalog import Catalog
from duckmesh.testing.builders import EVENTS, EVERY_TYPE, NOON, ORDERS, created, data_file, table
from duckmesh.testing.catalog_base import CatalogHooks, ids
from duckmesh.testing.laws import law

EVENTS_2 = evolve(
    EVENTS,
    schema=grown_schema(
        EVENTS.schema,
        parse_specs({"id": "BIGINT", "note": "VARCHAR", "more": {"type": "DOUBLE", "default": 0.5}}),
        CompatibilityMode.BACKWARD,
    ),
)

#: One value of every type that a primary key can have, and a larger one.
KEY_MIN = (-(2**63), 0, Decimal("-1.50"), False, "", b"\x00", date(1, 1, 1), time(0, 0, 0, 1), NOON, UUID(int=1))
KEY_MAX = (
    2**63 - 1,
    2**64 - 1,
    Decimal("99999999999999999999999999999.999999999"),
    True,
    "Zoë\x00🦆",
    b"\xff\x00",
    date(9999, 12, 31),
    time(23, 59, 59, 999999),
    NOON + timedelta(microseconds=1),
    UUID(int=2**128 - 1),
)


class SnapshotLaws(CatalogHooks):
    """What a snapshot shows, now and later."""

    @law("CAT-21", "An old snapshot shows the same tables and files whatever is published later")
    async def test_old_manifests_do_not_change(self, catalog: Catalog) -> None:
        acme = await self.tenant(catalog, "acme", EVENTS, ORDERS)
        added = [data_file(EVENTS, "a.parquet"), data_file(EVENTS, "b.parquet"), data_file(ORDERS, "o.parquet")]
        old = await acme.publish(added=added)
        replaced = (await acme.files())["a.parquet"].file_id
        await acme.publish(ended=[replaced], added=[data_file(EVENTS, "c.parquet")])
        dropping = (await acme.head()).watermark + 1
        await acme.publish(controls=[ControlResult(dropping, DropTable(ORDERS.table_id))])
        await acme.publish(controls=[ControlResult(dropping + 1, AlterTable(EVENTS.table_id, EVENTS_2.schema))])
        assert set(await acme.files(EVENTS, old.snapshot_id)) == {"a.parquet", "b.parquet"}
        assert set(await acme.files(ORDERS, old.snapshot_id)) == {"o.parquet"}
        assert await acme.tables(old.snapshot_id) == {"events": EVENTS, "orders": ORDERS}
        assert (await catalog.manifest("acme", old.snapshot_id)).snapshot == old
        assert set(await acme.files()) == {"b.parquet", "c.parquet"}
        assert await acme.tables() == {"events": EVENTS_2}

    @law("CAT-22", "A dropped table and its files are in no later snapshot")
    async def test_a_dropped_table_is_hidden(self, catalog: Catalog) -> None:
        acme = await self.tenant(catalog, "acme", EVENTS, ORDERS)
        before = await acme.publish(added=[data_file(EVENTS, "a.parquet"), data_file(ORDERS, "o.parquet")])
        drop = ControlResult(before.watermark + 1, DropTable(EVENTS.table_id))
        await acme.publish(controls=[drop])
        manifest = await catalog.manifest("acme")
        assert set(manifest.tables) == {"orders"}
        assert [file.file.path for files in manifest.files.values() for file in files] == ["o.parquet"]

    @law("CAT-23", "A table made under a dropped one's name shares nothing with it")
    async def test_a_name_used_again_shares_nothing(self, catalog: Catalog) -> None:
        acme = await self.tenant(catalog, "acme", EVENTS)
        old = await acme.publish(added=[data_file(EVENTS, "a.parquet")])
        other = table("EVENTS", {"x": "DOUBLE"}, table_id="table-events-again")
        results = [ControlResult(old.watermark + 1, DropTable(EVENTS.table_id)), created(old.watermark + 2, other)]
        await acme.publish(controls=results, added=[data_file(other, "x.parquet")])
        assert await acme.tables() == {"events": other}
        assert set(await acme.files(other)) == {"x.parquet"}
        assert await acme.files(EVENTS) == {}
        assert await acme.tables(old.snapshot_id) == {"events": EVENTS}

    @law("CAT-24", "Several changes of one table in one publication apply in their order")
    async def test_controls_apply_in_order(self, catalog: Catalog) -> None:
        acme = await self.tenant(catalog)
        changes = [created(1, EVENTS), ControlResult(2, AlterTable(EVENTS.table_id, EVENTS_2.schema))]
        await acme.publish(3, controls=changes)
        assert await acme.tables() == {"events": EVENTS_2}

    @law("CAT-25", "Snapshot ids are unique among tenants and grow, and a publication is never older than its parent")
    async def test_snapshot_ids_grow(self, catalog: Catalog) -> None:
        acme, globex = await self.tenant(catalog), await self.tenant(catalog, "globex")
        found = [await each.publish() for each in (acme, globex, acme, globex, acme)]
        assert ids(found) == sorted(set(ids(found)))
        own = list(reversed(await catalog.snapshots("acme")))
        assert [snapshot.published_at for snapshot in own] == sorted(snapshot.published_at for snapshot in own)
        assert [snapshot.parent_id for snapshot in own] == [None, *ids(own)[:-1]]

    @law("CAT-26", "File ids are unique")
    async def test_file_ids_are_unique(self, catalog: Catalog) -> None:
        acme = await self.tenant(catalog, "acme", EVENTS)
        await acme.publish(added=[data_file(EVENTS, f"a{n}.parquet") for n in range(3)])
        await acme.publish(added=[data_file(EVENTS, f"b{n}.parquet") for n in range(3)])
        assert len({file.file_id for file in (await acme.files()).values()}) == 6

    @law("CAT-27", "Snapshots are listed newest first, in pages that neither repeat nor skip any")
    async def test_snapshots_are_paged(self, catalog: Catalog) -> None:
        acme = await self.tenant(catalog)
        other = await self.tenant(catalog, "globex")
        for _ in range(5):
            await acme.publish()
            await other.publish()
        everything = ids(await catalog.snapshots("acme"))
        assert everything == sorted(everything, reverse=True)
        assert len(everything) == 6
        first = ids(await catalog.snapshots("acme", limit=4))
        second = ids(await catalog.snapshots("acme", before=first[-1], limit=4))
        assert (first, second) == (everything[:4], everything[4:])
        assert list(await catalog.snapshots("acme", before=second[-1], limit=4)) == []

    @law("CAT-28", "A snapshot by time is the last one published at or before it, and of equals the later")
    async def test_snapshots_by_time(self, catalog: Catalog) -> None:
        acme = await self.tenant(catalog)
        first = (await catalog.snapshots("acme"))[0]
        found = [first, await acme.publish(), await acme.publish(), await acme.publish()]
        seconds = [0, 10, 10, 20]
        for snapshot, second in zip(found, seconds, strict=True):
            await self.set_published_at(catalog, snapshot, NOON + timedelta(seconds=second))
        expected = {0: 0, 5: 0, 10: 2, 19: 2, 20: 3, 3600: 3}
        for second, number in expected.items():
            at = await catalog.snapshot_at("acme", NOON + timedelta(seconds=second))
            assert at.snapshot_id == found[number].snapshot_id
        with pytest.raises(SnapshotNotFound):
            await catalog.snapshot_at("acme", NOON - timedelta(microseconds=1))

    @law("CAT-29", "A snapshot that does not exist, or is another tenant's, is not found")
    async def test_unknown_snapshots_are_not_found(self, catalog: Catalog) -> None:
        await self.tenant(catalog)
        globex = await self.tenant(catalog, "globex")
        for snapshot_id in ((await globex.head()).snapshot_id, 2**40, 0, -1):
            with pytest.raises(SnapshotNotFound):
                await catalog.manifest("acme", snapshot_id)
        assert (await catalog.manifest("acme")).snapshot.tenant == "acme"

    @law("CAT-30", "A tenant neither sees nor ends another's tables and files")
    async def test_tenants_are_isolated(self, catalog: Catalog) -> None:
        acme = await self.tenant(catalog, "acme", EVENTS)
        theirs = table("events", {"x": "DOUBLE"}, table_id="table-theirs")
        globex = await self.tenant(catalog, "globex", theirs)
        await acme.publish(added=[data_file(EVENTS, "a.parquet")])
        await catalog.record_epoch("acme", 9)
        async with globex.refused(PublicationConflict):
            await globex.publish(ended=[file.file_id for file in (await acme.files()).values()])
        assert await globex.tables() == {"events": theirs}
        assert await globex.files() == await globex.files(theirs) == {}
        head = await globex.head()
        assert (head.watermark, head.epoch) == (1, 0)
        assert await catalog.control_result("globex", 1) == created(1, theirs)

    @law("CAT-31", "A table's schema comes back as it was given, with all types, defaults and descriptions")
    async def test_schemas_survive(self, catalog: Catalog) -> None:
        loose = evolve(
            table("Loose", {"MixedCase": "JSON"}),
            compatibility=CompatibilityMode.FULL,
            schema_mode=SchemaMode.AUTO,
        )
        acme = await self.tenant(catalog, "acme", EVERY_TYPE, loose)
        assert await acme.tables() == {"every_type": EVERY_TYPE, "loose": loose}
        assert await catalog.control_result("acme", 1) == created(1, EVERY_TYPE)

    @law("CAT-32", "A file comes back as it was given, with key bounds of every type that a key can have")
    async def test_files_survive(self, catalog: Catalog) -> None:
        acme = await self.tenant(catalog, "acme", EVENTS)
        file = data_file(
            EVENTS,
            "x/y=1/größe.parquet",
            (2**40, 2**63 - 1),
            rows=2**40,
            bytes=2**50,
            checksum="0123456789abcdef" * 4,
            min_event_time=datetime(1, 1, 1, tzinfo=UTC),
            max_event_time=datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC),
            key_min=KEY_MIN,
            key_max=KEY_MAX,
        )
        await acme.publish(added=[file, data_file(EVENTS, "plain.parquet")])
        shown = await acme.files()
        assert shown["x/y=1/größe.parquet"].file == file
        assert [type(value) for value in shown["x/y=1/größe.parquet"].file.key_min or ()] == list(map(type, KEY_MIN))
        assert (shown["plain.parquet"].file.key_min, shown["plain.parquet"].file.key_max) == (None, None)
