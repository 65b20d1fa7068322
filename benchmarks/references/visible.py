"""The shortest way from a write to its visibility that still keeps every promise of durability.

publish → notify → claim → Parquet with fsync → snapshot transaction → notify → waiter, written bare with asyncpg
and pyarrow in one process. What the product adds (HTTP, validation, leases, planning) is what the ratio shows.
"""

import asyncio
import os
import tempfile
import time
from pathlib import Path

import asyncpg
import pyarrow as pa
import pyarrow.parquet as pq
import uvloop

from benchmarks.bodies import arrow_body, key_prefixes
from benchmarks.load import latency_figures

_SCHEMA = """
DROP TABLE IF EXISTS floor_head, floor_ledger, floor_log, floor_catalog, floor_snapshot, floor_file;
CREATE TABLE floor_head (tenant_id int PRIMARY KEY, token bigint NOT NULL);
INSERT INTO floor_head VALUES (1, 0);
CREATE TABLE floor_ledger (tenant_id int, key text, token bigint, PRIMARY KEY (tenant_id, key));
CREATE TABLE floor_log (tenant_id int, token bigint, payload bytea NOT NULL, PRIMARY KEY (tenant_id, token));
CREATE TABLE floor_catalog (tenant_id int PRIMARY KEY, snapshot_id bigint NOT NULL, watermark bigint NOT NULL);
INSERT INTO floor_catalog VALUES (1, 0, 0);
CREATE TABLE floor_snapshot (snapshot_id bigint PRIMARY KEY, tenant_id int, watermark bigint, at timestamptz);
CREATE TABLE floor_file (snapshot_id bigint, tenant_id int, path text, row_count bigint, byte_count bigint);
"""

_PUBLISH = """
WITH head AS (UPDATE floor_head SET token = token + 1 WHERE tenant_id = 1 RETURNING token),
     key AS (INSERT INTO floor_ledger SELECT 1, $1, token FROM head ON CONFLICT DO NOTHING),
     log AS (INSERT INTO floor_log SELECT 1, token, $2 FROM head)
SELECT token, pg_notify('floor_written', token::text) FROM head
"""
_CLAIM = "SELECT token, payload FROM floor_log WHERE tenant_id = 1 AND token > $1 ORDER BY token LIMIT 1000"
_LOCK_CATALOG = "SELECT snapshot_id, watermark FROM floor_catalog WHERE tenant_id = 1 FOR UPDATE"
_SNAPSHOT = """
WITH snapshot AS (INSERT INTO floor_snapshot VALUES ($1, 1, $2, clock_timestamp())),
     file AS (INSERT INTO floor_file VALUES ($1, 1, $3, $4, $5)),
     head AS (UPDATE floor_catalog SET snapshot_id = $1, watermark = $2 WHERE tenant_id = 1)
SELECT pg_notify('floor_published', $2::text)
"""


def write_file(folder: Path, table: pa.Table) -> Path:
    """Write a Parquet file that survives a power cut: fsync of the file, then of its folder."""
    path = folder / f"{time.monotonic_ns()}.parquet"
    with path.open("wb") as file:
        pq.write_table(table, file, compression="zstd")
        file.flush()
        os.fsync(file.fileno())
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return path


class Coordinator:
    """Publishes whatever is in the log, as soon as it hears of it."""

    def __init__(self, connection: asyncpg.Connection, folder: Path) -> None:
        self.connection = connection
        self.folder = folder
        self.watermark = 0

    async def publish(self) -> None:
        """Claim, write and commit one batch."""
        claimed = await self.connection.fetch(_CLAIM, self.watermark)
        if not claimed:
            return
        table = pa.concat_tables(pa.ipc.open_stream(row["payload"]).read_all() for row in claimed)
        path = write_file(self.folder, table)
        async with self.connection.transaction():
            head = await self.connection.fetchrow(_LOCK_CATALOG)
            assert head["watermark"] == self.watermark, "somebody else published"
            token = claimed[-1]["token"]
            size = path.stat().st_size
            await self.connection.execute(_SNAPSHOT, head["snapshot_id"] + 1, token, str(path), table.num_rows, size)
        self.watermark = token


class Waiter:
    """Waits for a watermark by what the notifications say, as a waiter in another process would."""

    def __init__(self) -> None:
        self.watermark = 0
        self.changed = asyncio.Event()

    def notified(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        """Take a notification."""
        self.watermark = max(self.watermark, int(str(payload)))
        self.changed.set()

    async def wait(self, token: int) -> None:
        """Return when the token is visible."""
        while self.watermark < token:
            self.changed.clear()
            await self.changed.wait()


async def _measure(uri: str, folder: Path, seconds: float) -> dict[str, float]:
    writer, worker, listener = [await asyncpg.connect(uri) for _ in range(3)]
    await writer.execute(_SCHEMA)
    written, waiter = asyncio.Event(), Waiter()
    await listener.add_listener("floor_written", lambda *_: written.set())
    await listener.add_listener("floor_published", waiter.notified)
    coordinator = Coordinator(worker, folder)

    async def coordinate() -> None:
        while True:
            await written.wait()
            written.clear()
            await coordinator.publish()

    task = asyncio.create_task(coordinate())
    body = arrow_body(1, seed=1).fill(b"")
    latencies: list[float] = []
    prefixes = key_prefixes()
    warm_until = time.monotonic() + 0.3
    while (started := time.monotonic()) < warm_until + seconds:
        token = await writer.fetchval(_PUBLISH, next(prefixes).decode(), body)
        await waiter.wait(token)
        if started > warm_until:
            latencies.append(time.monotonic() - started)
    task.cancel()
    for connection in (writer, worker, listener):
        await connection.close()
    return {"rate": len(latencies) / seconds, **latency_figures(sorted(latencies))}


def floor_loop(uri: str, work_dir: Path, seconds: float) -> dict[str, float]:
    """Write one record at a time and wait until it is published."""
    with tempfile.TemporaryDirectory(prefix="floor-", dir=work_dir) as folder:
        return uvloop.run(_measure(uri, Path(folder), seconds))
