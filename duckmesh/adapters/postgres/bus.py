"""The log on PostgreSQL.

The tokens of a group are assigned under the row lock of the tenant's head, by the statement that stores them, so
commit order is token order and an abort leaves no hole (contract, promise 2). The group's rows are stored once as
a columnar blob. A group whose keys are all new takes one statement; only otherwise the ledger is looked up.
"""

from collections.abc import Sequence
from typing import Any, Final

import asyncpg

from duckmesh.adapters.codec import EnvelopeBuilder, decode_envelope
from duckmesh.adapters.postgres.driver import Connection, Pool, acquired, translated
from duckmesh.adapters.postgres.signals import PostgresSignals
from duckmesh.domain.errors import DataCorrupt, LeaseLost, SchemaChanged
from duckmesh.domain.idempotency import GroupDecision, LedgerEntry, all_new, decide_group, distinct
from duckmesh.domain.leases import Lease
from duckmesh.domain.tokens import LogHead, LogRange
from duckmesh.domain.writes import ClaimedBatch, Lag, LogEntry, Outcome, TableRef, WriteGroup
from duckmesh.ports.bus import BusCapabilities, ClaimLimits
from duckmesh.ports.columns import decode_batches, encode_batches
from duckmesh.ports.faults import crash_point

#: SQLSTATE with which the fast statement gives up, see `migrations/`.
KEYS_KNOWN: Final = "DM001"
MAX_ENTRIES_PER_CLAIM: Final = 2_000

# $1 tenant, $2 writes, $3 records, $4 schema token, $5 envelope, $6 payload, $7 key ids, $8 content ids,
# $9 number of each key's write, $10 number of the last control write or 0.
# Moving the head takes its row lock, held until the commit: the order of tokens is the order of commits.
_STORE: Final = """
WITH moved AS (
    UPDATE log_head
       SET head = head + $2,
           accepted_records = accepted_records + $3,
           control_token = CASE WHEN $10::int > 0 THEN head + $10 ELSE control_token END
     WHERE tenant_id = $1 AND control_token = $4
 RETURNING head - $2 AS base
), stored AS (
    INSERT INTO log_entry (tenant_id, first_token, last_token, accepted_at, records, envelope, payload)
    SELECT $1, base + 1, base + $2, clock_timestamp(), $3, $5, $6 FROM moved
), claimed AS (
    INSERT INTO idempotency_key (key_id, content_id, token, accepted_at)
    SELECT key_id, content_id, base + number, now()
      FROM moved, unnest($7::bytea[], $8::bytea[], $9::int[]) AS claim (key_id, content_id, number)
        ON CONFLICT DO NOTHING
 RETURNING 1
), counted AS (
    SELECT count(*) AS new FROM claimed
)
SELECT CASE WHEN new = cardinality($7::bytea[]) THEN base
            ELSE duckmesh_refuse('DM001', 'some idempotency keys are known; looking them up') END AS base
  FROM moved, counted
"""

_MAKE_HEAD: Final = """
WITH head AS (INSERT INTO log_head (tenant_id) VALUES ($1) ON CONFLICT DO NOTHING)
INSERT INTO log_lease (tenant_id) VALUES ($1) ON CONFLICT DO NOTHING
"""
_HEAD: Final = """
SELECT head, incarnation, control_token, skipped_from, skipped_to, log_id::text FROM log_head WHERE tenant_id = $1
"""
_LOCK_HEAD: Final = _HEAD + " FOR UPDATE"
_KNOWN_KEYS: Final = "SELECT key_id, content_id, token FROM idempotency_key WHERE key_id = ANY($1::bytea[])"

