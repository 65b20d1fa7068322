"""Laws of publication: one transaction, on the state from which it was planned (contract, promise 3)."""

import asyncio

import pytest

from duckmesh.domain.errors import DuckMeshError, PublicationConflict, StaleEpoch
from duckmesh.domain.snapshots import ControlResult, ParkedWrite, Publication, Snapshot
from duckmesh.domain.tables import AlterTable, CreateTable, DropTable
from duckmesh.ports.catalog import Catalog
from duckmesh.testing.builders import EVENTS, ORDERS, created, data_file, publication, table
from duckmesh.testing.catalog_base import CatalogHooks, ids
from duckmesh.testing.laws import law

RACERS = 8


class PublicationLaws(CatalogHooks):
    """What a publication changes, and what refuses it."""

    @law("CAT-1", "A new tenant has an empty first snapshot at watermark 0")
    async def test_a_new_tenant_is_empty(self, catalog: Catalog) -> None:
        acme = await self.tenant(catalog)
        head, manifest = await acme.head(), await catalog.manifest("acme")
        assert (head.tenant, head.watermark, head.epoch, head.control_token) == ("acme", 0, 0, 0)
        assert manifest.snapshot.snapshot_id == head.snapshot_id > 0
        assert (manifest.snapshot.watermark, manifest.snapshot.parent_id) == (0, None)
        assert not manifest.tables
        assert not manifest.files
        assert ids(await catalog.snapshots("acme")) == [head.snapshot_id]

    @law("CAT-2", "A publication moves the watermark and shows its files in a new snapshot")
    async def test_a_publication_shows_its_files(self, catalog: Catalog) -> None:
        acme = await self.tenant(catalog, "acme", EVENTS)
        before = await acme.head()
        added = [data_file(EVENTS, "a.parquet", (2, 5)), data_file(EVENTS, "b.parquet", (6, 9))]
        snapshot = await acme.publish(9, added=added)
        assert (snapshot.watermark, snapshot.parent_id, snapshot.author) == (9, before.snapshot_id, "suite")
        assert snapshot.snapshot_id > before.snapshot_id
        assert snapshot.published_at.tzinfo is not None
        head, manifest = await acme.head(), await catalog.manifest("acme")
        assert (head.watermark, head.snapshot_id) == (9, snapshot.snapshot_id)
        assert manifest.snapshot == snapshot
        shown = await acme.files()
        assert {path: file.file for path, file in shown.items()} == {file.path: file for file in added}
        assert {(file.begin_snapshot, file.end_snapshot) for file in shown.values()} == {(snapshot.snapshot_id, None)}

    @law("CAT-3", "A stale epoch is refused and changes nothing")
    async def test_a_stale_epoch_changes_nothing(self, catalog: Catalog) -> None:
        acme = await self.tenant(catalog, "acme", EVENTS)
        head = await catalog.record_epoch("acme", 5)
        stale = publication(head, 9, added=[data_file(EVENTS, "a.parquet")], parked=[poison(9)], epoch=4)
        async with acme.refused(StaleEpoch):
            await catalog.publish(stale)
        assert (await acme.publish(9, epoch=5)).watermark == 9

    @law("CAT-4", "A recorded epoch only grows, and survives publications")
    async def test_epochs_only_grow(self, catalog: Catalog) -> None:
        acme = await self.tenant(catalog)
        assert (await catalog.record_epoch("acme", 3)).epoch == 3
        assert (await catalog.record_epoch("acme", 3)).epoch == 3
        with pytest.raises(StaleEpoch):
            await catalog.record_epoch("acme", 2)
        assert (await acme.head()).epoch == 3
        await acme.publish(epoch=3)
        assert (await acme.head()).epoch == 3
        recorded = await catalog.record_epoch("acme", 7)
        assert recorded == await acme.head()
        assert recorded.epoch == 7

    @law("CAT-5", "A publication planned from another watermark is refused and changes nothing")
    async def test_another_watermark_is_a_conflict(self, catalog: Catalog) -> None:
        acme = await self.tenant(catalog, "acme", EVENTS)
        planned_on = await acme.head()
        await acme.publish(7)
        for watermark in (7, 9):
            late = publication(planned_on, watermark, added=[data_file(EVENTS, "a.parquet")])
            async with acme.refused(PublicationConflict):
                await catalog.publish(late)

    @law("CAT-6", "A watermark never goes back")
    async def test_a_watermark_only_grows(self, catalog: Catalog) -> None:
        acme = await self.tenant(catalog)
        await acme.publish(7)
        async with acme.refused(PublicationConflict):
            await acme.publish(6)

    @law("CAT-7", "A publication that ends a file which is gone is refused and changes nothing")
    async def test_an_ended_file_that_is_gone(self, catalog: Catalog) -> None:
        acme = await self.tenant(catalog, "acme", EVENTS)
        await acme.publish(added=[data_file(EVENTS, name) for name in ("a.parquet", "b.parquet")])
        files = await acme.files()
        gone, kept = files["a.parquet"].file_id, files["b.parquet"].file_id
        await acme.publish(ended=[gone])
        for ended in ([gone], [kept, gone], [kept, 2**40]):
            async with acme.refused(PublicationConflict):
                await acme.publish(ended=ended, added=[data_file(EVENTS, "c.parquet")])

    @law("CAT-8", "Of racing publications from one watermark exactly one is published, and it whole")
    async def test_racing_publications(self, catalog: Catalog) -> None:
        acme = await self.tenant(catalog, "acme", EVENTS)
        head = await acme.head()
        racers = [
            publication(head, 9, added=[data_file(EVENTS, f"{n}-{part}.parquet") for part in "ab"])
            for n in range(RACERS)
        ]
        winner = await only_winner(catalog, racers)
        assert set(await acme.files()) == {file.path for file in racers[winner].added}
        assert len(await catalog.snapshots("acme")) == 3

    @law("CAT-9", "Of racing replacements of one file exactly one is published")
    async def test_racing_replacements(self, catalog: Catalog) -> None:
        acme = await self.tenant(catalog, "acme", EVENTS)
        await acme.publish(added=[data_file(EVENTS, "a.parquet")])
        head, old = await acme.head(), (await acme.files())["a.parquet"].file_id
        racers = [
            publication(head, head.watermark, ended=[old], added=[data_file(EVENTS, f"{n}.parquet")])
            for n in range(RACERS)
        ]
        winner = await only_winner(catalog, racers)
        assert set(await acme.files()) == {f"{winner}.parquet"}

    @law("CAT-10", "Maintenance replaces files without moving the watermark")
    async def test_maintenance_keeps_the_watermark(self, catalog: Catalog) -> None:
        acme = await self.tenant(catalog, "acme", EVENTS)
        before = await acme.publish(7, added=[data_file(EVENTS, "a.parquet"), data_file(EVENTS, "b.parquet")])
        ended = [file.file_id for file in (await acme.files()).values()]
        after = await acme.publish(7, ended=ended, added=[data_file(EVENTS, "ab.parquet")])
        assert (after.watermark, after.parent_id) == (7, before.snapshot_id)
        assert set(await acme.files()) == {"ab.parquet"}
        ended_files = (await acme.files(snapshot_id=before.snapshot_id)).values()
        assert {file.end_snapshot for file in ended_files} == {after.snapshot_id}

    @law("CAT-11", "Control writes apply in the snapshot that shows their files, and their results are kept")
    async def test_controls_are_atomic_with_files(self, catalog: Catalog) -> None:
        acme = await self.tenant(catalog)
        result = created(3, EVENTS)
        assert await catalog.control_result("acme", 3) is None
        snapshot = await acme.publish(5, controls=[result], added=[data_file(EVENTS, "a.parquet")])
        assert await acme.tables(snapshot.snapshot_id) == {"events": EVENTS}
        assert set(await acme.files()) == {"a.parquet"}
        assert await catalog.control_result("acme", 3) == result
        assert await catalog.control_result("acme", 4) is None
        assert (await acme.head()).control_token == 3

    @law("CAT-12", "A control write that failed changes no table, and is recorded as seen with its reason")
    async def test_a_failed_control_is_recorded(self, catalog: Catalog) -> None:
        acme = await self.tenant(catalog, "acme", EVENTS)
        twin = table("Events", {"other": "DOUBLE"}, table_id="table-twin")
        failed = ControlResult(2, CreateTable(twin), "TABLE_EXISTS", "it exists", {"table": "Events", "n": [1, None]})
        await acme.publish(controls=[failed, ControlResult(3, DropTable("no-such-table"), "TABLE_NOT_FOUND", "gone")])
        assert await acme.tables() == {"events": EVENTS}
        assert await catalog.control_result("acme", 2) == failed
        assert (await acme.head()).control_token == 3

    @law("CAT-13", "A control write that does not fit refuses its whole publication")
    async def test_a_publication_is_all_or_nothing(self, catalog: Catalog) -> None:
        acme = await self.tenant(catalog, "acme", EVENTS)
        misfits = [created(3, EVENTS), ControlResult(3, AlterTable("no-such-table", ORDERS.schema))]
        for misfit in misfits:
            async with acme.refused(DuckMeshError):
                await acme.publish(
                    9,
                    controls=[created(2, ORDERS), misfit],
                    added=[data_file(EVENTS, "a.parquet")],
                    parked=[poison(4)],
                )
        assert await catalog.control_result("acme", 2) is None

    @law("CAT-14", "Parked writes are listed in token order, up to the token that is asked for")
    async def test_parked_writes_are_listed(self, catalog: Catalog) -> None:
        acme = await self.tenant(catalog, "acme", EVENTS)
        assert list(await catalog.parked("acme", 2**62)) == []
        await acme.publish(6, parked=[poison(5), poison(3)])
        await acme.publish(9, parked=[poison(8)])
        assert list(await catalog.parked("acme", 2**62)) == [poison(3), poison(5), poison(8)]
        assert list(await catalog.parked("acme", 5)) == [poison(3), poison(5)]
        assert list(await catalog.parked("acme", 2)) == []


def poison(token: int) -> ParkedWrite:
    """A write that was parked."""
    return ParkedWrite(token, "DATA_CORRUPT", f"token {token} cannot be decoded", ("table-events", "table-orders"), 3)


async def only_winner(catalog: Catalog, racers: list[Publication]) -> int:
    """Publish all at once; the number of the one that was not refused."""
    outcomes = await asyncio.gather(*map(catalog.publish, racers), return_exceptions=True)
    winners = [number for number, outcome in enumerate(outcomes) if isinstance(outcome, Snapshot)]
    losers = [outcome for outcome in outcomes if isinstance(outcome, PublicationConflict)]
    assert len(winners) == 1, outcomes
    assert len(losers) == len(racers) - 1, outcomes
    return winners[0]
