"""Results as bytes: JSON, NDJSON, CSV, Arrow and Parquet (contract, section 4).

In JSON, integers up to 64 bits and doubles are numbers; DECIMAL, HUGEINT, UUID, BLOB (base64), dates and times
(ISO 8601, UTC for instants), NaN and infinities are strings; nested values are arrays and objects, and a JSON value
is itself. Nothing is lost: what ingest takes in these forms is the value that was there.
"""

import base64
import itertools
import uuid
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq

from duckmesh.app.query.instants import clock_text, date_text, duration_text, timestamp_text

_FIRST_DAY: Final = -719_162  # 0001-01-01
_LAST_DAY: Final = 2_932_896  # 9999-12-31
_DAY_S: Final = 86_400
_UNITS: Final = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}

_encode = msgspec.json.encode


def json_rows(table: Any) -> list[tuple[Any, ...]]:
    """The rows with values that a JSON encoder takes as they are."""
    return list(zip(*(json_values(column) for column in table.columns), strict=True))


def encode_json_rows(table: Any) -> bytes:
    """The rows as one JSON array of arrays."""
    return _encode(json_rows(table))


def ndjson_bytes(table: Any) -> bytes:
    """One object a line; of columns with one name, later ones get a number."""
    names = unique_names(table.column_names)
    lines = (_encode(dict(zip(names, row, strict=True))) for row in json_rows(table))
    return b"".join(line + b"\n" for line in lines)


def csv_bytes(table: Any) -> bytes:
    """A header, then one line a row: the texts of JSON, without quotes around numbers; null is empty."""
    columns = [_csv_column(column) for column in table.columns]
    sink = pa.BufferOutputStream()
    pyarrow.csv.write_csv(pa.Table.from_arrays(columns, names=table.column_names), sink)
    return bytes(sink.getvalue())


def arrow_stream_bytes(table: Any) -> bytes:
    """The table as an Arrow IPC stream."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def parquet_bytes(table: Any) -> bytes:
    """The table as a Parquet file; intervals and unions, which Parquet has not, are text."""
    columns = [_text_column(column) if _unknown_to_parquet(column.type) else column for column in table.columns]
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_arrays(columns, unique_names(table.column_names)), sink, compression="zstd")
    return bytes(sink.getvalue())


def unique_names(names: Sequence[str]) -> list[str]:
    """The names, where a second ``a`` is called ``a_1``."""
    taken = set(names)
    seen: set[str] = set()
    unique = []
    for name in names:
        if name not in seen:
            unique.append(name)
        else:
            numbered = (f"{name}_{number}" for number in itertools.count(1))
            unique.append(next(candidate for candidate in numbered if candidate not in taken))
            taken.add(unique[-1])
        seen.add(unique[-1])
    return unique


def json_values(column: Any) -> list[Any]:
    """The values of an Arrow array or column, as JSON has them."""
    if isinstance(column, pa.ChunkedArray):
        return [value for chunk in column.chunks for value in json_values(chunk)]
    kind = column.type
    if isinstance(kind, pa.BaseExtensionType):
        return _extension(column)
    for matches, convert in _CONVERSIONS:
        if matches(kind):
            return convert(column)
    values: list[Any] = column.to_pylist()
    return values


def _extension(array: Any) -> list[Any]:
    if isinstance(array.type, pa.UuidType):
        return _each(array.storage, lambda raw: str(uuid.UUID(bytes=raw)))
    if isinstance(array.type, pa.JsonType):
        return _each(array.storage, _json)
    if isinstance(array.type, pa.Bool8Type):
        return _each(array.storage, bool)
    return json_values(array.storage)


def _each(array: Any, convert: Callable[[Any], Any]) -> list[Any]:
    return [None if value is None else convert(value) for value in array.to_pylist()]


def _json(value: str) -> Any:
    """A JSON value goes in as it is, on one line; DuckDB's JSON may also say NaN: such a value stays text."""
    try:
        return msgspec.Raw(msgspec.json.format(value.encode(), indent=-1))
    except msgspec.DecodeError:
        return value


def _floats(array: Any) -> list[Any]:
    if pa.types.is_float32(array.type):
        # Through text: the shortest digits that mean this FLOAT, not those of the nearest double.
        array = pc.cast(pc.cast(array, pa.string()), pa.float64())
    values: list[Any] = array.to_pylist()
    if pc.all(pc.is_finite(array), min_count=0).as_py() is False:
        return [_SPECIAL.get(str(value), value) for value in values]
    return values


_SPECIAL: Final = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}


def _decimals(array: Any) -> list[Any]:
    texts: list[Any] = pc.cast(array, pa.string()).to_pylist()
    if any(text is not None and "E" in text for text in texts):
        return _each(array, lambda value: f"{value:f}")
    return texts


def _blobs(array: Any) -> list[Any]:
    return _each(array, lambda raw: base64.b64encode(raw).decode())


def _dates(array: Any) -> list[Any]:
    days = array.view(pa.int32())
    if _within(days, _FIRST_DAY, _LAST_DAY):
        texts: list[Any] = pc.cast(array, pa.string()).to_pylist()
        return texts
    return _each(days, date_text)


