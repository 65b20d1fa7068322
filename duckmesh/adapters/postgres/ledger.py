"""Idempotency keys in the catalog, for a bus that cannot keep them in its own transaction."""

from collections.abc import Mapping, Sequence
from typing import Final

from duckmesh.adapters.postgres.driver import Pool, acquired
from duckmesh.domain.idempotency import LedgerEntry
from duckmesh.domain.writes import KeyClaim

# Token 0 is a reservation that nobody confirmed yet.
_RESERVE: Final = """
INSERT INTO key_ledger (tenant_id, key_id, content_id)
SELECT DISTINCT ON (key_id) $1, key_id, content_id FROM unnest($2::bytea[], $3::bytea[]) AS c (key_id, content_id)
    ON CONFLICT DO NOTHING
RETURNING key_id
"""
# A statement of its own: the one that lost a race does not see the row that it lost to.
_HELD: Final = """
SELECT key_id, content_id, token FROM key_ledger WHERE tenant_id = $1 AND key_id = ANY($2::bytea[])
"""
_CONFIRM: Final = """
UPDATE key_ledger AS ledger SET token = c.token
  FROM unnest($2::bytea[], $3::bigint[]) AS c (key_id, token)
 WHERE tenant_id = $1 AND ledger.key_id = c.key_id AND ledger.token = 0
"""
_RELEASE: Final = "DELETE FROM key_ledger WHERE tenant_id = $1 AND key_id = ANY($2::bytea[]) AND token = 0"
# The lowest token wins, also over one that its publisher confirmed.
_SETTLE: Final = """
INSERT INTO key_ledger AS ledger (tenant_id, key_id, content_id, token)
SELECT DISTINCT ON (key_id) $1, key_id, content_id, $4::bigint
  FROM unnest($2::bytea[], $3::bytea[]) AS c (key_id, content_id)
    ON CONFLICT (tenant_id, key_id) DO UPDATE
   SET token = $4, content_id = excluded.content_id WHERE ledger.token = 0 OR ledger.token > $4
"""
_TOKENS: Final = "SELECT key_id, token FROM key_ledger WHERE tenant_id = $1 AND key_id = ANY($2::bytea[])"


class PostgresLedger:
    """`KeyLedger` on PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def reserve(self, tenant: str, claim: KeyClaim) -> Mapping[bytes, LedgerEntry]:
        """See `KeyLedger.reserve`."""
        async with acquired(self._pool) as connection:
            made = await connection.fetch(_RESERVE, tenant, list(claim.key_ids), list(claim.content_ids))
            ours = {row["key_id"] for row in made}
            others = [key for key in claim.key_ids if key not in ours]
            rows = await connection.fetch(_HELD, tenant, others) if others else []
        return {row["key_id"]: LedgerEntry(row["content_id"], row["token"]) for row in rows}

    async def confirm(self, tenant: str, entries: Mapping[bytes, LedgerEntry]) -> None:
        """See `KeyLedger.confirm`."""
        tokens = [entry.token for entry in entries.values()]
        async with acquired(self._pool) as connection:
            await connection.execute(_CONFIRM, tenant, list(entries), tokens)

    async def release(self, tenant: str, key_ids: Sequence[bytes]) -> None:
        """See `KeyLedger.release`."""
        async with acquired(self._pool) as connection:
            await connection.execute(_RELEASE, tenant, list(key_ids))

    async def settle(self, tenant: str, token: int, claim: KeyClaim) -> Sequence[int]:
        """See `KeyLedger.settle`."""
        keys = list(claim.key_ids)
        async with acquired(self._pool) as connection, connection.transaction():
            await connection.execute(_SETTLE, tenant, keys, list(claim.content_ids), token)
            rows = await connection.fetch(_TOKENS, tenant, keys)
        return _repeated(keys, {row["key_id"]: row["token"] for row in rows}, token)


def _repeated(keys: Sequence[bytes], owners: Mapping[bytes, int], token: int) -> list[int]:
    """Rows whose key belongs to another token, or stood before in the same part."""
    first = {key: row for row, key in reversed(list(enumerate(keys)))}
    return [row for row, key in enumerate(keys) if owners[key] != token or first[key] != row]