# $1 holder, $2 time to live in seconds, $3 tenant or NULL, $4 position that the holder knows.
_CLAIM: Final = """
WITH candidate AS (
    SELECT lease.tenant_id
      FROM log_lease AS lease JOIN log_head AS head USING (tenant_id)
     WHERE head.head > greatest(lease.acked, $4)
       AND ($3::text IS NULL OR tenant_id = $3)
       AND (lease.holder IS NULL OR lease.holder = $1 OR lease.expires_at < clock_timestamp())
  ORDER BY lease.claimed_at NULLS FIRST
     LIMIT 1
       FOR UPDATE OF lease SKIP LOCKED
)
   UPDATE log_lease AS lease
      SET epoch = CASE WHEN lease.holder = $1 THEN lease.epoch ELSE lease.epoch + 1 END,
          holder = $1,
          claimed_at = clock_timestamp(),
          expires_at = clock_timestamp() + make_interval(secs => $2)
     FROM candidate
    WHERE lease.tenant_id = candidate.tenant_id
RETURNING lease.tenant_id, lease.epoch, lease.acked
"""

# $1 tenant, $2 after, $3 records, $4 bytes, $5 entries. Payloads travel as pointers through the window.
_ENTRIES: Final = """
SELECT first_token, last_token, accepted_at, envelope, payload
  FROM (
    SELECT *, sum(records) OVER upto - records AS records_before, sum(octet_length(payload)) OVER upto
              - octet_length(payload) AS bytes_before
      FROM (
        SELECT * FROM log_entry WHERE tenant_id = $1 AND last_token > $2 ORDER BY last_token LIMIT $5
      ) AS oldest
    WINDOW upto AS (ORDER BY last_token)
  ) AS bounded
 WHERE (records_before < $3 AND bytes_before < $4) OR records_before = 0
 ORDER BY last_token
"""

_ACK: Final = "UPDATE log_lease SET acked = greatest(acked, $2) WHERE tenant_id = $1"
_NACK: Final = "UPDATE log_lease SET holder = NULL WHERE tenant_id = $1 AND holder = $2 AND epoch = $3"
_EXTEND: Final = """
UPDATE log_lease SET expires_at = clock_timestamp() + make_interval(secs => $4)
 WHERE tenant_id = $1 AND holder = $2 AND epoch = $3
"""
_REQUEUE: Final = "UPDATE log_lease SET holder = NULL WHERE holder IS NOT NULL AND expires_at < clock_timestamp()"

_LAG: Final = """
SELECT head.head, head.accepted_records,
       coalesce(pending.records, 0) AS pending,
       CASE WHEN lease.holder IS NOT NULL AND lease.expires_at >= clock_timestamp()
            THEN coalesce(pending.records, 0) ELSE 0 END AS claimed,
       coalesce(extract(epoch FROM clock_timestamp() - pending.oldest) * 1000, 0)::float8 AS oldest_ms
  FROM log_head AS head
  JOIN log_lease AS lease USING (tenant_id)
  LEFT JOIN LATERAL (
    SELECT sum(records)::bigint AS records, min(accepted_at) AS oldest
      FROM log_entry WHERE tenant_id = $1 AND last_token > $2
  ) AS pending ON true
 WHERE tenant_id = $1
"""


