"""Laws of tenants, their API keys, the ledger of idempotency keys, and events."""

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta

import pytest

from duckmesh.domain.access import ALL_ROLES, ApiKey, Role, hash_secret
from duckmesh.domain.errors import NotFound, PublicationConflict, TenantExists, TenantNotFound
from duckmesh.domain.idempotency import LedgerEntry
from duckmesh.domain.writes import KeyClaim
from duckmesh.ports.catalog import Catalog, CatalogEvent, SnapshotPublished, VisibilityDemanded
from duckmesh.testing.builders import NOON
from duckmesh.testing.catalog_base import CatalogHooks
from duckmesh.testing.laws import law

#: How long an event may take; reached only when it never comes.
BOUND_S = 10.0

K1, K2, K3 = (bytes([number]) * 16 for number in (1, 2, 3))
C1, C2 = (bytes([number]) * 16 for number in (101, 102))


def api_key(key_id: str, tenant: str = "acme", minutes: int = 0, roles: frozenset[Role] = ALL_ROLES) -> ApiKey:
    """A key that was made some minutes after noon."""
    created_at = NOON + timedelta(minutes=minutes)
    return ApiKey(key_id, tenant, roles, hash_secret(key_id), created_at, name=f"key {key_id} ✓")


class TenantLaws(CatalogHooks):
    """Tenants and their keys."""

    @law("CAT-41", "Tenants are listed by name, and a name is given once")
    async def test_tenants_are_listed(self, catalog: Catalog) -> None:
        assert list(await catalog.tenants()) == []
        for name in ("globex", "acme"):
            await catalog.create_tenant(name)
        with pytest.raises(TenantExists):
            await catalog.create_tenant("acme")
        assert list(await catalog.tenants()) == ["acme", "globex"]

    @law("CAT-42", "Of racing creations of one tenant exactly one succeeds")
    async def test_racing_creations(self, catalog: Catalog) -> None:
        outcomes = await asyncio.gather(*(catalog.create_tenant("acme") for _ in range(8)), return_exceptions=True)
        assert [outcome for outcome in outcomes if outcome is None] == [None]
        assert len([outcome for outcome in outcomes if isinstance(outcome, TenantExists)]) == 7
        assert len(await catalog.snapshots("acme")) == 1

    @law("CAT-43", "A tenant that does not exist is not found")
    async def test_unknown_tenants_are_not_found(self, catalog: Catalog) -> None:
        for call in (catalog.head("nobody"), catalog.record_epoch("nobody", 1)):
            with pytest.raises(TenantNotFound):
                await call
        with pytest.raises(TenantNotFound):
            await catalog.add_api_key(api_key("k1", "nobody"))

    @law("CAT-44", "An API key comes back as it was stored")
    async def test_api_keys_survive(self, catalog: Catalog) -> None:
        await self.tenant(catalog)
        keys = [
            api_key("k1"),
            api_key("k2", roles=frozenset({Role.QUERY_READER})),
            api_key("k3", roles=frozenset()),
        ]
        for key in keys:
            await catalog.add_api_key(key)
        assert [await catalog.api_key(key.key_id) for key in keys] == keys
        assert await catalog.api_key("unknown") is None

    @law("CAT-45", "A tenant's API keys are listed oldest first, and no other tenant's")
    async def test_api_keys_are_listed(self, catalog: Catalog) -> None:
        await self.tenant(catalog)
        await self.tenant(catalog, "globex")
        for key in (api_key("k1", minutes=2), api_key("k2", "globex"), api_key("k3", minutes=1)):
            await catalog.add_api_key(key)
        assert [key.key_id for key in await catalog.api_keys("acme")] == ["k3", "k1"]
        assert [key.key_id for key in await catalog.api_keys("globex")] == ["k2"]

    @law("CAT-46", "A revoked key stays known with the time of its first revocation")
    async def test_revocation_keeps_the_first_time(self, catalog: Catalog) -> None:
        await self.tenant(catalog)
        await catalog.add_api_key(api_key("k1"))
        for minutes in (5, 9):
            await catalog.revoke_api_key("acme", "k1", NOON + timedelta(minutes=minutes))
        key = await catalog.api_key("k1")
        assert key is not None
        assert key.revoked_at == NOON + timedelta(minutes=5)
        assert list(await catalog.api_keys("acme")) == [key]

    @law("CAT-47", "A key that does not exist, or is another tenant's, cannot be revoked")
    async def test_unknown_keys_cannot_be_revoked(self, catalog: Catalog) -> None:
        await self.tenant(catalog)
        await self.tenant(catalog, "globex")
        await catalog.add_api_key(api_key("k1"))
        for tenant, key_id in (("globex", "k1"), ("acme", "unknown")):
            with pytest.raises(NotFound):
                await catalog.revoke_api_key(tenant, key_id, NOON)
        key = await catalog.api_key("k1")
        assert key is not None
        assert key.revoked_at is None


