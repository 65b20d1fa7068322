"""Arrow arrays of other systems as a table's types: widened, narrowed and rescaled where nothing is lost.

All is vectorised; the row of a misfit is found by bisection, after the fact.
"""

from collections.abc import Callable, Sequence
from typing import Any, Final, assert_never

import pyarrow as pa
import pyarrow.compute as pc

from duckmesh.app.ingest.values import Misfit, scalar_codec
from duckmesh.domain.names import fold
from duckmesh.domain.types import INTEGER_RANGES, Decimal, Kind, ListOf, LogicalType, MapOf, Scalar, Struct
from duckmesh.ports.columns import arrow_type

_is = pa.types
#: Bytes of one view.
_VIEW: Final = 16


def fit(array: Any, logical: LogicalType, max_bytes: int) -> Any:
    """The values of ``array`` as exactly the Arrow type of ``logical``; raises `Misfit` rather than lose any.

    Encodings that repeat a value (dictionaries, views) may not grow beyond ``max_bytes``.
    """
    if _is.is_null(array.type):
        return pa.nulls(len(array), arrow_type(logical))
    match logical:
        case Scalar(kind):
            return _scalar(_plain(array, max_bytes), kind)
        case Decimal():
            return _decimal(_plain(array, max_bytes), logical)
        case ListOf() | Struct() | MapOf():
            if array.null_count == 0:
                return _nested(array, logical, max_bytes)
            return _nested(array.drop_null(), logical, max_bytes).take(_places(array))
        case _:
            assert_never(logical)


def first_misfit(array: Any, attempt: Callable[[Any], object]) -> tuple[int, Misfit]:
    """The first row at which ``attempt`` raises `Misfit`, and what it raises there; some row must."""
    good, bad = 0, len(array)
    while bad - good > 1:
        middle = (good + bad) // 2
        try:
            attempt(array.slice(good, middle - good))
            good = middle
        except Misfit:
            bad = middle
    try:
        attempt(array.slice(good, 1))
    except Misfit as error:
        return good, error
    raise AssertionError("no single row is the misfit")


def _places(array: Any) -> Any:
    """For each row its place among the rows that are not null, or null."""
    valid = array.is_valid()
    counted = pc.subtract(pc.cumulative_sum(valid.cast(pa.int32())), 1)
    return pc.if_else(valid, counted, pa.scalar(None, pa.int32()))


def _nested(array: Any, logical: ListOf | Struct | MapOf, max_bytes: int) -> Any:
    """A nested array without nulls of its own."""
    match logical:
        case ListOf(element):
            return _list(array, element, arrow_type(logical), max_bytes)
        case Struct(fields):
            return _struct(array, fields, arrow_type(logical), max_bytes)
        case MapOf(key, value):
            return _map(array, key, value, arrow_type(logical), max_bytes)
        case _:
            assert_never(logical)


def _list(array: Any, element: LogicalType, target: Any, max_bytes: int) -> Any:
    if not (_is.is_list(array.type) or _is.is_large_list(array.type) or _is.is_fixed_size_list(array.type)):
        raise _wrong(array.type, "a list")
    values = _within("[]", lambda: fit(array.flatten(), element, max_bytes))
    ends = pc.cumulative_sum(pc.list_value_length(array).cast(pa.int64()))
    offsets = pa.concat_arrays([pa.array([0], pa.int64()), ends]).cast(pa.int32())
    return pa.ListArray.from_arrays(offsets, values, type=target)


def _struct(array: Any, fields: Sequence[tuple[str, LogicalType]], target: Any, max_bytes: int) -> Any:
    if not _is.is_struct(array.type):
        raise _wrong(array.type, "a struct")
    sent = {fold(array.type.field(place).name): place for place in range(array.type.num_fields)}
    unknown = sorted(set(sent) - {fold(name) for name, _ in fields})
    if unknown or len(sent) != array.type.num_fields:
        raise Misfit(f"unknown field {unknown[0][:80]!r}" if unknown else "a field is named twice")
    children = [_field(array, sent.get(fold(name)), name, kind, max_bytes) for name, kind in fields]
    return pa.StructArray.from_arrays(children, fields=list(target), mask=pa.repeat(False, len(array)))


def _field(array: Any, place: int | None, name: str, kind: LogicalType, max_bytes: int) -> Any:
    if place is None:
        return pa.nulls(len(array), arrow_type(kind))
    return _within(f".{name}", lambda: fit(array.field(place), kind, max_bytes))