class PostgresBus:
    """`IngestBus` on PostgreSQL. ``lease_ttl_s`` is how long a silent coordinator keeps a tenant."""

    def __init__(self, pool: Pool, signals: PostgresSignals, *, lease_ttl_s: float = 5.0) -> None:
        self._pool = pool
        self._signals = signals
        self._lease_ttl_s = lease_ttl_s

    @property
    def capabilities(self) -> BusCapabilities:
        """Everything: one transaction holds token, keys and rows."""
        return BusCapabilities(dense_tokens=True, deduplicates=True, checks_schema=True)

    async def publish(self, group: WriteGroup) -> Sequence[Outcome]:
        """See `IngestBus.publish`."""
        crash_point("api.before_log_commit")
        async with acquired(self._pool) as connection:
            with translated(commits=True):
                decision = await self._publish_new(connection, group) if distinct(group) else None
                if decision is None:
                    decision = await self._publish_deciding(connection, group)
        crash_point("api.after_log_commit")
        if decision.stored:
            self._signals.work(group.tenant)
        return decision.outcomes

    async def _publish_new(self, connection: Connection, group: WriteGroup) -> GroupDecision | None:
        """Store a group of which all keys are new; None when the ledger knows some."""
        stored = all_new(group, 1)
        try:
            base = await self._store(connection, group, stored)
        except asyncpg.PostgresError as error:
            if error.sqlstate == KEYS_KNOWN:
                return None
            raise
        return all_new(group, base + 1)

    async def _publish_deciding(self, connection: Connection, group: WriteGroup) -> GroupDecision:
        keys = [key for write in group.writes for part in write.parts for key in part.key_ids]
        await connection.execute(_MAKE_HEAD, group.tenant)
        async with connection.transaction():
            row = await connection.fetchrow(_LOCK_HEAD, group.tenant)
            _check_schema_token(group, row["control_token"])
            rows = await connection.fetch(_KNOWN_KEYS, keys)
            known = {row["key_id"]: LedgerEntry(row["content_id"], row["token"]) for row in rows}
            decision = decide_group(group, known, lambda number: row["head"] + 1 + number)
            if decision.stored:
                await self._store(connection, group, decision)
        return decision

    async def _store(self, connection: Connection, group: WriteGroup, decision: GroupDecision) -> int:
        """Store what the decision says, from the token behind the head; that head."""
        arguments = _arguments(group, decision)
        base = await connection.fetchval(_STORE, group.tenant, *arguments)
        if base is None:
            await connection.execute(_MAKE_HEAD, group.tenant)
            head = await connection.fetchrow(_HEAD, group.tenant)
            _check_schema_token(group, head["control_token"])
            base = await connection.fetchval(_STORE, group.tenant, *arguments)
        if base is None:
            raise SchemaChanged("the tables changed while the write was under way; validate it again")
        return int(base)

    async def claim_batch(
        self, holder: str, *, limits: ClaimLimits, tenant: str | None = None, after: int | None = None
    ) -> ClaimedBatch | None:
        """See `IngestBus.claim_batch`."""
        async with acquired(self._pool) as connection:
            row = await connection.fetchrow(_CLAIM, holder, self._lease_ttl_s, tenant, after or 0)
            if row is None:
                return None
            start = max(row["acked"], after or 0)
            rows = await connection.fetch(
                _ENTRIES, row["tenant_id"], start, limits.max_records, limits.max_bytes, MAX_ENTRIES_PER_CLAIM
            )
        lease = Lease(row["tenant_id"], holder, row["epoch"], self._lease_ttl_s)
        entries = tuple(_entry(entry) for entry in rows)
        return ClaimedBatch(lease, LogRange(start, rows[-1]["last_token"] if rows else start), entries)

    async def ack(self, lease: Lease, through: int) -> None:
        """See `IngestBus.ack`."""
        async with acquired(self._pool) as connection:
            await connection.execute(_ACK, lease.tenant, through)

    async def nack(self, lease: Lease) -> None:
        """See `IngestBus.nack`."""
        async with acquired(self._pool) as connection:
            await connection.execute(_NACK, lease.tenant, lease.holder, lease.epoch)
        self._signals.work(lease.tenant)

    async def extend_lease(self, lease: Lease) -> Lease:
        """See `IngestBus.extend_lease`."""
        async with acquired(self._pool) as connection:
            done = await connection.execute(_EXTEND, lease.tenant, lease.holder, lease.epoch, self._lease_ttl_s)
        if done != "UPDATE 1":
            raise LeaseLost(f"the lease of tenant {lease.tenant!r} was taken over", tenant=lease.tenant)
        return lease

    async def requeue_expired(self) -> int:
        """See `IngestBus.requeue_expired`."""
        async with acquired(self._pool) as connection:
            done = await connection.execute(_REQUEUE)
        return int(done.removeprefix("UPDATE "))

    async def head(self, tenant: str) -> LogHead:
        """See `IngestBus.head`."""
        async with acquired(self._pool) as connection:
            row = await connection.fetchrow(_HEAD, tenant)
            if row is None:  # made now, so that the scope that a caller sees before the first write is the final one
                await connection.execute(_MAKE_HEAD, tenant)
                row = await connection.fetchrow(_HEAD, tenant)
        skipped = tuple(zip(row["skipped_from"], row["skipped_to"], strict=True))
        return LogHead(tenant, row["head"], row["incarnation"], row["control_token"], skipped, row["log_id"])

    async def lag(self, tenant: str, watermark: int) -> Lag:
        """See `IngestBus.lag`."""
        async with acquired(self._pool) as connection:
            row = await connection.fetchrow(_LAG, tenant, watermark)
        if row is None:
            return Lag(0, 0, 0, 0, 0.0)
        return Lag(row["head"], row["accepted_records"], row["claimed"], row["pending"], row["oldest_ms"])

    async def wait_for_work(self, timeout_s: float) -> None:
        """See `IngestBus.wait_for_work`."""
        await self._signals.wait_for_work(timeout_s)


