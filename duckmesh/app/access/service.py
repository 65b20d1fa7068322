"""Recognises callers by their API keys, and makes and revokes keys.

A recognised key is remembered for a few seconds, so that a revocation takes effect within that time without a
look-up for every request.
"""

import contextlib
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Final

from duckmesh.domain.access import (
    ApiKey,
    Principal,
    Role,
    hash_secret,
    new_secret_key,
    parse_key,
    recognise,
)
from duckmesh.domain.errors import TenantExists, Unauthenticated
from duckmesh.domain.names import check_tenant_name
from duckmesh.ports.catalog import TenantRegistry

_REMEMBERED_S: Final = 2.0
_MAX_REMEMBERED: Final = 10_000


class AccessService:
    """Principals, keys and tenants."""

    def __init__(self, registry: TenantRegistry) -> None:
        self._registry = registry
        self._remembered: dict[str, tuple[float, Principal]] = {}
        self._tenants: set[str] = set()

    async def principal(self, key: str) -> Principal:
        """Whose key this is; raises `Unauthenticated` without saying why."""
        now = time.monotonic()
        until, principal = self._remembered.get(key, (0.0, None))
        if principal is not None and now < until:
            return principal
        presented = parse_key(key)
        stored = await self._registry.api_key(presented.key_id) if presented is not None else None
        found = recognise(presented, stored) if presented is not None else None
        if found is None:
            self._remembered.pop(key, None)
            raise Unauthenticated("the API key is not valid; create one with `duckmesh keys create`")
        if len(self._remembered) >= _MAX_REMEMBERED:
            self._remembered.clear()
        self._remembered[key] = (now + _REMEMBERED_S, found)
        return found

    async def create_key(self, tenant: str, roles: frozenset[Role], name: str = "") -> tuple[str, ApiKey]:
        """A new key, whose text is shown this once; raises `TenantNotFound`."""
        text, parts = new_secret_key()
        key = ApiKey(parts.key_id, tenant, roles, hash_secret(parts.secret), datetime.now(UTC), name)
        await self._registry.add_api_key(key)
        return text, key

    async def keys(self, tenant: str) -> Sequence[ApiKey]:
        """All keys of a tenant."""
        return await self._registry.api_keys(tenant)

    async def revoke(self, tenant: str, key_id: str) -> None:
        """Revoke a key; raises `NotFound`."""
        await self._registry.revoke_api_key(tenant, key_id, datetime.now(UTC))

    async def create_tenant(self, tenant: str) -> None:
        """Make a tenant; raises `TenantExists` or `InvalidName`."""
        await self._registry.create_tenant(check_tenant_name(tenant))

    async def tenants(self) -> Sequence[str]:
        """All tenants."""
        return await self._registry.tenants()

    async def ensure_tenant(self, tenant: str) -> None:
        """Make the tenant when it is seen for the first time."""
        if tenant in self._tenants:
            return
        check_tenant_name(tenant)
        if tenant not in await self._registry.tenants():
            with contextlib.suppress(TenantExists):  # somebody else was faster
                await self._registry.create_tenant(tenant)
        self._tenants.add(tenant)
