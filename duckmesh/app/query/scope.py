"""The visibility scope of each tenant: asked once in a while, since only a restore changes it."""

import time
from typing import Final

from duckmesh.ports.bus import IngestBus

_FRESH_S: Final = 10.0


class Scopes:
    """A cache of `LogHead.scope` by tenant."""

    def __init__(self, bus: IngestBus) -> None:
        self._bus = bus
        self._known: dict[str, tuple[float, str]] = {}

    async def scope(self, tenant: str) -> str:
        """The scope that receipts and answers of the tenant carry."""
        asked_at, scope = self._known.get(tenant, (-_FRESH_S, ""))
        now = time.monotonic()
        if now - asked_at >= _FRESH_S:
            scope = (await self._bus.head(tenant)).scope
            self._known[tenant] = (now, scope)
        return scope
