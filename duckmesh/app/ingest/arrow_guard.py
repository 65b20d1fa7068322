"""What an Arrow stream will cost, read from its message headers before anything is decompressed or allocated.

Twelve kilobytes of compressed Arrow can grow to hundreds of megabytes. The header of each message (a FlatBuffer,
see the Arrow columnar format, "Encapsulated message format" and ``Message.fbs``) lists the message's buffers, and
each compressed buffer begins with the length that it grows to.
"""

import struct
from collections.abc import Iterator
from typing import Any, Final

import pyarrow as pa
from attrs import field, frozen, validators

from duckmesh.domain.errors import InvalidRequest, PayloadTooLarge


@frozen
class ArrowLimits:
    """Bounds of one body: bytes after decompression, rows, and messages (batches and dictionaries)."""

    max_bytes: int = field(default=256 * 1024 * 1024, validator=validators.ge(1))
    max_rows: int = field(default=1_000_000, validator=validators.ge(1))
    max_messages: int = field(default=20_000, validator=validators.ge(1))


#: What a hostile stream makes Arrow or the reading of headers raise.
BROKEN: Final = (pa.ArrowException, ValueError, TypeError, OverflowError, OSError, EOFError, struct.error)
#: An array may not be longer than the cap in words of this size: some kinds of arrays have no buffers at all.
_WORD: Final = 8
_UNCOMPRESSED: Final = -1
#: Over what a table's type can nest, a list being two levels when it is a map.
_MAX_DEPTH: Final = 32


def guarded_schema(body: bytes, limits: ArrowLimits) -> Any:
    """The stream's schema, after all of its messages were found to be within the limits.

    Raises `PayloadTooLarge` that names the limit, and `InvalidRequest` when the body is no Arrow stream.
    """
    try:
        messages = pa.ipc.MessageReader.open_stream(pa.py_buffer(body))
        first = messages.read_next_message()
        if first.type != "schema":
            raise InvalidRequest("the body is not an Arrow stream: it does not begin with a schema", reason="no schema")
        _check_messages(messages, limits)
        schema = pa.ipc.read_schema(first)
        _check_names(schema)
        for field_type in schema.types:
            _check_type(field_type)
    except StopIteration as error:
        raise InvalidRequest("the body is not an Arrow stream: it is empty", reason="no schema") from error
    except BROKEN as error:
        raise broken(error) from error
    return schema


def broken(error: BaseException) -> InvalidRequest:
    """The error for a stream that Arrow cannot read."""
    reason = str(error).split("\n", 1)[0][:200]
    return InvalidRequest(f"the body is not a valid Arrow stream: {reason}", reason=reason)


def _check_names(schema: Any) -> None:
    if not all(schema.names):  # reading a name fails when it is not UTF-8
        raise InvalidRequest("the Arrow stream has a column without a name", reason="no name")


_is = pa.types
_LEAVES: Final = (
    _is.is_null, _is.is_boolean, _is.is_integer, _is.is_floating, _is.is_date, _is.is_time, _is.is_timestamp,
    _is.is_string, _is.is_large_string, _is.is_string_view, _is.is_binary, _is.is_large_binary, _is.is_binary_view,
)  # fmt: skip
_BRANCHES: Final = (_is.is_list, _is.is_large_list, _is.is_fixed_size_list, _is.is_struct, _is.is_map)


def _check_type(kind: Any, depth: int = 0) -> None:
    """Only types that a column can come from, with parameters that make sense: Arrow's kernels trust them."""
    if depth > _MAX_DEPTH:
        raise InvalidRequest("a column of the Arrow stream is nested too deeply", reason="nested too deeply")
    if isinstance(kind, pa.BaseExtensionType):
        _check_type(kind.storage_type, depth + 1)
    elif _is.is_dictionary(kind):
        _check_type(kind.value_type, depth + 1)
    elif any(accepts(kind) for accepts in _BRANCHES):
        for place in range(kind.num_fields):
            _check_type(kind.field(place).type, depth + 1)
    elif not (any(accepts(kind) for accepts in _LEAVES) or _is_sound(kind)):
        reason = f"columns of Arrow type {str(kind)[:80]} are not read"
        raise InvalidRequest(f"the Arrow stream: {reason}", reason=reason)


