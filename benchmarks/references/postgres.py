"""Bare Postgres: the floor below batches of records with keys, and the plain implementation above it.

Both do the same work for a request of 1,000 records: a key each, remembered for ever, and the payload durable.
The floor does it in three statements of one transaction, the plain one with a statement per record.
"""

import asyncio
import hashlib
import time
from collections.abc import Awaitable, Callable

import asyncpg
import msgspec
import uvloop

from benchmarks.bodies import arrow_body, key_prefixes, payloads
from benchmarks.load import latency_figures

_SCHEMA = """
CREATE TABLE head (tenant_id int PRIMARY KEY, token bigint NOT NULL);
INSERT INTO head VALUES (1, 0);
CREATE TABLE ledger (
    tenant_id int NOT NULL, table_id int NOT NULL, key text NOT NULL, content bytea NOT NULL, token bigint NOT NULL,
    PRIMARY KEY (tenant_id, table_id, key)
);
CREATE TABLE log (tenant_id int, token bigint, payload bytea NOT NULL, PRIMARY KEY (tenant_id, token));
ALTER TABLE log ALTER payload SET STORAGE EXTERNAL;
CREATE TABLE events (
    token bigint GENERATED ALWAYS AS IDENTITY, tenant_id int NOT NULL, table_id int NOT NULL, key text NOT NULL,
    payload jsonb NOT NULL, PRIMARY KEY (tenant_id, table_id, key)
);
"""

# Both start with the same number of keys, shaped and scattered like those of the runs.
_FILL_LEDGER = """
INSERT INTO ledger
SELECT 1, 1, substr(md5((n / 1000)::text), 1, 16) || lpad((n % 1000)::text, 4, '0'), decode(md5(n::text), 'hex'), 0
FROM generate_series(1, $1::bigint) n
"""
_FILL_EVENTS = """
INSERT INTO events (tenant_id, table_id, key, payload)
SELECT 1, 1, substr(md5((n / 1000)::text), 1, 16) || lpad((n % 1000)::text, 4, '0'), $2::jsonb
FROM generate_series(1, $1::bigint) n
"""

_TOKEN = "UPDATE head SET token = token + 1 WHERE tenant_id = 1 RETURNING token"
_KEYS = """
INSERT INTO ledger SELECT 1, 1, key, content, $3 FROM unnest($1::text[], $2::bytea[]) AS new(key, content)
ON CONFLICT DO NOTHING
"""
_PAYLOAD = "INSERT INTO log VALUES (1, $1, $2)"
_RECORD = """
INSERT INTO events (tenant_id, table_id, key, payload) VALUES (1, 1, $1, $2)
ON CONFLICT (tenant_id, table_id, key) DO NOTHING RETURNING token
"""

Request = Callable[[asyncpg.Connection, list[str]], Awaitable[None]]


async def _prepare(uri: str, keys: int, *, plain: bool) -> None:
    connection = await asyncpg.connect(uri)
    try:
        await connection.execute("DROP TABLE IF EXISTS head, ledger, log, events")
        await connection.execute(_SCHEMA)
        if plain:
            await connection.execute(_FILL_EVENTS, keys, _json_payloads(1)[0], timeout=600)
        else:
            await connection.execute(_FILL_LEDGER, keys, timeout=600)
        # Otherwise autovacuum would do it in the middle of a run.
        await connection.execute("VACUUM (ANALYZE) ledger, events", timeout=600)
        await _checkpoint(connection)
    finally:
        await connection.close()


async def _checkpoint(connection: asyncpg.Connection) -> None:
    try:
        await connection.execute("CHECKPOINT", timeout=600)
    except asyncpg.InsufficientPrivilegeError:
        return  # a DSN of a plain user: the first run then carries the writes of filling


def prepare(uri: str, keys: int, *, plain: bool = False) -> None:
    """Make the tables and fill the ledger of the floor, or the table of the plain implementation."""
    asyncio.run(_prepare(uri, keys, plain=plain))


def _json_payloads(count: int) -> list[str]:
    return [msgspec.json.encode(payload).decode() for payload in payloads(count, seed=1)]


def _floor(batch: int) -> Request:
    blob = arrow_body(batch, seed=1).fill(b"")
    contents = [hashlib.blake2b(text.encode(), digest_size=16).digest() for text in _json_payloads(batch)]

    async def request(connection: asyncpg.Connection, keys: list[str]) -> None:
        async with connection.transaction():
            token = await connection.fetchval(_TOKEN)
            await connection.execute(_KEYS, keys, contents, token)
            await connection.execute(_PAYLOAD, token, blob)

    return request


def _row_per_record(batch: int) -> Request:
    texts = _json_payloads(batch)

    async def request(connection: asyncpg.Connection, keys: list[str]) -> None:
        async with connection.transaction():
            insert = await connection.prepare(_RECORD)
            for key, text in zip(keys, texts, strict=True):
                await insert.fetchval(key, text)

    return request


async def _drive(uri: str, request: Request, connections: int, seconds: float, batch: int) -> dict[str, float]:
    suffixes = [f"{index:04d}" for index in range(batch)]
    prefixes = key_prefixes()
    latencies: list[float] = []
    in_time = 0

    async def client(connection: asyncpg.Connection, ends: float) -> None:
        nonlocal in_time
        while (started := time.monotonic()) < ends:
            prefix = next(prefixes).decode()
            await request(connection, [prefix + suffix for suffix in suffixes])
            now = time.monotonic()
            latencies.append(now - started)
            in_time += now <= ends

    pool = [await asyncpg.connect(uri) for _ in range(connections)]
    await asyncio.gather(*(client(connection, time.monotonic() + 0.2) for connection in pool))
    latencies.clear()
    in_time = 0
    await asyncio.gather(*(client(connection, time.monotonic() + seconds) for connection in pool))
    for connection in pool:
        await connection.close()
    return {"rate": in_time * batch / seconds, **latency_figures(sorted(latencies))}


def floor(uri: str, seconds: float, batch: int = 1000, connections: int = 8) -> dict[str, float]:
    """Token, keys by ``unnest`` and one payload per request: what no Postgres ledger can beat."""
    return uvloop.run(_drive(uri, _floor(batch), connections, seconds, batch))


def row_per_record(uri: str, seconds: float, batch: int = 1000, connections: int = 8) -> dict[str, float]:
    """One ``INSERT … ON CONFLICT … RETURNING`` per record, one transaction per request."""
    return uvloop.run(_drive(uri, _row_per_record(batch), connections, seconds, batch))