def _map(array: Any, key: LogicalType, value: LogicalType, target: Any, max_bytes: int) -> Any:
    if not _is.is_map(array.type):
        raise _wrong(array.type, "a map")
    trimmed = array.take(pa.array(range(len(array)), pa.int64()))
    keys = _within("[key]", lambda: fit(trimmed.keys, key, max_bytes))
    items = _within("[]", lambda: fit(trimmed.items, value, max_bytes))
    if keys.null_count:
        raise Misfit("a key of a map cannot be null", "[key]")
    _refuse_repeated_keys(trimmed.offsets, keys)
    return pa.MapArray.from_arrays(trimmed.offsets, keys, items, type=target)


def _refuse_repeated_keys(offsets: Any, keys: Any) -> None:
    stored = keys.storage if isinstance(keys, pa.ExtensionArray) else keys
    maps = pc.list_parent_indices(pa.ListArray.from_arrays(offsets, stored))
    pairs = pa.table({"map": maps, "key": stored})
    if pairs.group_by(["map", "key"]).aggregate([]).num_rows != len(keys):
        raise Misfit("a key stands twice in the map", "[key]")


def _within(step: str, attempt: Callable[[], Any]) -> Any:
    try:
        return attempt()
    except Misfit as error:
        raise Misfit(error.reason, step + error.path) from error


def _wrong(found: Any, wanted: str) -> Misfit:
    return Misfit(f"wrong type: Arrow {str(found)[:80]} cannot become {wanted} without loss")


def _plain(array: Any, max_bytes: int) -> Any:
    """The array without dictionary, views or an extension around its storage."""
    kind = array.type
    if _is.is_dictionary(kind):
        values = _plain(array.dictionary, max_bytes)
        if _is.is_nested(values.type):
            raise _wrong(kind, "plain values")
        if _has_lengths(values.type):
            _check_growth(pc.binary_length(values).take(array.indices), max_bytes)
        return values.take(array.indices)
    if _is.is_string_view(kind) or _is.is_binary_view(kind):
        array = _clean_views(array)
        _check_growth(_view_lengths(array), max_bytes)
        return array.cast(pa.large_string() if _is.is_string_view(kind) else pa.large_binary())
    return array.storage if isinstance(array, pa.ExtensionArray) else array


def _has_lengths(kind: Any) -> bool:
    return bool(_is.is_string(kind) or _is.is_large_string(kind) or _is.is_binary(kind) or _is.is_large_binary(kind))


def _clean_views(array: Any) -> Any:
    """The array with empty views under its nulls, where validation does not look and the cast does."""
    if not array.null_count:
        return array
    validity, views, *data = array.buffers()
    raw = pa.Array.from_buffers(pa.binary(_VIEW), len(array), [None, views], offset=array.offset)
    valid = array.is_valid()
    cleaned = pc.if_else(valid, raw, pa.scalar(bytes(_VIEW), pa.binary(_VIEW)))
    bitmap = pc.and_(valid, valid).buffers()[1] if array.offset else validity
    return pa.Array.from_buffers(array.type, len(array), [bitmap, cleaned.buffers()[1], *data])


