"""What an Arrow array says, as a digest: the same for the same values, however they are chunked or sliced."""

import struct
from typing import Any, Protocol

import pyarrow as pa
import pyarrow.compute as pc


class Digest(Protocol):
    """A hash that takes bytes."""

    def update(self, data: Any, /) -> None:
        """Take more bytes."""


def feed(digest: Digest, array: Any) -> None:
    """Add an array of one of the log's types: its length, which rows are null, and the values of the others."""
    digest.update(struct.pack("<qq", len(array), array.null_count))
    present = array
    if array.null_count:
        digest.update(_fixed(array.is_valid().cast(pa.uint8())))
        present = array.drop_null()
    _values(digest, present.storage if isinstance(present, pa.ExtensionArray) else present)


def _values(digest: Digest, array: Any) -> None:
    kind = array.type
    if pa.types.is_map(kind):
        _map(digest, array)
    elif pa.types.is_list(kind):
        digest.update(_fixed(pc.list_value_length(array)))
        feed(digest, array.flatten())
    elif pa.types.is_struct(kind):
        for place in range(kind.num_fields):
            feed(digest, array.field(place))
    elif pa.types.is_string(kind) or pa.types.is_binary(kind):
        digest.update(_fixed(pc.binary_length(array)))
        digest.update(_text(array))
    elif pa.types.is_boolean(kind):
        digest.update(_fixed(array.cast(pa.uint8())))
    else:
        digest.update(_fixed(_one_nan(array) if pa.types.is_floating(kind) else array))


def _map(digest: Digest, array: Any) -> None:
    trimmed = array.take(pa.array(range(len(array)), pa.int64()))
    digest.update(_fixed(trimmed.offsets))
    feed(digest, trimmed.keys)
    feed(digest, trimmed.items)


def _one_nan(array: Any) -> Any:
    """NaN has many forms in bits and one meaning."""
    lost = pc.is_nan(array)
    return pc.if_else(lost, pa.scalar(float("nan"), array.type), array) if pc.any(lost).as_py() else array


def _fixed(array: Any) -> memoryview:
    """The values of an array of fixed width and without nulls."""
    width = array.type.bit_width // 8
    buffer = array.buffers()[1]
    if buffer is None or not len(array):
        return memoryview(b"")
    return memoryview(buffer)[array.offset * width : (array.offset + len(array)) * width]


def _text(array: Any) -> memoryview:
    """The bytes of all values of a text or binary array, one after the other."""
    _, offsets, data = array.buffers()
    if data is None or not len(array):
        return memoryview(b"")
    (first,) = struct.unpack_from("<i", offsets, 4 * array.offset)
    (last,) = struct.unpack_from("<i", offsets, 4 * (array.offset + len(array)))
    return memoryview(data)[first:last]
