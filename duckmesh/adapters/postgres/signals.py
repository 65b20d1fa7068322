"""Notifications between processes: one direct connection that listens and sends.

A notification inside a transaction takes a lock that all commits of the server share, so senders do not notify
in theirs: they leave a message here, and one sender at a time sends all that have gathered. Notifications can be
lost, so whoever waits polls slowly as well.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

import asyncpg

from duckmesh.adapters.postgres.driver import Connection
from duckmesh.ports.catalog import CatalogEvent, SnapshotPublished, VisibilityDemanded
from duckmesh.ports.waiting import waited

_CHANNEL: Final = "duckmesh"
_RECONNECT_S: Final = 0.2
_CONNECT_TIMEOUT_S: Final = 5.0
_SEND_TIMEOUT_S: Final = 5.0
_QUEUE_LENGTH: Final = 10_000
_SEND: Final = "SELECT pg_notify($1, message) FROM unnest($2::text[]) AS message"


class PostgresSignals:
    """Sends and receives events; `open` it around everything that uses it."""

    def __init__(self, dsn: str) -> None:
        self._dsn = dsn
        self._outbox: dict[str, None] = {}
        self._wake = asyncio.Event()
        self._work = asyncio.Event()
        self._subscribers: set[Callable[[CatalogEvent], None]] = set()
        self._connected = asyncio.Event()

    @asynccontextmanager
    async def open(self) -> AsyncIterator["PostgresSignals"]:
        """Keep the connection while the context lasts; it reconnects by itself."""
        task = asyncio.create_task(self._run(), name="postgres-signals")
        try:
            await waited(self._connected, _CONNECT_TIMEOUT_S)  # without it everything works, by polling
            yield self
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    def work(self, tenant: str) -> None:
        """Tell coordinators that a tenant's log has grown."""
        self._send(f"w {tenant}")

    def published(self, tenant: str, snapshot_id: int, watermark: int) -> None:
        """Tell everybody of a new snapshot."""
        self._send(f"s {tenant} {snapshot_id} {watermark}")

    def demanded(self, tenant: str, token: int) -> None:
        """Tell coordinators that somebody waits for a token."""
        self._send(f"d {tenant} {token}")

    async def wait_for_work(self, timeout_s: float) -> None:
        """Return at the next sign of work, at once when there was one since the last call."""
        await waited(self._work, timeout_s)
        self._work.clear()

    @asynccontextmanager
    async def watch(self) -> AsyncIterator[AsyncIterator[CatalogEvent]]:
        """Catalog events from now on; a subscriber that does not read loses the newest."""
        queue: asyncio.Queue[CatalogEvent] = asyncio.Queue(_QUEUE_LENGTH)

        def receive(event: CatalogEvent) -> None:
            with contextlib.suppress(asyncio.QueueFull):
                queue.put_nowait(event)

        self._subscribers.add(receive)
        try:
            yield _drain(queue)
        finally:
            self._subscribers.discard(receive)

    def _send(self, message: str) -> None:
        self._outbox[message] = None
        self._wake.set()

    async def _run(self) -> None:
        while True:
            with contextlib.suppress(OSError, asyncpg.PostgresError, asyncpg.InterfaceError, TimeoutError):
                await self._session()
            self._work.set()  # whatever was sent while we were away
            await asyncio.sleep(_RECONNECT_S)

    async def _session(self) -> None:
        connection = await asyncpg.connect(self._dsn, timeout=_CONNECT_TIMEOUT_S)
        try:
            # A notification is a hint: its transaction need not wait for the disk.
            await connection.execute("SET synchronous_commit = off")
            await connection.add_listener(_CHANNEL, self._receive)
            closed = asyncio.Event()
            connection.add_termination_listener(lambda _: self._closed(closed))
            self._connected.set()
            while not closed.is_set():
                await self._wake.wait()
                self._wake.clear()
                await self._flush(connection)
        finally:
            connection.terminate()

    def _closed(self, closed: asyncio.Event) -> None:
        closed.set()
        self._wake.set()

    async def _flush(self, connection: Connection) -> None:
        if self._outbox:
            messages, self._outbox = list(self._outbox), {}
            await connection.execute(_SEND, _CHANNEL, messages, timeout=_SEND_TIMEOUT_S)

    def _receive(self, _connection: object, _pid: int, _channel: str, message: str) -> None:
        kind, *words = message.split(" ")
        match kind, words:
            case "w", [_]:
                self._work.set()
            case "s", [tenant, snapshot_id, watermark]:
                self._deliver(SnapshotPublished(tenant, int(snapshot_id), int(watermark)))
            case "d", [tenant, token]:
                self._work.set()
                self._deliver(VisibilityDemanded(tenant, int(token)))

    def _deliver(self, event: CatalogEvent) -> None:
        for receive in tuple(self._subscribers):
            receive(event)


async def _drain(queue: asyncio.Queue[CatalogEvent]) -> AsyncIterator[CatalogEvent]:
    while True:
        yield await queue.get()
