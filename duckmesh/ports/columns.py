"""How a table's rows look as Arrow: in the log, and in data files.

Every column carries its id as Parquet's ``field_id``, so that readers map columns by id and never by name. All
fields are nullable here: a delete names the key only, and nullability is checked when a record is validated.
"""

from typing import Any, Final, assert_never

import pyarrow as pa

from duckmesh.domain.schema import TableSchema
from duckmesh.domain.types import Decimal, Kind, ListOf, LogicalType, MapOf, Scalar, Struct

EVENT_TIME: Final = "_event_time"
TOKEN: Final = "_token"  # noqa: S105 - a column's name
OPERATION: Final = "_dm_op"
#: The record's number in its write: of two records with one key in one write, the later wins.
ORDINAL: Final = "_dm_row"

FIELD_ID: Final = b"PARQUET:field_id"
#: Field ids of the columns that are not the user's, far above any column id.
SYSTEM_FIELD_IDS: Final = {
    EVENT_TIME: 1_000_000_001,
    TOKEN: 1_000_000_002,
    OPERATION: 1_000_000_003,
    ORDINAL: 1_000_000_004,
}

INSTANT: Final = pa.timestamp("us", tz="UTC")

_SCALARS: Final[dict[Kind, pa.DataType]] = {
    Kind.BIGINT: pa.int64(),
    Kind.INTEGER: pa.int32(),
    Kind.SMALLINT: pa.int16(),
    Kind.TINYINT: pa.int8(),
    Kind.UBIGINT: pa.uint64(),
    Kind.UINTEGER: pa.uint32(),
    Kind.USMALLINT: pa.uint16(),
    Kind.UTINYINT: pa.uint8(),
    Kind.DOUBLE: pa.float64(),
    Kind.FLOAT: pa.float32(),
    Kind.BOOLEAN: pa.bool_(),
    Kind.VARCHAR: pa.string(),
    Kind.BLOB: pa.binary(),
    Kind.DATE: pa.date32(),
    Kind.TIME: pa.time64("us"),
    Kind.TIMESTAMP: pa.timestamp("us"),
    Kind.TIMESTAMPTZ: INSTANT,
    Kind.UUID: pa.uuid(),
    Kind.JSON: pa.string(),
}


def arrow_type(logical: LogicalType) -> pa.DataType:
    """The Arrow type that holds every value of a column's type without loss."""
    match logical:
        case Scalar(kind):
            return _SCALARS[kind]
        case Decimal(precision, scale):
            return pa.decimal128(precision, scale)
        case ListOf(element):
            return pa.list_(arrow_type(element))
        case Struct(fields):
            return pa.struct([pa.field(name, arrow_type(inner)) for name, inner in fields])
        case MapOf(key, value):
            return pa.map_(arrow_type(key), arrow_type(value))
        case _:
            assert_never(logical)


def arrow_field(name: str, kind: pa.DataType, field_id: int) -> pa.Field:
    """A field that carries its id."""
    return pa.field(name, kind, metadata={FIELD_ID: str(field_id).encode()})


def field_id(field: pa.Field) -> int:
    """The id that a field carries."""
    return int(field.metadata[FIELD_ID])


def log_schema(schema: TableSchema) -> pa.Schema:
    """Rows in the log: the columns, the event time, and on a keyed table the `Operation`."""
    fields = [arrow_field(c.name, arrow_type(c.type), c.column_id) for c in schema.columns]
    fields.append(_system_field(EVENT_TIME, INSTANT))
    if schema.keyed:
        fields.append(_system_field(OPERATION, pa.int8()))
    return pa.schema(fields)


def file_schema(schema: TableSchema) -> pa.Schema:
    """Rows in a data file: those of the log with their token, and on a keyed table their place in the write."""
    fields = [*log_schema(schema), _system_field(TOKEN, pa.int64())]
    if schema.keyed:
        fields.append(_system_field(ORDINAL, pa.int32()))
    return pa.schema(fields)


def encode_batches(batch: Any) -> bytes:
    """A record batch as a self-describing Arrow IPC stream, compressed when that pays."""
    sink = pa.BufferOutputStream()
    compression = "zstd" if batch.nbytes > _COMPRESS_FROM_BYTES else None
    options = pa.ipc.IpcWriteOptions(compression=compression)
    with pa.ipc.new_stream(sink, batch.schema, options=options) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


_COMPRESS_FROM_BYTES: Final = 16 * 1024


def decode_batches(data: bytes | memoryview) -> Any:
    """The record batch of `encode_batches`; raises `pyarrow.ArrowInvalid` when the bytes are none."""
    with pa.ipc.open_stream(data) as reader:
        return reader.read_next_batch()


def _system_field(name: str, kind: pa.DataType) -> pa.Field:
    return arrow_field(name, kind, SYSTEM_FIELD_IDS[name])
