"""What is written: one event schema, and request bodies that are unique per request at almost no cost.

A body is built once with a marker where the idempotency keys begin. Filling in a prefix is one ``bytes.join``,
so the load generator never runs out of fresh keys and never spends its time on encoding.
"""

import datetime as dt
import random
import secrets
from collections.abc import Iterator
from typing import Any, Self

import msgspec
import pyarrow as pa
from attrs import frozen

SCHEMA = {"id": "BIGINT", "user_id": "VARCHAR", "kind": "VARCHAR", "amount": "DOUBLE", "at": "TIMESTAMP"}
"""Columns of the benchmark's table, as DuckDB types: a typical small analytics event."""

ARROW_SCHEMA = pa.schema(
    [
        ("id", pa.int64()),
        ("user_id", pa.string()),
        ("kind", pa.string()),
        ("amount", pa.float64()),
        ("at", pa.timestamp("us")),
    ]
)

KEY_PREFIX_LENGTH = 16
MARKER = b"\x40uniq_key_prefix"  # as long as a prefix, so that Content-Length can be computed from the marker
_KINDS = ("view", "click", "search", "purchase")
_EPOCH = dt.datetime(2026, 1, 1)  # noqa: DTZ001 - a TIMESTAMP without zone, as in SCHEMA
_MASK = (1 << 64) - 1


@frozen
class Template:
    """Bytes with holes of ``KEY_PREFIX_LENGTH``, all filled with the same prefix."""

    parts: tuple[bytes, ...]

    @classmethod
    def parse(cls, marked: bytes) -> Self:
        """Split at every marker."""
        return cls(tuple(marked.split(MARKER)))

    def after(self, head: bytes) -> "Template":
        """Put a (possibly marked) head in front; this body is not searched for markers again."""
        *before, last = head.split(MARKER)
        return Template((*before, last + self.parts[0], *self.parts[1:]))

    def fill(self, prefix: bytes) -> bytes:
        """Make the bytes for one request."""
        return prefix.join(self.parts)

    def __len__(self) -> int:
        return sum(map(len, self.parts)) + KEY_PREFIX_LENGTH * (len(self.parts) - 1)


def key_prefixes() -> Iterator[bytes]:
    """Yield hexadecimal prefixes that never repeat within a run and practically never between runs.

    They are scattered, as UUIDs are, because keys that arrive in order would flatter every B-tree: SplitMix64's
    finaliser is a bijection, so distinct counters stay distinct.
    """
    start = secrets.randbits(32) << 32
    for counter in range(start, start + (1 << 32)):
        yield b"%016x" % _scatter(counter)


def _scatter(value: int) -> int:
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK
    return value ^ (value >> 31)


def payloads(count: int, seed: int) -> list[dict[str, Any]]:
    """Make ``count`` reproducible events as Python values."""
    rng = random.Random(seed)
    return [
        {
            "id": rng.randrange(1 << 53),
            "user_id": f"user-{rng.randrange(1_000_000):06d}",
            "kind": rng.choice(_KINDS),
            "amount": rng.randrange(1_000_000) / 100,
            "at": _EPOCH + dt.timedelta(microseconds=rng.randrange(86_400_000_000)),
        }
        for _ in range(count)
    ]


def json_body(count: int, seed: int, **request: Any) -> Template:
    """Make an ingest request of ``count`` records with a key each; ``request`` adds fields beside ``records``."""
    marker = MARKER.decode()
    records = [
        {"idempotency_key": f"{marker}{index:04d}", "op": "insert", "payload": payload}
        for index, payload in enumerate(payloads(count, seed))
    ]
    return Template.parse(msgspec.json.encode({"records": records, **request}))


def arrow_table(count: int, seed: int) -> pa.Table:
    """Make the same events as an Arrow table of one batch."""
    return pa.Table.from_pylist(payloads(count, seed), schema=ARROW_SCHEMA)


def arrow_body(count: int, seed: int) -> Template:
    """Make an Arrow IPC stream; its idempotency key goes in a header, so the body has no holes."""
    table = arrow_table(count, seed)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return Template((sink.getvalue().to_pybytes(),))
