"""Tenants and their API keys on PostgreSQL."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Final

import asyncpg

from duckmesh.adapters.postgres.driver import Pool, acquired
from duckmesh.domain.access import ApiKey, parse_roles
from duckmesh.domain.errors import NotFound, TenantExists, TenantNotFound

_CREATE: Final = "INSERT INTO tenant (tenant_id) VALUES ($1)"
_FIRST_SNAPSHOT: Final = """
WITH made AS (
    INSERT INTO snapshot (snapshot_id, tenant_id, watermark, published_at, author)
    VALUES (nextval('snapshot_id'), $1, 0, clock_timestamp(), 'duckmesh') RETURNING snapshot_id
)
INSERT INTO catalog_head (tenant_id, watermark, snapshot_id) SELECT $1, 0, snapshot_id FROM made
"""
_TENANTS: Final = "SELECT tenant_id FROM tenant ORDER BY tenant_id"
_ADD_KEY: Final = """
INSERT INTO api_key (key_id, tenant_id, roles, secret_hash, created_at, name) VALUES ($1, $2, $3, $4, $5, $6)
"""
_KEY: Final = "SELECT key_id, tenant_id, roles, secret_hash, created_at, name, revoked_at FROM api_key "
_REVOKE: Final = """
UPDATE api_key SET revoked_at = coalesce(revoked_at, $3) WHERE tenant_id = $1 AND key_id = $2
"""


class PostgresRegistry:
    """`TenantRegistry` on PostgreSQL."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def create_tenant(self, tenant: str) -> None:
        """See `TenantRegistry.create_tenant`."""
        async with acquired(self._pool) as connection:
            try:
                async with connection.transaction():
                    await connection.execute(_CREATE, tenant)
                    await connection.execute(_FIRST_SNAPSHOT, tenant)
            except asyncpg.UniqueViolationError as error:
                raise TenantExists(f"tenant {tenant!r} exists already", tenant=tenant) from error

    async def tenants(self) -> Sequence[str]:
        """See `TenantRegistry.tenants`."""
        async with acquired(self._pool) as connection:
            return [row["tenant_id"] for row in await connection.fetch(_TENANTS)]

    async def add_api_key(self, key: ApiKey) -> None:
        """See `TenantRegistry.add_api_key`."""
        roles = sorted(role.value for role in key.roles)
        async with acquired(self._pool) as connection:
            try:
                await connection.execute(
                    _ADD_KEY, key.key_id, key.tenant, roles, key.secret_hash, key.created_at, key.name
                )
            except asyncpg.ForeignKeyViolationError as error:
                raise TenantNotFound(f"tenant {key.tenant!r} does not exist", tenant=key.tenant) from error

    async def api_key(self, key_id: str) -> ApiKey | None:
        """See `TenantRegistry.api_key`."""
        async with acquired(self._pool) as connection:
            row = await connection.fetchrow(_KEY + "WHERE key_id = $1", key_id)
        return _api_key(row) if row is not None else None

    async def api_keys(self, tenant: str) -> Sequence[ApiKey]:
        """See `TenantRegistry.api_keys`."""
        async with acquired(self._pool) as connection:
            rows = await connection.fetch(_KEY + "WHERE tenant_id = $1 ORDER BY created_at, key_id", tenant)
        return [_api_key(row) for row in rows]

    async def revoke_api_key(self, tenant: str, key_id: str, at: datetime) -> None:
        """See `TenantRegistry.revoke_api_key`."""
        async with acquired(self._pool) as connection:
            done = await connection.execute(_REVOKE, tenant, key_id, at)
        if done != "UPDATE 1":
            raise NotFound(f"tenant {tenant!r} has no key {key_id!r}", key_id=key_id)


def _api_key(row: Any) -> ApiKey:
    return ApiKey(
        row["key_id"],
        row["tenant_id"],
        parse_roles(row["roles"]),
        row["secret_hash"],
        row["created_at"],
        row["name"],
        row["revoked_at"],
    )