def _timestamps(array: Any) -> list[Any]:
    ticks, per_second = array.view(pa.int64()), _UNITS[array.type.unit]
    zone = "" if array.type.tz is None else "Z"
    first, last = _FIRST_DAY * _DAY_S * per_second, (_LAST_DAY + 1) * _DAY_S * per_second - 1
    if not _within(ticks, first, last):
        return _each(ticks, lambda value: timestamp_text(value, per_second, zone))
    texts = pc.cast(ticks.view(pa.timestamp(array.type.unit)), pa.string())
    texts = _trimmed(pc.utf8_replace_slice(texts, 10, 11, "T"), array.type.unit)
    return [text and text + zone for text in texts.to_pylist()] if zone else list(texts.to_pylist())


def _times(array: Any) -> list[Any]:
    per_second = _UNITS[array.type.unit]
    ticks = array.view(pa.int64() if array.type.bit_width == 64 else pa.int32())  # noqa: PLR2004 - time64
    if _within(ticks, 0, _DAY_S * per_second - 1):
        return list(_trimmed(pc.cast(array, pa.string()), array.type.unit).to_pylist())
    return _each(ticks, lambda value: clock_text(value, per_second))


def _trimmed(texts: Any, unit: str) -> Any:
    """Without the zeros that end a fraction."""
    return texts if unit == "s" else pc.utf8_rtrim(pc.utf8_rtrim(texts, "0"), ".")


def _within(numbers: Any, first: int, last: int) -> bool:
    bounds = pc.min_max(numbers)
    least, greatest = bounds["min"].as_py(), bounds["max"].as_py()
    return least is None or (least >= first and greatest <= last)


def _intervals(array: Any) -> list[Any]:
    return _each(array, lambda value: duration_text(value.months, value.days, value.nanoseconds))


def _lists(array: Any) -> list[Any]:
    values, offsets = json_values(array.values), array.offsets.to_pylist()
    return _present(array, [values[start:end] for start, end in itertools.pairwise(offsets)])


def _fixed_lists(array: Any) -> list[Any]:
    size = array.type.list_size
    values = json_values(array.values.slice(array.offset * size, len(array) * size))
    return _present(array, [values[start : start + size] for start in range(0, len(array) * size, size)])


def _maps(array: Any) -> list[Any]:
    keys = [_key(key) for key in json_values(array.keys)]
    values, offsets = json_values(array.items), array.offsets.to_pylist()
    slices = itertools.pairwise(offsets)
    return _present(array, [dict(zip(keys[a:b], values[a:b], strict=True)) for a, b in slices])


def _key(value: Any) -> str:
    return value if isinstance(value, str) else _encode(value).decode()


def _structs(array: Any) -> list[Any]:
    names = [field.name for field in array.type]
    fields = [json_values(array.field(number)) for number in range(len(names))]
    rows: Iterable[tuple[Any, ...]] = zip(*fields, strict=True)
    if len(set(names)) != len(names) or names == [""]:
        return _present(array, [list(row) for row in rows])  # ROW(…) has no names for its fields
    return _present(array, [dict(zip(names, row, strict=True)) for row in rows])


def _unions(array: Any) -> list[Any]:
    fields = [json_values(array.field(number)) for number in range(array.type.num_fields)]
    position = {code: number for number, code in enumerate(array.type.type_codes)}
    return [fields[position[code]][row] for row, code in enumerate(array.type_codes.to_pylist())]


def _present(array: Any, values: list[Any]) -> list[Any]:
    if not array.null_count:
        return values
    valid = array.is_valid().to_pylist()
    return [value if there else None for value, there in zip(values, valid, strict=True)]


def _dictionaries(array: Any) -> list[Any]:
    return json_values(array.dictionary_decode())


_is = pa.types
_CONVERSIONS: Final[tuple[tuple[Callable[[Any], bool], Callable[[Any], list[Any]]], ...]] = (
    (_is.is_floating, _floats),
    (_is.is_decimal, _decimals),
    (_is.is_date32, _dates),
    (_is.is_timestamp, _timestamps),
    (_is.is_time, _times),
    (_is.is_binary, _blobs),
    (_is.is_large_binary, _blobs),
    (_is.is_fixed_size_binary, _blobs),
    (_is.is_interval, _intervals),
    (_is.is_map, _maps),
    (_is.is_fixed_size_list, _fixed_lists),
    (_is.is_list, _lists),
    (_is.is_large_list, _lists),
    (_is.is_struct, _structs),
    (_is.is_union, _unions),
    (_is.is_dictionary, _dictionaries),
)


def _csv_column(column: Any) -> Any:
    kind = column.type
    native = _is.is_integer(kind) or _is.is_boolean(kind) or _is.is_string(kind)
    return column if native else _text_column(column)


def _text_column(column: Any) -> Any:
    values = json_values(column)
    return pa.array([None if value is None else _key(value) for value in values], pa.string())


def _unknown_to_parquet(kind: Any) -> bool:
    if _is.is_interval(kind) or _is.is_union(kind):
        return True
    return any(_unknown_to_parquet(kind.field(number).type) for number in range(kind.num_fields))
