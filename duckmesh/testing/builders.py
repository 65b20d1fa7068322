"""Writes and publications in few words, for the suites and for tests of adapters.

A group of two writes, the second with two tables::

    group("acme", write(put(EVENTS, "k1", "k2")), write(put(EVENTS, "k3"), put(ORDERS, "o1")))

Rows are made from their idempotency keys, so the same key gives the same content, unless ``note`` says otherwise.
"""

import hashlib
import zlib
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, time
from decimal import Decimal as Exact
from typing import Any, Final
from uuid import UUID

import pyarrow as pa
from attrs import evolve, frozen

from duckmesh.domain.idempotency import key_ids
from duckmesh.domain.schema import first_schema, parse_specs
from duckmesh.domain.snapshots import CatalogHead, ControlResult, NewFile, ParkedWrite, Publication
from duckmesh.domain.tables import ControlChange, CreateTable, TableDefinition
from duckmesh.domain.writes import LogEntry, TableRef, Write, WriteGroup, WritePart
from duckmesh.ports.columns import EVENT_TIME, OPERATION, log_schema

#: The event time of every row and file that says no other.
NOON: Final = datetime(2026, 1, 1, 12, tzinfo=UTC)


def table(name: str, columns: Mapping[str, Any], *, key: Sequence[str] = (), table_id: str = "") -> TableDefinition:
    """A table at version 1."""
    return TableDefinition(table_id or f"table-{name}", name, first_schema(parse_specs(columns), key))


#: A table without a key, and a keyed one, both with columns ``id`` and ``note``.
EVENTS: Final = table("events", {"id": "BIGINT", "note": "VARCHAR"})
ORDERS: Final = table("orders", {"id": "BIGINT", "note": "VARCHAR"}, key=["id"])

#: A table with every type, with defaults and descriptions.
EVERY_TYPE: Final = table(
    "every_type",
    {
        "c_bigint": {"type": "BIGINT", "default": 7, "description": "größte Ganzzahl"},
        "c_integer": {"type": "INTEGER", "nullable": False},
        "c_smallint": "SMALLINT",
        "c_tinyint": "TINYINT",
        "c_ubigint": "UBIGINT",
        "c_uinteger": "UINTEGER",
        "c_usmallint": "USMALLINT",
        "c_utinyint": "UTINYINT",
        "c_double": {"type": "DOUBLE", "default": 0.1},
        "c_float": "FLOAT",
        "c_boolean": {"type": "BOOLEAN", "nullable": False, "default": False},
        "c_varchar": {"type": "VARCHAR", "default": 'it\'s "quoted"\n', "description": "a text\x00"},
        "c_blob": "BLOB",
        "c_date": "DATE",
        "c_time": "TIME",
        "c_timestamp": "TIMESTAMP",
        "c_timestamptz": "TIMESTAMPTZ",
        "c_uuid": "UUID",
        "c_json": {"type": "JSON", "default": {"a": [1, None]}},
        "c_decimal": {"type": "DECIMAL(38,9)", "default": "1.000000001"},
        "c_list": {"type": "INTEGER[]", "default": [1, 2]},
        "c_struct": 'STRUCT("a b" INTEGER, c STRUCT(d VARCHAR[]))',
        "c_map": "MAP(VARCHAR, DECIMAL(4,2))",
    },
    key=["c_integer", "c_varchar"],
)

#: Two values for every column of `EVERY_TYPE`, the second null or at the end of its range.
EVERY_VALUE: Final[dict[str, list[Any]]] = {
    "c_bigint": [2**63 - 1, None],
    "c_integer": [-(2**31), 2**31 - 1],
    "c_smallint": [-(2**15), None],
    "c_tinyint": [-(2**7), 2**7 - 1],
    "c_ubigint": [2**64 - 1, 0],
    "c_uinteger": [2**32 - 1, None],
    "c_usmallint": [2**16 - 1, None],
    "c_utinyint": [2**8 - 1, None],
    "c_double": [0.1, float("inf")],
    "c_float": [0.5, None],
    "c_boolean": [True, False],
    "c_varchar": ["", "Zoë 🦆\x00"],
    "c_blob": [b"\x00\xff", b""],
    "c_date": [date(1, 1, 1), date(9999, 12, 31)],
    "c_time": [time(23, 59, 59, 999999), None],
    "c_timestamp": [datetime(1969, 12, 31, 23, 59, 59, 999999), None],  # noqa: DTZ001 - the type has no zone
    "c_timestamptz": [NOON, None],
    "c_uuid": [UUID(int=2**128 - 1).bytes, None],
    "c_json": ['{"a": 1}', None],
    "c_decimal": [Exact("-99999999999999999999999999999.999999999"), Exact(0)],
    "c_list": [[1, None, 3], []],
    "c_struct": [{"a b": 1, "c": {"d": ["x", None]}}, None],
    "c_map": [[("k", Exact("12.34"))], []],
}


def ref(of: TableDefinition) -> TableRef:
    """The table at its version."""
    return TableRef(of.table_id, of.schema.version)


