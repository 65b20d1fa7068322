"""Records as JSON: validated against a table's schema, identified, and turned into columns.

A `RecordDecoder` is compiled once for a version of a table. A body is decoded by one native call into structs made
from the schema; what remains in Python is one pass a column and one a record.

Members named twice in one object are refused: whether there are any shows in the number of names, when a body is
written in one style; only a body that mixes ``"a":`` with ``"a" :`` can hide one, and then the last counts.
"""

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime
from hashlib import blake2b
from itertools import chain
from types import NoneType
from typing import Any, Final

import msgspec
import pyarrow as pa
from attrs import frozen
from msgspec import UNSET, Raw, UnsetType

from duckmesh.app.ingest.careful import (
    holds_times,
    may_be_too_fine,
    place_of_bad_text,
    refuse_fine_times,
    refuse_repeated_names,
    respelled,
)
from duckmesh.app.ingest.columns import check_default, has_members, plan_column, wire_of
from duckmesh.app.ingest.envelope import record_struct, records_struct, request_struct, split_tables
from duckmesh.app.ingest.nested import over_present, payload_struct
from duckmesh.app.ingest.problems import malformed, translated, unknown_column, validation_failed
from duckmesh.app.ingest.values import Json, Misfit, Values, encode_extra, scalar_codec
from duckmesh.domain.errors import InvalidRequest, PrimaryKeyRequired, ValidationFailed
from duckmesh.domain.idempotency import DIGEST_SIZE, key_ids
from duckmesh.domain.tables import TableDefinition
from duckmesh.domain.types import Kind
from duckmesh.domain.writes import Operation
from duckmesh.ports.columns import INSTANT, log_schema

__all__ = ["DecodedRecords", "DecodedRequest", "RecordDecoder", "check_default", "split_tables"]


@frozen(eq=False)
class DecodedRecords:
    """Valid records of one table, in order, with 16-byte digests of their keys and of their typed contents.

    ``columns``, ``event_times`` and ``operations`` are what `RecordDecoder.batch` makes a batch of.
    """

    rows: int
    keys: list[str]
    key_ids: list[bytes]
    content_ids: list[bytes]
    columns: tuple[Values, ...]
    event_times: Values
    operations: Values


@frozen(eq=False)
class DecodedRequest:
    """A whole body: its records, and whether and for how many milliseconds the caller waits for visibility."""

    records: DecodedRecords
    wait_for_visibility: bool
    visibility_timeout_ms: int | None


_EVENT_TIME: Final = scalar_codec(Kind.TIMESTAMPTZ)
_BARE: Final = blake2b(digest_size=DIGEST_SIZE, person=b"duckmesh-record")
_MALFORMED: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


