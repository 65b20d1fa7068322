"""The visibility barrier: waits until a tenant's watermark covers a token.

It hears of snapshots by notification, polls slowly since notifications can be lost, and asks the coordinator to
flush at once, so that nobody waits for a timer.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from duckmesh.domain.errors import ConsistencyTimeout, DuckMeshError
from duckmesh.domain.snapshots import CatalogHead
from duckmesh.ports.catalog import Catalog, CatalogEvent, SnapshotPublished

Waiter = tuple[int, "asyncio.Future[None]"]


class VisibilityBarrier:
    """Waits for watermarks. ``poll_s`` is how often a waiter looks by itself."""

    def __init__(self, catalog: Catalog, *, poll_s: float = 0.25) -> None:
        self._catalog = catalog
        self._poll_s = poll_s
        self._waiters: dict[str, list[Waiter]] = {}

    @asynccontextmanager
    async def open(self) -> AsyncIterator["VisibilityBarrier"]:
        """Listen for snapshots while the context lasts."""
        async with self._catalog.watch() as events:
            task = asyncio.create_task(self._listen(events), name="visibility-barrier")
            try:
                yield self
            finally:
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task

    async def wait(self, tenant: str, token: int, timeout_s: float) -> CatalogHead:
        """The catalog's head once its watermark covers ``token``; raises `ConsistencyTimeout`."""
        deadline = time.monotonic() + timeout_s
        while True:
            # Registered before looking, so that no snapshot falls between the two.
            woken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            waiter = (token, woken)
            self._waiters.setdefault(tenant, []).append(waiter)
            try:
                head = await self._catalog.head(tenant)
                if head.watermark >= token:
                    return head
                remaining = deadline - time.monotonic()
                if remaining <= 0:
                    raise _timed_out(head, token, timeout_s)
                await self._catalog.demand(tenant, token)
                await asyncio.wait((woken,), timeout=min(remaining, self._poll_s))
            finally:
                self._forget(tenant, waiter)

    def _forget(self, tenant: str, waiter: Waiter) -> None:
        waiters = self._waiters.get(tenant, [])
        with contextlib.suppress(ValueError):
            waiters.remove(waiter)
        if not waiters:
            self._waiters.pop(tenant, None)

    async def _listen(self, events: AsyncIterator[CatalogEvent]) -> None:
        async for event in events:
            if isinstance(event, SnapshotPublished):
                for token, woken in self._waiters.get(event.tenant, ()):
                    if token <= event.watermark and not woken.done():
                        woken.set_result(None)


def _timed_out(head: CatalogHead, token: int, timeout_s: float) -> DuckMeshError:
    return ConsistencyTimeout(
        f"token {token} is not visible after {timeout_s * 1000:.0f} ms: the watermark is {head.watermark}. "
        "The write is durable; ask again, or allow more time",
        requested_token=token,
        watermark=head.watermark,
        snapshot_id=head.snapshot_id,
        pending_writes=token - head.watermark,
        timeout_ms=round(timeout_s * 1000),
    )