class LedgerLaws(CatalogHooks):
    """Keys are reserved, confirmed, given up or settled."""

    @law("CAT-51", "Free keys are reserved, and the entries of the others come back")
    async def test_reserve(self, catalog: Catalog) -> None:
        await self.tenant(catalog)
        assert dict(await catalog.reserve("acme", KeyClaim([K1, K2], [C1, C2]))) == {}
        found = dict(await catalog.reserve("acme", KeyClaim([K2, K3], [C1, C1])))
        assert found == {K2: LedgerEntry(C2, 0)}
        assert dict(await catalog.reserve("acme", KeyClaim([K3], [C2]))) == {K3: LedgerEntry(C1, 0)}

    @law("CAT-52", "Of those that race for a key exactly one reserves it")
    async def test_racing_reservations(self, catalog: Catalog) -> None:
        await self.tenant(catalog)
        claims = [KeyClaim([K1], [bytes([number]) * 16]) for number in range(8)]
        found = await asyncio.gather(*(catalog.reserve("acme", claim) for claim in claims))
        [winner] = [number for number, entries in enumerate(found) if not entries]
        expected = {K1: LedgerEntry(claims[winner].content_ids[0], 0)}
        assert [dict(entries) for entries in found if entries] == [expected] * 7

    @law("CAT-53", "A confirmed key keeps the token that it was given first")
    async def test_confirm(self, catalog: Catalog) -> None:
        await self.tenant(catalog)
        await catalog.reserve("acme", KeyClaim([K1], [C1]))
        await catalog.confirm("acme", {K1: LedgerEntry(C1, 5)})
        await catalog.confirm("acme", {K1: LedgerEntry(C1, 9)})
        assert dict(await catalog.reserve("acme", KeyClaim([K1], [C1]))) == {K1: LedgerEntry(C1, 5)}

    @law("CAT-54", "A reservation that was given up is free for other content, a confirmed key is not")
    async def test_release(self, catalog: Catalog) -> None:
        await self.tenant(catalog)
        await catalog.reserve("acme", KeyClaim([K1, K2], [C1, C1]))
        await catalog.confirm("acme", {K2: LedgerEntry(C1, 5)})
        await catalog.release("acme", [K1, K2, K3])
        assert dict(await catalog.reserve("acme", KeyClaim([K1, K2], [C2, C2]))) == {K2: LedgerEntry(C1, 5)}

    @law("CAT-55", "A delivered part keeps the rows whose keys no other token holds, also when delivered again")
    async def test_settle(self, catalog: Catalog) -> None:
        await self.tenant(catalog)
        await catalog.reserve("acme", KeyClaim([K1, K2], [C1, C1]))
        await catalog.confirm("acme", {K1: LedgerEntry(C1, 5)})
        both = KeyClaim([K1, K2, K3], [C1, C1, C1])
        for _ in range(2):
            assert list(await catalog.settle("acme", 5, both)) == []
            assert list(await catalog.settle("acme", 9, KeyClaim([K3, K1], [C1, C1]))) == [0, 1]
            assert list(await catalog.settle("acme", 9, KeyClaim([K2], [C1]))) == [0]
        assert dict(await catalog.reserve("acme", both)) == {key: LedgerEntry(C1, 5) for key in (K1, K2, K3)}

    @law("CAT-56", "Of two copies in the log the one with the lower token is kept, whichever was confirmed")
    async def test_the_lowest_token_wins(self, catalog: Catalog) -> None:
        await self.tenant(catalog)
        claim = KeyClaim([K1], [C1], whole=True)
        await catalog.reserve("acme", claim)
        await catalog.confirm("acme", {K1: LedgerEntry(C1, 9)})
        for _ in range(2):
            assert list(await catalog.settle("acme", 5, claim)) == []
            assert list(await catalog.settle("acme", 9, claim)) == [0]
        assert dict(await catalog.reserve("acme", claim)) == {K1: LedgerEntry(C1, 5)}

    @law("CAT-57", "Keys of one tenant are not those of another")
    async def test_ledgers_are_isolated(self, catalog: Catalog) -> None:
        await self.tenant(catalog)
        await self.tenant(catalog, "globex")
        await catalog.reserve("acme", KeyClaim([K1], [C1]))
        await catalog.confirm("acme", {K1: LedgerEntry(C1, 5)})
        assert dict(await catalog.reserve("globex", KeyClaim([K1], [C2]))) == {}
        assert list(await catalog.settle("globex", 9, KeyClaim([K1], [C2]))) == []


