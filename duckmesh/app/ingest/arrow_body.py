"""Bulk bodies: an Arrow stream of bare payloads, under one idempotency key."""

from collections.abc import Sequence
from datetime import datetime
from hashlib import blake2b
from typing import Any, Final, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from duckmesh.app.ingest.arrow_content import feed
from duckmesh.app.ingest.arrow_fit import first_misfit, fit
from duckmesh.app.ingest.arrow_guard import BROKEN, ArrowLimits, broken, guarded_schema
from duckmesh.app.ingest.columns import ColumnPlan, plan_column
from duckmesh.app.ingest.problems import validation_failed
from duckmesh.app.ingest.values import Misfit
from duckmesh.domain.errors import InvalidRequest, PrimaryKeyRequired, ValidationFailed
from duckmesh.domain.idempotency import DIGEST_SIZE, MAX_KEY_LENGTH, key_ids
from duckmesh.domain.tables import TableDefinition
from duckmesh.domain.writes import Operation
from duckmesh.ports.columns import INSTANT, arrow_type, log_schema

__all__ = ["ArrowLimits", "DecodedBody", "decode_arrow"]


class DecodedBody(NamedTuple):
    """A valid body: its rows in the log's schema, and the digests of its one key and of all its content."""

    batch: Any
    rows: int
    key_ids: list[bytes]
    content_ids: list[bytes]
    keys: list[str]


_DEFAULT_LIMITS: Final = ArrowLimits()


def decode_arrow(
    table: TableDefinition,
    tenant: str,
    body: bytes,
    *,
    idempotency_key: str,
    op: Operation = Operation.INSERT,
    now: datetime,
    limits: ArrowLimits = _DEFAULT_LIMITS,
) -> DecodedBody:
    """Read an Arrow stream of rows of ``table``; all rows get the operation ``op`` and the event time ``now``.

    Columns are matched by name, case-insensitively; one that is missing has its default, or is null. A value is
    converted only without loss. Raises `ValidationFailed` that names record and column, `InvalidRequest`,
    `PayloadTooLarge` or `PrimaryKeyRequired`.
    """
    _check_key(idempotency_key)
    op = _operation(table, op)
    plans = [plan_column(table, column) for column in table.schema.columns]
    places = _places(table, guarded_schema(body, limits), op)
    batches = _batches(body)
    rows = sum(batch.num_rows for batch in batches)
    if not rows:
        raise ValidationFailed("the body has no rows: send at least one", table=table.name, reason="no records")
    columns = [_column(plan, places, batches, rows, op, limits) for plan in plans]
    return DecodedBody(
        _log_batch(table, columns, rows, op, now),
        rows,
        key_ids(tenant, table.table_id, [idempotency_key]),
        [_content_id(plans, columns, rows, op)],
        [idempotency_key],
    )


def _check_key(key: str) -> None:
    if not 1 <= len(key) <= MAX_KEY_LENGTH:
        raise InvalidRequest(f"the idempotency key must have 1 to {MAX_KEY_LENGTH} characters")


def _operation(table: TableDefinition, op: Operation) -> Operation:
    if table.schema.keyed:
        return Operation.DELETE if op is Operation.DELETE else Operation.UPSERT
    if op is not Operation.INSERT:
        raise PrimaryKeyRequired(
            f"table {table.name!r}: {op.name.lower()} needs a primary key, and the table has none; use insert",
            table=table.name,
            op=op.name.lower(),
        )
    return op


def _places(table: TableDefinition, schema: Any, op: Operation) -> dict[int, int]:
    """Where each column that the body has stands in it, by column id."""
    found: dict[int, int] = {}
    for place, name in enumerate(schema.names):
        column = table.schema.column(name)
        if column is None:
            raise _unfit(table, name, "unknown column")
        if column.column_id in found:
            raise _unfit(table, name, "named twice (names are case-insensitive)")
        if op is Operation.DELETE and column.column_id not in table.schema.primary_key:
            raise _unfit(table, name, "a delete names the columns of the primary key and no other")
        found[column.column_id] = place
    return found


