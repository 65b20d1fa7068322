"""`Catalog`: tenants, tables, snapshots and their files, with one transaction for a publication."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import Protocol, runtime_checkable

from attrs import frozen

from duckmesh.domain.access import ApiKey
from duckmesh.domain.idempotency import LedgerEntry
from duckmesh.domain.snapshots import (
    CatalogHead,
    ControlResult,
    Manifest,
    ParkedWrite,
    Publication,
    Snapshot,
)
from duckmesh.domain.writes import KeyClaim


@frozen
class SnapshotPublished:
    """A tenant has a new snapshot."""

    tenant: str
    snapshot_id: int
    watermark: int


@frozen
class VisibilityDemanded:
    """Somebody waits until ``token`` is visible: a coordinator flushes at once."""

    tenant: str
    token: int


CatalogEvent = SnapshotPublished | VisibilityDemanded


@runtime_checkable
class TenantRegistry(Protocol):
    """Tenants of the deployment and their API keys."""

    async def create_tenant(self, tenant: str) -> None:
        """Make a tenant with an empty first snapshot at watermark 0; raises `TenantExists`."""
        ...

    async def tenants(self) -> Sequence[str]:
        """All tenants, by name."""
        ...

    async def add_api_key(self, key: ApiKey) -> None:
        """Store a key; raises `TenantNotFound`."""
        ...

    async def api_key(self, key_id: str) -> ApiKey | None:
        """The key of that id, revoked ones included."""
        ...

    async def api_keys(self, tenant: str) -> Sequence[ApiKey]:
        """All keys of a tenant, oldest first."""
        ...

    async def revoke_api_key(self, tenant: str, key_id: str, at: datetime) -> None:
        """Revoke a key; raises `NotFound`. Revoking again keeps the first time."""
        ...


@runtime_checkable
class KeyLedger(Protocol):
    """Idempotency keys for a bus that cannot decide about them in its own transaction.

    Such a bus reserves before it appends and confirms after; what it could not confirm is settled when the log
    is materialised, where the lowest token of a key wins.
    """

    async def reserve(self, tenant: str, claim: KeyClaim) -> Mapping[bytes, LedgerEntry]:
        """Reserve the keys that are free; the entries of the others. An entry with token 0 is unconfirmed."""
        ...

    async def confirm(self, tenant: str, entries: Mapping[bytes, LedgerEntry]) -> None:
        """Give reserved keys their token; a token that is there already stays."""
        ...

    async def release(self, tenant: str, key_ids: Sequence[bytes]) -> None:
        """Give up reservations that were never confirmed."""
        ...

    async def settle(self, tenant: str, token: int, claim: KeyClaim) -> Sequence[int]:
        """Decide the claims of a delivered part: the rows whose key another token holds. Idempotent."""
        ...


@runtime_checkable
class Catalog(TenantRegistry, KeyLedger, Protocol):
    """The materialised state: what is visible, since when, in which files."""

    async def head(self, tenant: str) -> CatalogHead:
        """The newest state; raises `TenantNotFound`."""
        ...

    async def record_epoch(self, tenant: str, epoch: int) -> CatalogHead:
        """Record a fencing epoch before planning; raises `StaleEpoch` when a higher one is recorded."""
        ...

    async def publish(self, publication: Publication) -> Snapshot:
        """Publish in one transaction, after `check_publication` under the tenant's head lock.

        Files appear, ended ones disappear, control changes apply, the watermark moves: all of it or nothing.
        Raises `StaleEpoch`, `PublicationConflict`, `Unavailable` or `OutcomeUnknown`.
        """
        ...

    async def manifest(self, tenant: str, snapshot_id: int | None = None) -> Manifest:
        """A snapshot with its tables and files; the newest by default. Raises `SnapshotNotFound`."""
        ...

    async def snapshot_at(self, tenant: str, time: datetime) -> Snapshot:
        """The last snapshot published at or before ``time``, of equals the later; raises `SnapshotNotFound`."""
        ...

    async def snapshots(self, tenant: str, *, before: int | None = None, limit: int = 50) -> Sequence[Snapshot]:
        """Snapshots with an id below ``before``, newest first."""
        ...

    async def control_result(self, tenant: str, token: int) -> ControlResult | None:
        """What became of a control write, once its token is visible."""
        ...

    async def parked(self, tenant: str, through: int) -> Sequence[ParkedWrite]:
        """Unresolved parked writes with a token at or below ``through``, in token order."""
        ...

    async def demand(self, tenant: str, token: int) -> None:
        """Tell coordinators that somebody waits for ``token``. Best effort: waiters also poll."""
        ...

    def watch(self) -> AbstractAsyncContextManager[AsyncIterator[CatalogEvent]]:
        """Events from now on, of all tenants; some may be lost."""
        ...
