"""A column's default as a typed value, for rows that were validated before the column was there."""

from typing import Any

import pyarrow as pa

from duckmesh.app.ingest.columns import check_default
from duckmesh.app.ingest.nested import codec_for
from duckmesh.domain.schema import Column, ColumnSpec
from duckmesh.ports.columns import arrow_type


def default_scalar(column: Column) -> Any:
    """The Arrow scalar of ``column.default``, which was checked when the column was made."""
    import msgspec  # noqa: PLC0415 - seldom needed

    spec = ColumnSpec(column.name, column.type, column.nullable, column.has_default, column.default)
    check_default(spec)
    codec = codec_for(column.type)
    wire = msgspec.json.decode(msgspec.json.encode(column.default), type=codec.wire)
    return pa.array(codec.arrow(codec.typed([wire])), type=arrow_type(column.type))[0]