def _unfit(table: TableDefinition, name: str, reason: str) -> ValidationFailed:
    return ValidationFailed(
        f"table {table.name!r}, column {name[:80]!r}: {reason}", table=table.name, column=name[:80], reason=reason
    )


def _batches(body: bytes) -> Sequence[Any]:
    """The stream's batches, each validated in full: a crafted one crashes whoever trusts it."""
    found = []
    try:
        with pa.ipc.open_stream(pa.py_buffer(body)) as reader:
            for batch in reader:
                batch.validate(full=True)
                found.append(batch)
    except BROKEN as error:
        raise broken(error) from error
    return found


def _column(
    plan: ColumnPlan, places: dict[int, int], batches: Sequence[Any], rows: int, op: Operation, limits: ArrowLimits
) -> Any:
    column = plan.column
    place = places.get(column.column_id)
    if place is None:
        return _absent(plan, rows, op)
    fitted = []
    first = 0
    for batch in batches:
        fitted.append(_fitted(plan, batch.column(place), first, limits))
        first += batch.num_rows
    return fitted[0] if len(fitted) == 1 else pa.concat_arrays(fitted)


def _fitted(plan: ColumnPlan, array: Any, first: int, limits: ArrowLimits) -> Any:
    column, table = plan.column, plan.table
    try:
        fitted = fit(array, column.type, limits.max_bytes)
    except Misfit as misfit:
        row, error = _first(array, plan, misfit, limits)
        raise validation_failed(table, first + row, column.name + error.path, error.reason) from error
    except BROKEN as error:
        raise broken(error) from error
    if fitted.null_count and not column.nullable:
        row = pc.index(fitted.is_null(), True).as_py()
        raise validation_failed(table, first + row, column.name, "null in a column that is not nullable")
    return fitted


def _first(array: Any, plan: ColumnPlan, misfit: Misfit, limits: ArrowLimits) -> tuple[int, Misfit]:
    try:
        return first_misfit(array, lambda part: fit(part, plan.column.type, limits.max_bytes))
    except AssertionError:  # the column as a whole is the misfit, as when it grows too large
        return 0, misfit


def _absent(plan: ColumnPlan, rows: int, op: Operation) -> Any:
    column = plan.column
    if column.has_default and (plan.in_deletes or op is not Operation.DELETE):
        return plan.codec.arrow([plan.default]).take(pa.repeat(0, rows))
    if column.nullable or (op is Operation.DELETE and not plan.in_deletes):
        return pa.nulls(rows, arrow_type(column.type))
    raise validation_failed(
        plan.table, 0, column.name, f"missing, but column {column.name!r} is not nullable and has no default"
    )


def _log_batch(table: TableDefinition, columns: Sequence[Any], rows: int, op: Operation, now: datetime) -> Any:
    arrays = [*columns, pa.repeat(pa.scalar(now, INSTANT), rows)]
    if table.schema.keyed:
        arrays.append(pa.repeat(pa.scalar(int(op), pa.int8()), rows))
    return pa.RecordBatch.from_arrays(arrays, schema=log_schema(table.schema))


def _content_id(plans: Sequence[ColumnPlan], columns: Sequence[Any], rows: int, op: Operation) -> bytes:
    """A digest of the typed content, in which a column that is all absent or default leaves no trace."""
    digest = blake2b(digest_size=DIGEST_SIZE, person=b"duckmesh-arrow")
    digest.update(f"{op.name} {rows}".encode())
    for plan, array in sorted(zip(plans, columns, strict=True), key=lambda pair: pair[0].column.column_id):
        if not _is_absent(plan, array):
            digest.update(f"\0{plan.column.column_id}\0".encode())
            feed(digest, array)
    return digest.digest()


def _is_absent(plan: ColumnPlan, array: Any) -> bool:
    if not plan.column.has_default:
        return bool(array.null_count == len(array))
    return bool(array.equals(plan.codec.arrow([plan.default]).take(pa.repeat(0, len(array)))))
