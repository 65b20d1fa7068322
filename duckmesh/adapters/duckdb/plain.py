"""Results without DuckDB's private Arrow types, and still without loss.

DuckDB is told to keep every value (``arrow_lossless_conversion``), and does so in extension types of its own.
Readers elsewhere do not know those: HUGEINT becomes ``decimal128(38, 0)``, UHUGEINT ``decimal256(39, 0)``, BOOLEAN
Arrow's, and BIT, BIGNUM and TIME WITH TIME ZONE the text that SQL shows. UUID and JSON stay
Arrow's canonical types.
"""

from collections.abc import Callable
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
from attrs import frozen

#: The greatest values have 39 digits; Arrow keeps them whole in the 128 bits, as DuckDB's own conversion does.
HUGEINT: Final = pa.decimal128(38, 0)
UHUGEINT: Final = pa.decimal256(39, 0)

_BIGNUM_HEADER: Final = 3
_BIGNUM_LENGTH: Final = 0x7FFFFF
_OFFSET_BITS: Final = 24
_MAX_OFFSET_S: Final = 16 * 3600 - 1


@frozen
class _Conversion:
    target: Any
    array: Callable[[Any], Any]


def plain_schema(schema: Any) -> Any:
    """The schema that `plain_batch` gives."""
    return pa.schema([field.with_type(_plain_type(field.type)) for field in schema])


def plain_batch(batch: Any, schema: Any) -> Any:
    """The batch with plain types; ``schema`` is that of `plain_schema`."""
    if batch.schema.equals(schema):
        return batch
    return pa.RecordBatch.from_arrays([_plain(column) for column in batch.columns], schema=schema)


def _plain_type(kind: Any) -> Any:
    conversion = _conversion(kind)
    if conversion is not None:
        return conversion.target
    if pa.types.is_struct(kind) or pa.types.is_union(kind):
        fields = [field.with_type(_plain_type(field.type)) for field in kind]
        return pa.struct(fields) if pa.types.is_struct(kind) else pa.union(fields, kind.mode, kind.type_codes)
    if pa.types.is_map(kind):
        return pa.map_(
            kind.key_field.with_type(_plain_type(kind.key_type)),
            kind.item_field.with_type(_plain_type(kind.item_type)),
        )
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(kind.value_field.with_type(_plain_type(kind.value_type)), kind.list_size)
    if pa.types.is_list(kind):
        return pa.list_(kind.value_field.with_type(_plain_type(kind.value_type)))
    return kind


def _plain(array: Any) -> Any:
    kind = array.type
    target = _plain_type(kind)
    if target.equals(kind):
        return array
    conversion = _conversion(kind)
    if conversion is not None:
        return conversion.array(array.storage)
    if array.offset:
        array = pa.concat_arrays([array])  # children and buffers then begin at the same row
    children = [_plain(child) for child in _children_of(array)]
    buffers = array.buffers()[: _OWN_BUFFERS.get(kind.id, 1)]
    return pa.Array.from_buffers(target, len(array), buffers, array.null_count, children=children)


_OWN_BUFFERS: Final = {pa.lib.Type_LIST: 2, pa.lib.Type_MAP: 2, pa.lib.Type_SPARSE_UNION: 2}


def _children_of(array: Any) -> list[Any]:
    kind = array.type
    if pa.types.is_map(kind):
        return [pa.StructArray.from_arrays([array.keys, array.items], fields=[kind.key_field, kind.item_field])]
    if pa.types.is_struct(kind) or pa.types.is_union(kind):
        return [array.field(number) for number in range(kind.num_fields)]
    return [array.values]


def _conversion(kind: Any) -> _Conversion | None:
    if isinstance(kind, pa.Bool8Type):
        return _Conversion(pa.bool_(), lambda storage: pc.cast(storage, pa.bool_()))
    if isinstance(kind, pa.OpaqueType):
        return _OPAQUE.get(kind.type_name)
    return None


def _hugeints(storage: Any) -> Any:
    return pa.Array.from_buffers(HUGEINT, len(storage), storage.buffers(), offset=storage.offset)


def _unsigned_hugeints(storage: Any) -> Any:
    values = [None if raw is None else int.from_bytes(raw, "little") for raw in storage.to_pylist()]
    return pa.array(values, UHUGEINT)


def _texts(read: Callable[[bytes], str]) -> Callable[[Any], Any]:
    def convert(storage: Any) -> Any:
        return pa.array([None if raw is None else read(raw) for raw in storage.to_pylist()], pa.string())

    return convert


def _bit(raw: bytes) -> str:
    """The first byte counts the bits that pad the second."""
    return "".join(f"{byte:08b}" for byte in raw[1:])[raw[0] :]


def _bignum(raw: bytes) -> str:
    """Three bytes of sign and length, then the magnitude; a negative number has every bit inverted."""
    negative = not raw[0] & 0x80
    digits = bytes(byte ^ 0xFF for byte in raw) if negative else raw
    return str(int.from_bytes(digits[_BIGNUM_HEADER:], "big") * (-1 if negative else 1))


def _time_with_zone(raw: bytes) -> str:
    """The upper 40 bits are microseconds, the lower 24 the offset, counted down from its maximum."""
    bits = int.from_bytes(raw, "little")
    offset = _MAX_OFFSET_S - (bits & ((1 << _OFFSET_BITS) - 1))
    return clock(bits >> _OFFSET_BITS) + _zone(offset)


def clock(micros: int) -> str:
    """A time of day in microseconds as ISO 8601, up to 24:00:00."""
    seconds, fraction = divmod(micros, 1_000_000)
    shown = f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}"
    return f"{shown}.{fraction:06}".rstrip("0") if fraction else shown


def _zone(offset: int) -> str:
    sign, seconds = ("-" if offset < 0 else "+"), abs(offset)
    shown = f"{sign}{seconds // 3600:02}:{seconds // 60 % 60:02}"
    return f"{shown}:{seconds % 60:02}" if seconds % 60 else shown


_OPAQUE: Final = {
    "hugeint": _Conversion(HUGEINT, _hugeints),
    "uhugeint": _Conversion(UHUGEINT, _unsigned_hugeints),
    "bit": _Conversion(pa.string(), _texts(_bit)),
    "bignum": _Conversion(pa.string(), _texts(_bignum)),
    "time_tz": _Conversion(pa.string(), _texts(_time_with_zone)),
}
