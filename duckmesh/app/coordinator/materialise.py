"""From planned files to Parquet objects: columns mapped by id, tokens beside the rows, one object for each file."""

import asyncio
import hashlib
import uuid
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from duckmesh.domain.planning import FilePart, PlannedFile
from duckmesh.domain.schema import Column, TableSchema
from duckmesh.domain.snapshots import NewFile
from duckmesh.ports.columns import EVENT_TIME, OPERATION, ORDINAL, TOKEN, field_id, file_schema
from duckmesh.ports.faults import crash_point
from duckmesh.ports.objectstore import ObjectStore

#: Makes a typed Arrow scalar of a column's default.
DefaultOf = Callable[[Column], Any]

_COMPRESSION: Final = "zstd"
_COMPRESSION_LEVEL: Final = 1
_ROW_GROUP_ROWS: Final = 122_880  # DuckDB's own row group, so that its threads share a file evenly


def file_table(planned: PlannedFile, default_of: DefaultOf) -> pa.Table:
    """All rows of a file, in log order; raises `pyarrow.ArrowException` when a row cannot be mapped."""
    target = file_schema(planned.table.schema)
    batches = [_part_batch(part, planned.table.schema, target, default_of) for part in planned.parts]
    return pa.Table.from_batches(batches, target).combine_chunks()


def _part_batch(part: FilePart, schema: TableSchema, target: pa.Schema, default_of: DefaultOf) -> pa.RecordBatch:
    rows = _rows(part)
    by_id = {field_id(field): rows.column(number) for number, field in enumerate(rows.schema)}
    columns = {column.column_id: column for column in schema.columns}
    computed = {
        TOKEN: pa.array(_repeat(part)),
        ORDINAL: pa.array(_ordinals(part)),
        OPERATION: pa.array(np.zeros(part.rows, dtype=np.int8)),  # rows from before the table had a key
    }
    arrays = []
    for field in target:
        found = by_id.get(field_id(field))
        if found is not None:
            arrays.append(found if found.type == field.type else pc.cast(found, field.type))
        elif field.name in computed:
            arrays.append(computed[field.name])
        else:
            arrays.append(_filled(columns[field_id(field)], field.type, part.rows, default_of))
    return pa.RecordBatch.from_arrays(arrays, schema=target)


def _filled(column: Column, kind: pa.DataType, rows: int, default_of: DefaultOf) -> pa.Array:
    if not column.has_default:
        return pa.nulls(rows, kind)
    return pa.repeat(default_of(column), rows)


def _rows(part: FilePart) -> pa.RecordBatch:
    """The entry's rows that belong to the part: usually all of them, as they are."""
    batch = part.entry.data[part.table]
    if part.rows == batch.num_rows:
        return batch
    return pa.concat_batches([batch.slice(run.start, run.rows) for run in part.runs])


def _repeat(part: FilePart) -> np.ndarray[Any, Any]:
    tokens = np.fromiter((run.token for run in part.runs), np.int64, len(part.runs))
    return np.repeat(tokens, _lengths(part))


def _ordinals(part: FilePart) -> np.ndarray[Any, Any]:
    """A number that grows with the row within its write; any will do, since the token decides first."""
    return np.arange(part.rows, dtype=np.int32)


def _lengths(part: FilePart) -> np.ndarray[Any, Any]:
    return np.fromiter((run.rows for run in part.runs), np.int64, len(part.runs))


def encode(table: pa.Table) -> memoryview:
    """The table as a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(
        table,
        sink,
        compression=_COMPRESSION,
        compression_level=_COMPRESSION_LEVEL,
        row_group_size=_ROW_GROUP_ROWS,
        store_schema=False,  # everything that a reader needs is in Parquet's own schema
    )
    return memoryview(sink.getvalue())


async def write_files(
    store: ObjectStore, tenant: str, planned: Sequence[PlannedFile], default_of: DefaultOf
) -> tuple[NewFile, ...]:
    """Write the planned files next to each other; each is durable when this returns."""
    return tuple(await asyncio.gather(*(_write_file(store, tenant, file, default_of) for file in planned)))


async def _write_file(store: ObjectStore, tenant: str, planned: PlannedFile, default_of: DefaultOf) -> NewFile:
    table, data = await asyncio.to_thread(_encoded, planned, default_of)
    crash_point("coordinator.during_write")
    path = object_path(tenant, planned)
    await store.put(path, data)
    return _describe(planned, table, path, data)


def _encoded(planned: PlannedFile, default_of: DefaultOf) -> tuple[pa.Table, memoryview]:
    table = file_table(planned, default_of)
    return table, encode(table)


def object_path(tenant: str, planned: PlannedFile) -> str:
    """Where the file goes. The table's id keeps a new table of an old name apart, the last part is never used twice."""
    table = planned.table
    last = max(run.token for part in planned.parts for run in part.runs)
    return f"{tenant}/{table.name.lower()}-{table.table_id}/{last:020d}-{uuid.uuid4().hex}.parquet"


def _describe(planned: PlannedFile, table: pa.Table, path: str, data: memoryview) -> NewFile:
    times = pc.min_max(table.column(EVENT_TIME))
    runs = [run.token for part in planned.parts for run in part.runs]
    key_min, key_max = _key_bounds(planned.table.schema, table)
    return NewFile(
        table_id=planned.table.table_id,
        path=path,
        schema_version=planned.table.schema.version,
        rows=table.num_rows,
        bytes=len(data),
        checksum=hashlib.sha256(data).hexdigest(),
        min_token=min(runs),
        max_token=max(runs),
        min_event_time=_utc(times["min"]),
        max_event_time=_utc(times["max"]),
        key_min=key_min,
        key_max=key_max,
    )


def _key_bounds(schema: TableSchema, table: pa.Table) -> tuple[tuple[Any, ...] | None, tuple[Any, ...] | None]:
    """The bounds of each key column by itself, for pruning by key range; none where values have no order here."""
    if not schema.keyed:
        return None, None
    try:
        bounds = [pc.min_max(table.column(column.name)) for column in schema.key_columns]
    except pa.ArrowNotImplementedError:
        return None, None
    return tuple(b["min"].as_py() for b in bounds), tuple(b["max"].as_py() for b in bounds)


#: Event times that Python and PostgreSQL can both hold; others count as the nearest of these in the catalog.
_FIRST: Final = datetime(1, 1, 1, tzinfo=UTC)
_LAST: Final = datetime(9999, 12, 31, tzinfo=UTC)


def _utc(scalar: Any) -> datetime:
    seconds = scalar.value / 1_000_000
    return datetime.fromtimestamp(min(max(seconds, _FIRST.timestamp()), _LAST.timestamp()), UTC)