def _view_lengths(array: Any) -> Any:
    """Lengths of a view array's values: the first of the four 32-bit integers of each view."""
    buffer = array.buffers()[1]
    integers = pa.Array.from_buffers(pa.int32(), buffer.size // 4, [None, buffer])
    start = 4 * array.offset
    return integers.take(pa.array(range(start, start + 4 * len(array), 4), pa.int64()))


def _check_growth(lengths: Any, max_bytes: int) -> None:
    if (pc.sum(lengths.cast(pa.int64())).as_py() or 0) > max_bytes:
        raise Misfit(f"repeated values grow beyond {max_bytes} bytes")


def _decimal(array: Any, logical: Decimal) -> Any:
    kind = array.type
    if _is.is_integer(kind):
        array = _cast(array, pa.decimal128(20, 0), logical)
    elif not _is.is_decimal(kind):
        raise _wrong(kind, str(logical))
    return _cast(array, arrow_type(logical), logical)


def _cast(array: Any, target: Any, logical: LogicalType) -> Any:
    """A checked cast: Arrow refuses overflow, and digits or fractions that would be cut."""
    try:
        return array if array.type.equals(target) else array.cast(target, safe=True)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        reason = str(error).split("\n", 1)[0][:200]
        raise Misfit(f"overflow or loss of precision: {reason} (the column is {logical})") from error


def _scalar(array: Any, kind: Kind) -> Any:
    sources, convert = _RULES[kind]
    if not any(accepts(array.type) for accepts in sources):
        raise _wrong(array.type, kind.value)
    return convert(array, kind)


def _checked(array: Any, kind: Kind) -> Any:
    return _cast(array, arrow_type(Scalar(kind)), Scalar(kind))


def _single(array: Any, kind: Kind) -> Any:
    """FLOAT; a double must be one of its values, since a rounded one is another number to its sender."""
    if not _is.is_float64(array.type):
        return _checked(array, kind)
    narrow = array.cast(pa.float32())
    same = pc.or_(pc.equal(narrow.cast(pa.float64()), array), pc.is_nan(array))
    if pc.all(same).as_py() is False:
        raise Misfit("overflow or loss of precision: a double is not exact in FLOAT")
    return narrow


def _bounded(array: Any, kind: Kind) -> Any:
    """Dates and times of the years 1 to 9999, so that every client can hold them."""
    stamped = _checked(array, kind)
    least, most = _BOUNDS[kind]
    storage = stamped.view(pa.int32() if kind is Kind.DATE else pa.int64())
    found = pc.min_max(storage).as_py()
    if found["min"] is not None and not (least <= found["min"] and found["max"] <= most):
        raise Misfit(f"overflow: the year of a {kind.value} must be 1 to 9999")
    return stamped


def _identifier(array: Any, kind: Kind) -> Any:
    if _has_lengths(array.type):
        texts = array.to_pylist()
        valid = pc.all(pc.match_substring_regex(array, _UUID_TEXT)).as_py()
        if valid is False:
            raise Misfit("not a UUID such as 123e4567-e89b-12d3-a456-426614174000")
        raw = [None if text is None else bytes.fromhex(text.replace("-", "")) for text in texts]
        array = pa.array(raw, pa.binary(16))
    return arrow_type(Scalar(kind)).wrap_array(array)


def _json(array: Any, kind: Kind) -> Any:
    codec = scalar_codec(kind)
    texts = iter(codec.typed([text.encode() for text in array.to_pylist() if text is not None]))
    return codec.arrow([next(texts) if valid else None for valid in array.is_valid().to_pylist()])


_UUID_TEXT: Final = r"^[0-9a-fA-F]{8}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{4}-[0-9a-fA-F]{12}$"
_DAYS: Final = (-719_162, 2_932_896)
_DAY_US: Final = 86_400_000_000
_INSTANTS: Final = (_DAYS[0] * _DAY_US, (_DAYS[1] + 1) * _DAY_US - 1)
_BOUNDS: Final = {Kind.DATE: _DAYS, Kind.TIMESTAMP: _INSTANTS, Kind.TIMESTAMPTZ: _INSTANTS}
_TEXT: Final = (_is.is_string, _is.is_large_string)


def _naive(kind: Any) -> bool:
    return bool(_is.is_timestamp(kind) and kind.tz is None)


def _zoned(kind: Any) -> bool:
    return bool(_is.is_timestamp(kind) and kind.tz is not None)


def _sixteen(kind: Any) -> bool:
    return bool(_is.is_fixed_size_binary(kind) and kind.byte_width == 16)  # noqa: PLR2004 - the size of a UUID


_Rule = tuple[Sequence[Callable[[Any], bool]], Callable[[Any, Kind], Any]]
_RULES: Final[dict[Kind, _Rule]] = {
    **dict.fromkeys(INTEGER_RANGES, ((_is.is_integer,), _checked)),
    Kind.DOUBLE: ((_is.is_floating, _is.is_integer), _checked),
    Kind.FLOAT: ((_is.is_floating, _is.is_integer), _single),
    Kind.BOOLEAN: ((_is.is_boolean,), _checked),
    Kind.VARCHAR: (_TEXT, _checked),
    Kind.BLOB: ((_is.is_binary, _is.is_large_binary, _is.is_fixed_size_binary), _checked),
    Kind.DATE: ((_is.is_date,), _bounded),
    Kind.TIME: ((_is.is_time,), _checked),
    Kind.TIMESTAMP: ((_naive,), _bounded),
    Kind.TIMESTAMPTZ: ((_zoned,), _bounded),
    Kind.UUID: ((_sixteen, *_TEXT), _identifier),
    Kind.JSON: (_TEXT, _json),
}