class RecordDecoder:
    """Reads the records of one table at one schema version for a tenant. Safe to share between threads."""

    def __init__(self, table: TableDefinition, tenant: str) -> None:
        self._table = table
        self._tenant = tenant
        columns = table.schema.columns
        self._plans = tuple(plan_column(table, column) for column in columns)
        self._schema = log_schema(table.schema)
        self._timed = any(holds_times(column.type) for column in columns)
        self._described = any(has_members(column.type) for column in columns)
        # Contents hold the columns in the order of their ids, so that a column added later changes none.
        self._by_id = _places_by_id([column.column_id for column in columns])
        fields = [(f"c{place}", *wire_of(plan)) for place, plan in enumerate(self._plans)]
        payload = payload_struct("Payload", fields, [column.name for column in columns])
        record = record_struct(payload)
        self._request = msgspec.json.Decoder(request_struct(record))
        self._records = msgspec.json.Decoder(records_struct(record))
        self._content = msgspec.msgpack.Encoder(enc_hook=encode_extra).encode

    def decode(self, body: bytes) -> DecodedRequest:
        """Read a whole request body; raises `ValidationFailed`, `InvalidRequest` or `PrimaryKeyRequired`."""
        request, body = self._read(self._request, body)
        wait, timeout = request.wait_for_visibility, request.visibility_timeout_ms
        members = 1 + (wait is not UNSET) + (timeout is not UNSET)
        records = self._decoded(request.records, body, members)
        return DecodedRequest(records, wait is True, None if timeout is UNSET else timeout)

    def decode_records(self, raw: bytes | Raw) -> DecodedRecords:
        """Read this table's part of a body for several tables, ``{"records": […]}``; raises as `decode`."""
        found, body = self._read(self._records, bytes(raw))
        return self._decoded(found.records, body, 1)

    def batch(self, parts: Sequence[DecodedRecords], now: datetime) -> Any:
        """The rows of several requests, in order, in the log's schema; ``now`` is the time of those without one."""
        arrays = [
            plan.codec.arrow(_joined([part.columns[place] for part in parts])) for place, plan in enumerate(self._plans)
        ]
        times = _joined([part.event_times for part in parts])
        if set(map(type, times)) == {NoneType}:
            arrays.append(pa.repeat(pa.scalar(now, INSTANT), len(times)))
        else:
            arrays.append(_EVENT_TIME.arrow([now if time is None else time for time in times]))
        if self._table.schema.keyed:
            arrays.append(pa.array(_joined([part.operations for part in parts]), pa.int8()))
        return pa.RecordBatch.from_arrays(arrays, schema=self._schema)

    def _read(self, decoder: Any, body: bytes) -> tuple[Any, bytes]:
        """The decoded body, and the text that it stands for: another one when names had to be respelled."""
        try:
            return decoder.decode(body), body
        except msgspec.ValidationError as error:
            if not unknown_column(error):
                raise translated(self._table, error) from error
        except _MALFORMED as error:
            raise self._malformed(error, body) from error
        try:
            body = respelled(self._table, body)
            return decoder.decode(body), body
        except msgspec.ValidationError as error:
            raise translated(self._table, error) from error
        except _MALFORMED as error:
            raise self._malformed(error, body) from error

    def _malformed(self, error: Exception, body: bytes) -> InvalidRequest:
        placed = place_of_bad_text(self._table, body) if isinstance(error, UnicodeDecodeError) else None
        return placed or malformed(error)

    def _decoded(self, records: Sequence[Any], body: bytes, members: int) -> DecodedRecords:
        rows = len(records)
        if not rows:
            raise ValidationFailed(
                "records is empty: send at least one record", table=self._table.name, reason="no records"
            )
        ops = [record.op for record in records]
        times = [record.event_time for record in records]
        if (self._timed or any(times)) and may_be_too_fine(body):
            refuse_fine_times(self._table, body)
        values = self._values(records, rows)
        kinds = [set(map(type, column)) for column in values]
        if self._described or body.count(b'":') != members + self._members(ops, times, values, kinds):
            refuse_repeated_names(self._table, body)
        operations, deletes = self._operations(ops)
        event_times = self._event_times(times)
        settled = [
            plan.settle(column, classes, deletes)
            for plan, column, classes in zip(self._plans, values, kinds, strict=True)
        ]
        stored = tuple(column for column, _ in settled)
        compared = self._contents(rows, operations, event_times, [column for _, column in settled])
        keys = [record.idempotency_key for record in records]
        found = key_ids(self._tenant, self._table.table_id, keys)
        return DecodedRecords(rows, keys, found, compared, stored, event_times, operations)

    def _values(self, records: Sequence[Any], rows: int) -> list[Values]:
        if not self._plans:
            return []
        if rows == 1:
            return [(value,) for value in msgspec.structs.astuple(records[0].payload)]
        return list(zip(*map(msgspec.structs.astuple, [record.payload for record in records]), strict=True))

    def _members(self, ops: Values, times: Values, values: Sequence[Values], kinds: Sequence[AbstractSet[type]]) -> int:
        """How many names the records have when none stands twice."""
        count = len(ops) * (4 + len(values)) - ops.count(UNSET) - _absent(times)
        for plan, column, classes in zip(self._plans, values, kinds, strict=True):
            if UnsetType in classes:
                count -= _absent(column)
            if isinstance(plan.codec, Json):
                count += sum(bytes(value).count(b'":') for value in column if value is not UNSET)
        return count

    def _operations(self, ops: Values) -> tuple[Values, Values]:
        """The operation of each row, and which rows delete: an empty sequence when none does."""
        named = set(ops)
        if self._table.schema.keyed:
            if "delete" not in named:
                return [int(Operation.UPSERT)] * len(ops), ()
            deletes = [op == "delete" for op in ops]
            return [int(Operation.DELETE if delete else Operation.UPSERT) for delete in deletes], deletes
        if not named <= {"insert", UNSET}:
            row = next(row for row, op in enumerate(ops) if op in {"upsert", "delete"})
            raise PrimaryKeyRequired(
                f"table {self._table.name!r}, record {row}: {ops[row]} needs a primary key, and the table has "
                "none; use insert",
                table=self._table.name,
                record=row,
                op=ops[row],
            )
        return [int(Operation.INSERT)] * len(ops), ()

    def _event_times(self, times: Values) -> Values:
        if set(map(type, times)) == {UnsetType}:
            return [None] * len(times)
        sent = [None if time is UNSET else time for time in times]
        try:
            return over_present(sent, _EVENT_TIME.typed)
        except Misfit as error:
            row = next(row for row, time in enumerate(sent) if time is not None and _misfits(time))
            raise validation_failed(self._table, row, None, f"event_time: {error.reason}") from error

    def _contents(self, rows: int, operations: Values, times: Values, columns: Sequence[Values]) -> list[bytes]:
        nothing = (None,) * rows
        ordered = [nothing if place is None else columns[place] for place in self._by_id]
        encode, copy = self._content, _BARE.copy
        found = []
        for content in zip(operations, times, *ordered, strict=True):
            digest = copy()
            digest.update(encode(content if content[-1] is not None else _trimmed(content)))
            found.append(digest.digest())
        return found


def _places_by_id(column_ids: Sequence[int]) -> list[int | None]:
    places = {column_id: place for place, column_id in enumerate(column_ids)}
    return [places.get(column_id) for column_id in range(1, max(column_ids, default=0) + 1)]


def _absent(values: Values) -> int:
    return list(map(type, values)).count(UnsetType)


def _trimmed(content: tuple[Any, ...]) -> tuple[Any, ...]:
    end = len(content)
    while end and content[end - 1] is None:
        end -= 1
    return content[:end]


def _misfits(time: datetime) -> bool:
    try:
        _EVENT_TIME.typed([time])
    except Misfit:
        return True
    return False


def _joined(columns: Sequence[Values]) -> Values:
    return columns[0] if len(columns) == 1 else list(chain.from_iterable(columns))