def _is_sound(kind: Any) -> bool:
    """Whether a type with parameters has possible ones."""
    if _is.is_decimal(kind):
        return bool(0 <= kind.scale <= kind.precision)
    return bool(_is.is_fixed_size_binary(kind) and kind.byte_width > 0)


def _check_messages(messages: Any, limits: ArrowLimits) -> None:
    grown = rows = values = 0
    for number, message in enumerate(_rest(messages)):
        if message.type not in {"record batch", "dictionary"}:
            raise InvalidRequest(f"an Arrow stream has no message of type {message.type!r} here", reason="message")
        header = _Header(message)
        grown += header.grown_bytes()
        values += header.values()
        rows += header.rows if message.type == "record batch" else 0
        _check("max_messages", number + 1, limits.max_messages)
        _check("max_rows", rows, limits.max_rows)
        _check("max_bytes", max(grown, values * _WORD), limits.max_bytes)


def _rest(messages: Any) -> Iterator[Any]:
    while True:
        try:
            yield messages.read_next_message()
        except StopIteration:
            return


def _check(name: str, found: int, limit: int) -> None:
    if found > limit:
        what = {"max_bytes": "bytes after decompression", "max_rows": "rows", "max_messages": "messages"}[name]
        raise PayloadTooLarge(f"the Arrow body has more than {limit} {what}; send several", limit=limit, found=found)


class _Header:
    """The header of a record batch, or of the batch inside a dictionary message."""

    def __init__(self, message: Any) -> None:
        self._data = bytes(message.metadata)
        self._body = memoryview(message.body)
        root = self._number("<I", 0)
        batch = self._table(self._field(root, 2))
        if message.type == "dictionary":
            batch = self._table(self._field(batch, 1))
        length = self._field(batch, 0)
        self.rows = self._number("<q", length) if length else 0
        self._nodes = self._pairs(self._field(batch, 1))
        self._buffers = self._pairs(self._field(batch, 2))
        self._compressed = bool(self._field(batch, 3))
        if self.rows < 0 or any(count < 0 or nulls < 0 for count, nulls in self._nodes):
            raise ValueError("a negative length")

    def values(self) -> int:
        """The lengths of all arrays, nested ones included."""
        return sum(count for count, _ in self._nodes)

    def grown_bytes(self) -> int:
        """The bytes of all buffers once they are decompressed."""
        return sum(self._grown(start, size) for start, size in self._buffers)

    def _grown(self, start: int, size: int) -> int:
        if start < 0 or size < 0 or start + size > len(self._body):
            raise ValueError("a buffer lies outside of its message")
        if not self._compressed or not size:
            return size
        (grown,) = struct.unpack_from("<q", self._body, start)
        if grown < _UNCOMPRESSED:
            raise ValueError("a negative length of a compressed buffer")
        return size if grown == _UNCOMPRESSED else int(grown)

    def _number(self, layout: str, place: int) -> int:
        if place < 0:
            raise ValueError("an offset points outside of the header")
        return int(struct.unpack_from(layout, self._data, place)[0])

    def _table(self, place: int) -> int:
        return place + self._number("<I", place)

    def _field(self, table: int, number: int) -> int:
        """Where a table's n-th field is, or 0 when it has none."""
        directory = table - self._number("<i", table)
        entry = 4 + 2 * number
        if entry >= self._number("<H", directory):
            return 0
        offset = self._number("<H", directory + entry)
        return table + offset if offset else 0

    def _pairs(self, place: int) -> list[tuple[int, int]]:
        """A vector of structs of two 64-bit integers each."""
        if not place:
            return []
        vector = self._table(place)
        count = self._number("<I", vector)
        flat = struct.unpack_from(f"<{2 * count}q", self._data, vector + 4) if count * 16 <= len(self._data) else None
        if flat is None:
            raise ValueError("a vector is longer than the header")
        return list(zip(flat[::2], flat[1::2], strict=True))