def _check_schema_token(group: WriteGroup, control_token: int) -> None:
    if group.schema_token != control_token:
        raise SchemaChanged(
            "the tables changed while the write was under way; validate it again", control_token=control_token
        )


def _arguments(group: WriteGroup, decision: GroupDecision) -> tuple[Any, ...]:
    """The parameters of `_STORE` behind the tenant."""
    envelope, payload = _encode(group, decision)
    records = sum(sum(write.rows) for write in decision.stored)
    keys, contents, numbers = _claims(group, decision)
    controls = (n for n, s in enumerate(decision.stored, start=1) if group.writes[s.index].control is not None)
    last_control = max(controls, default=0)
    return (
        len(decision.stored),
        records,
        group.schema_token,
        envelope,
        payload,
        keys,
        contents,
        numbers,
        last_control,
    )


def _claims(group: WriteGroup, decision: GroupDecision) -> tuple[list[bytes], list[bytes], list[int]]:
    if decision.claims:
        first = decision.stored[0].token
        entries = decision.claims.values()
        return (
            list(decision.claims),
            [entry.content_id for entry in entries],
            [entry.token - first + 1 for entry in entries],
        )
    keys: list[bytes] = []
    contents: list[bytes] = []
    numbers: list[int] = []
    for number, write in enumerate(group.writes, start=1):
        for part in write.parts:
            keys += part.key_ids
            contents += part.content_ids
            numbers += [number] * len(part.key_ids)
    return keys, contents, numbers


def _encode(group: WriteGroup, decision: GroupDecision) -> tuple[bytes, bytes]:
    """The envelope and the rows of what is stored."""
    batches: dict[TableRef, bytes] = {}
    for table, batch in group.data.items():
        kept = decision.kept.get(table)
        if kept is None:
            batches[table] = encode_batches(batch)
        elif kept:
            batches[table] = encode_batches(batch.take(kept))
    builder = EnvelopeBuilder(list(batches), [len(data) for data in batches.values()])
    for stored in decision.stored:
        write = group.writes[stored.index]
        parts = [(part.table, rows) for part, rows in zip(write.parts, stored.rows, strict=True) if rows]
        builder.add(parts, write.control, write.trace)
    return builder.encode(), b"".join(batches.values())


def _entry(row: Any) -> LogEntry:
    try:
        writes, sizes = decode_envelope(
            row["envelope"], range(row["first_token"], row["last_token"] + 1), row["accepted_at"]
        )
        payload = memoryview(row["payload"])
        data: dict[TableRef, Any] = {}
        start = 0
        for table, size in sizes:
            data[table] = decode_batches(payload[start : start + size])
            start += size
    except ValueError as error:
        raise DataCorrupt(
            f"the log entry of tokens {row['first_token']} to {row['last_token']} cannot be decoded",
            first_token=row["first_token"],
            last_token=row["last_token"],
        ) from error
    return LogEntry(writes, data)