@frozen(eq=False)
class Rows:
    """The records of one write for one table, before the tenant is known."""

    table: TableDefinition
    keys: tuple[str, ...]
    batch: Any
    whole: bool = False

    def part(self, tenant: str) -> WritePart:
        """The part as the bus is given it."""
        contents = [hashlib.blake2b(repr(row).encode(), digest_size=16).digest() for row in self.batch.to_pylist()]
        if self.whole:
            contents = [hashlib.blake2b(b"".join(contents), digest_size=16).digest()]
        digests = key_ids(tenant, self.table.table_id, self.keys)
        return WritePart(
            ref(self.table), self.table.name, self.batch.num_rows, self.keys, digests, contents, self.whole
        )


def rows(of: TableDefinition, keys: Sequence[str], values: Mapping[str, Sequence[Any]]) -> Rows:
    """Records with the given values of each column, one key for each."""
    return Rows(of, tuple(keys), _batch(of, values, len(keys)))


def put(of: TableDefinition, *keys: str, note: str | None = None) -> Rows:
    """A record for each key, in a table of ``id`` and ``note``; another ``note`` is other content."""
    return rows(of, keys, _values(keys, note))


def body(of: TableDefinition, key: str, count: int, note: str | None = None) -> Rows:
    """A bulk body of ``count`` records under one key."""
    return Rows(of, (key,), _batch(of, _values([f"{key}-{n}" for n in range(count)], note), count), whole=True)


def _values(keys: Sequence[str], note: str | None) -> dict[str, list[Any]]:
    return {"id": [zlib.crc32(key.encode()) for key in keys], "note": [note or key for key in keys]}


def _batch(of: TableDefinition, values: Mapping[str, Sequence[Any]], count: int) -> Any:
    system = {EVENT_TIME: [NOON] * count, OPERATION: [1] * count}
    schema = log_schema(of.schema)
    columns = []
    for kind in schema:
        given = values.get(kind.name, system.get(kind.name, [None] * count))
        columns.append(pa.array(given, kind.type))
    return pa.record_batch(columns, schema=schema)


@frozen(eq=False)
class Draft:
    """A write, before the tenant is known."""

    parts: tuple[Rows, ...] = ()
    control: ControlChange | None = None
    trace: str | None = None


def write(*parts: Rows, trace: str | None = None) -> Draft:
    """A write of data."""
    return Draft(parts, trace=trace)


def control(change: ControlChange) -> Draft:
    """A control write."""
    return Draft(control=change)


def create(of: TableDefinition) -> Draft:
    """The control write that makes a table."""
    return control(CreateTable(of))


def group(tenant: str, *drafts: Draft, schema_token: int = 0) -> WriteGroup:
    """The writes as one group."""
    batches: dict[TableRef, list[Any]] = {}
    for part in (part for draft in drafts for part in draft.parts):
        batches.setdefault(ref(part.table), []).append(part.batch)
    writes = tuple(
        Write(tuple(part.part(tenant) for part in draft.parts), draft.control, draft.trace) for draft in drafts
    )
    data = {table: found[0] if len(found) == 1 else pa.concat_batches(found) for table, found in batches.items()}
    return WriteGroup(tenant, writes, data, schema_token)


def unpacked(entries: Iterable[LogEntry]) -> dict[int, dict[TableRef, Any]]:
    """The rows of every delivered write, by token and table; of a write delivered twice, the first."""
    found: dict[int, dict[TableRef, Any]] = {}
    for entry in entries:
        start: dict[TableRef, int] = {}
        for logged in entry.writes:
            parts = {}
            for part in logged.parts:
                first = start.get(part.table, 0)
                parts[part.table] = entry.data[part.table].slice(first, part.rows)
                start[part.table] = first + part.rows
            found.setdefault(logged.token, parts)
    return found


def data_file(of: TableDefinition, path: str, tokens: tuple[int, int] = (1, 1), **changes: Any) -> NewFile:
    """A data file of a table, of which nothing but its path and tokens matters unless ``changes`` say so."""
    file = NewFile(of.table_id, path, of.schema.version, 1, 100, "ab" * 32, tokens[0], tokens[1], NOON, NOON)
    return evolve(file, **changes)


def publication(
    head: CatalogHead,
    watermark: int | None = None,
    *,
    added: Sequence[NewFile] = (),
    ended: Sequence[int] = (),
    controls: Sequence[ControlResult] = (),
    parked: Sequence[ParkedWrite] = (),
    epoch: int | None = None,
) -> Publication:
    """A publication on top of ``head``; without ``watermark`` it moves the watermark by one."""
    return Publication(
        head.tenant,
        head.epoch if epoch is None else epoch,
        "suite",
        head.watermark,
        head.watermark + 1 if watermark is None else watermark,
        tuple(added),
        tuple(ended),
        tuple(controls),
        tuple(parked),
    )


def created(token: int, of: TableDefinition) -> ControlResult:
    """The result of a control write that made a table."""
    return ControlResult(token, CreateTable(of))