class EventLaws(CatalogHooks):
    """Who watches is told of publications and demands."""

    @law("CAT-61", "A watcher sees publications and demands of all tenants")
    async def test_watchers_see_events(self, catalog: Catalog) -> None:
        acme, globex = await self.tenant(catalog), await self.tenant(catalog, "globex")
        async with asyncio.timeout(BOUND_S), catalog.watch() as events:
            published = await acme.publish(3)
            assert await seen(events, SnapshotPublished("acme", published.snapshot_id, 3))
            await catalog.demand("globex", 7)
            assert await seen(events, VisibilityDemanded("globex", 7))
            published = await globex.publish(9)
            assert await seen(events, SnapshotPublished("globex", published.snapshot_id, 9))

    @law("CAT-62", "Every watcher sees every event, and one that left disturbs nobody")
    async def test_watchers_are_independent(self, catalog: Catalog) -> None:
        await self.tenant(catalog)
        async with asyncio.timeout(BOUND_S), catalog.watch() as first:
            async with catalog.watch() as second:
                await catalog.demand("acme", 1)
                assert await seen(first, VisibilityDemanded("acme", 1))
                assert await seen(second, VisibilityDemanded("acme", 1))
            await catalog.demand("acme", 2)
            assert await seen(first, VisibilityDemanded("acme", 2))

    @law("CAT-63", "A publication that was refused is told to nobody")
    async def test_refused_publications_are_silent(self, catalog: Catalog) -> None:
        acme = await self.tenant(catalog)
        await acme.publish(5)
        async with asyncio.timeout(BOUND_S), catalog.watch() as events:
            async with acme.refused(PublicationConflict):
                await acme.publish(4)
            await catalog.demand("acme", 1)
            # The publication before the watch began may still be on its way.
            told = [event async for event in until(events, VisibilityDemanded("acme", 1))]
            assert SnapshotPublished("acme", 3, 4) not in told
            assert all(event.watermark == 5 for event in told if isinstance(event, SnapshotPublished))


async def seen(events: AsyncIterator[CatalogEvent], expected: CatalogEvent) -> bool:
    """Whether the event comes, whatever comes before it."""
    async for event in events:
        if event == expected:
            return True
    return False


async def until(events: AsyncIterator[CatalogEvent], last: CatalogEvent) -> AsyncIterator[CatalogEvent]:
    """The events that come before ``last``."""
    async for event in events:
        if event == last:
            return
        yield event
