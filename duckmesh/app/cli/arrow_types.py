"""Between Arrow and a table's columns: which type a file's column has, and rows in the types of the table.

A cast never loses anything: a value that does not fit is an error that names the column.
"""

import base64
import datetime as dt
import decimal
import json
import math
import uuid
from collections.abc import Callable, Mapping
from typing import Any, Final

import pyarrow as pa
import pyarrow.types as kinds

from duckmesh.app.cli.exit_codes import UsageProblem
from duckmesh.domain.errors import InvalidSchema
from duckmesh.domain.types import (
    MAX_DECIMAL_PRECISION,
    Decimal,
    Kind,
    ListOf,
    LogicalType,
    MapOf,
    Scalar,
    Struct,
    parse_type,
)
from duckmesh.ports.columns import arrow_type

_SCALARS: Final[tuple[tuple[Callable[[Any], bool], Kind], ...]] = (
    (kinds.is_int64, Kind.BIGINT), (kinds.is_int32, Kind.INTEGER),
    (kinds.is_int16, Kind.SMALLINT), (kinds.is_int8, Kind.TINYINT),
    (kinds.is_uint64, Kind.UBIGINT), (kinds.is_uint32, Kind.UINTEGER),
    (kinds.is_uint16, Kind.USMALLINT), (kinds.is_uint8, Kind.UTINYINT),
    (kinds.is_float64, Kind.DOUBLE), (kinds.is_float32, Kind.FLOAT), (kinds.is_float16, Kind.FLOAT),
    (kinds.is_boolean, Kind.BOOLEAN), (kinds.is_date, Kind.DATE), (kinds.is_time, Kind.TIME),
    (kinds.is_string, Kind.VARCHAR), (kinds.is_large_string, Kind.VARCHAR), (kinds.is_string_view, Kind.VARCHAR),
    (kinds.is_binary, Kind.BLOB), (kinds.is_large_binary, Kind.BLOB), (kinds.is_binary_view, Kind.BLOB),
    (kinds.is_fixed_size_binary, Kind.BLOB),
    # A column without a single value says nothing about its type; text holds whatever comes.
    (kinds.is_null, Kind.VARCHAR),
)  # fmt: skip
_EXTENSIONS: Final = {"arrow.uuid": Kind.UUID, "arrow.json": Kind.JSON}


def column_type(kind: Any) -> LogicalType:
    """The column type that holds every value of an Arrow type; raises `UsageProblem` where there is none."""
    if isinstance(kind, pa.BaseExtensionType):
        known = _EXTENSIONS.get(kind.extension_name)
        return Scalar(known) if known else column_type(kind.storage_type)
    if kinds.is_timestamp(kind):
        return Scalar(Kind.TIMESTAMPTZ if kind.tz else Kind.TIMESTAMP)
    if kinds.is_decimal(kind) and kind.precision <= MAX_DECIMAL_PRECISION and kind.scale >= 0:
        return Decimal(kind.precision, kind.scale)
    for matches, scalar in _SCALARS:
        if matches(kind):
            return Scalar(scalar)
    return _nested(kind)


def _nested(kind: Any) -> LogicalType:
    if kinds.is_dictionary(kind):
        return column_type(kind.value_type)
    if kinds.is_map(kind):
        return MapOf(column_type(kind.key_type), column_type(kind.item_type))
    if kinds.is_struct(kind):
        return Struct(tuple((field.name, column_type(field.type)) for field in kind))
    if kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind):
        return ListOf(column_type(kind.value_type))
    raise UsageProblem(f"a column of the Arrow type {kind} has no DuckDB type here; convert it first")


def inferred_schema(schema: Any) -> dict[str, Any]:
    """``schema_json`` for an Arrow schema."""
    return {field.name: str(column_type(field.type)) for field in schema}


def table_types(info: Mapping[str, Any]) -> dict[str, Any]:
    """Column, folded to lower case, to the Arrow type in which the table takes it."""
    return {name.lower(): arrow_type(_declared(name, declared)) for name, declared in info["schema_json"].items()}


def _declared(name: str, declared: Any) -> LogicalType:
    text = declared["type"] if isinstance(declared, Mapping) else declared
    try:
        return parse_type(text)
    except InvalidSchema as error:
        raise UsageProblem(
            f"column {name!r} has the type {text!r}, which this version of duckmesh does not know; upgrade it"
        ) from error


def cast_batch(batch: Any, types: Mapping[str, Any], first_row: int) -> Any:
    """A record batch in the table's types; raises `UsageProblem` that names the column and the rows."""
    columns = []
    for field, column in zip(batch.schema, batch.columns, strict=True):
        wanted = types.get(field.name.lower(), column.type)
        try:
            columns.append(_cast(column, wanted))
        except (pa.ArrowException, ValueError, TypeError) as error:
            raise UsageProblem(
                f"column {field.name!r} does not fit the table's {wanted}: {error}",
                column=field.name,
                rows=f"{first_row + 1} to {first_row + batch.num_rows}",
            ) from error
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _cast(column: Any, wanted: Any) -> Any:
    if column.type == wanted:
        return column
    textual = kinds.is_string(column.type) or kinds.is_large_string(column.type)
    if textual and wanted == pa.uuid():
        return pa.array([None if v is None else uuid.UUID(v).bytes for v in column.to_pylist()], wanted)
    if textual and kinds.is_nested(wanted):
        return pa.array([None if v is None else json.loads(v) for v in column.to_pylist()], wanted)
    if kinds.is_timestamp(column.type) and kinds.is_timestamp(wanted) and bool(column.type.tz) != bool(wanted.tz):
        raise ValueError("one of them has a time zone and the other has none; say which instant is meant")
    if isinstance(column.type, pa.BaseExtensionType):
        column = column.storage
    return column.cast(wanted, safe=True)


def json_value(value: Any) -> Any:
    """A Python value of Arrow in the form that the API reads."""
    match value:
        case dict():
            return {name: json_value(inner) for name, inner in value.items()}
        case list():
            return [json_value(inner) for inner in value]
        case _:
            return _json_scalar(value)


def _json_scalar(value: Any) -> Any:
    match value:
        case float() if not math.isfinite(value):
            return "NaN" if math.isnan(value) else ("Infinity" if value > 0 else "-Infinity")
        case dt.datetime() | dt.date() | dt.time():
            return value.isoformat()
        case decimal.Decimal() | uuid.UUID():
            return str(value)
        case bytes():
            return base64.b64encode(value).decode()
        case _:
            return value
