"""Idempotency keys of tenants, for a bus that cannot decide about them by itself."""

from collections.abc import Mapping, Sequence

from duckmesh.domain.idempotency import LedgerEntry
from duckmesh.domain.writes import KeyClaim

#: The token of a key that is reserved and not confirmed yet.
UNCONFIRMED = 0


class MemoryKeyLedger:
    """`KeyLedger` in one process."""

    def __init__(self) -> None:
        self._entries: dict[tuple[str, bytes], LedgerEntry] = {}

    async def reserve(self, tenant: str, claim: KeyClaim) -> Mapping[bytes, LedgerEntry]:
        """See `KeyLedger.reserve`. A key that stands twice in the claim is reserved with its first content."""
        taken: dict[bytes, LedgerEntry] = {}
        free: dict[tuple[str, bytes], LedgerEntry] = {}
        for key_id, content_id in zip(claim.key_ids, claim.content_ids, strict=True):
            entry = self._entries.get((tenant, key_id))
            if entry is None:
                free.setdefault((tenant, key_id), LedgerEntry(content_id, UNCONFIRMED))
            else:
                taken[key_id] = entry
        self._entries.update(free)
        return taken

    async def confirm(self, tenant: str, entries: Mapping[bytes, LedgerEntry]) -> None:
        """See `KeyLedger.confirm`. A key that somebody released meanwhile is entered again: its write is stored."""
        for key_id, entry in entries.items():
            current = self._entries.get((tenant, key_id))
            if current is None or current.token == UNCONFIRMED:
                self._entries[tenant, key_id] = entry

    async def release(self, tenant: str, key_ids: Sequence[bytes]) -> None:
        """See `KeyLedger.release`."""
        for key_id in key_ids:
            entry = self._entries.get((tenant, key_id))
            if entry is not None and entry.token == UNCONFIRMED:
                del self._entries[tenant, key_id]

    async def settle(self, tenant: str, token: int, claim: KeyClaim) -> Sequence[int]:
        """See `KeyLedger.settle`. The lowest token keeps a key, whoever was confirmed first."""
        repeated = []
        for row, (key_id, content_id) in enumerate(zip(claim.key_ids, claim.content_ids, strict=True)):
            entry = self._entries.get((tenant, key_id))
            if entry is None or entry.token == UNCONFIRMED or token < entry.token:
                self._entries[tenant, key_id] = LedgerEntry(content_id, token)
            elif entry.token < token:
                repeated.append(row)
        return repeated
