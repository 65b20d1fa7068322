"""Lists, structs and maps: their children are handled as columns of their own, so no value is walked twice."""

from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate, chain
from typing import Any, assert_never

import msgspec
import pyarrow as pa
from attrs import frozen

from duckmesh.app.ingest.values import (
    Codec,
    Misfit,
    Values,
    encode_extra,
    exact,
    nullable,
    scalar_codec,
)
from duckmesh.domain.errors import InvalidSchema
from duckmesh.domain.types import Decimal, ListOf, LogicalType, MapOf, Scalar, Struct
from duckmesh.ports.columns import arrow_type


def codec_for(logical: LogicalType) -> Codec:
    """The codec of a column's type; raises `InvalidSchema` when no payload could name a field of it."""
    match logical:
        case Scalar(kind):
            return scalar_codec(kind)
        case Decimal():
            return exact(logical)
        case ListOf(element):
            inner = codec_for(element)
            return Many(list[nullable(inner.wire)], arrow_type(logical), inner)  # type: ignore[misc]
        case Struct(fields):
            return _struct(logical, [(name, codec_for(kind)) for name, kind in fields])
        case MapOf(key, value):
            inner = codec_for(value)
            return Pairs(dict[str, nullable(inner.wire)], arrow_type(logical), codec_for(key), inner)  # type: ignore[misc]
        case _:
            assert_never(logical)


def over_present(values: Values, convert: Callable[[Values], Values]) -> Values:
    """``convert`` on the values that are not null; the nulls keep their places."""
    if type(None) not in set(map(type, values)):
        return convert(values)
    converted = iter(convert([value for value in values if value is not None]))
    return [None if value is None else next(converted) for value in values]


@frozen(eq=False)
class Many(Codec):
    """A list."""

    element: Codec

    def typed(self, values: Values) -> Values:
        """Lists of typed elements."""
        if self.element.native:
            return values
        flat = iter(_within("[]", self.element, list(chain.from_iterable(values))))
        return [[next(flat) for _ in value] for value in values]

    def arrow(self, values: Values) -> Any:
        """Offsets into one array of elements."""
        flat = self.element.arrow(list(chain.from_iterable(value for value in values if value)))
        return pa.ListArray.from_arrays(_offsets(values), flat, type=self.kind)


@frozen(eq=False)
class Record(Codec):
    """A struct; a field that is left out is null. Typed values are tuples in the order of the fields."""

    names: tuple[str, ...]
    members: tuple[Codec, ...]

    def typed(self, values: Values) -> Values:
        """Tuples of typed members."""
        rows = map(msgspec.structs.astuple, values)
        columns = zip(*rows, strict=True) if values else ((),) * len(self.members)
        parts = zip(self.names, self.members, columns, strict=True)
        return list(zip(*(_within(f".{name}", codec, column) for name, codec, column in parts), strict=True))

    def arrow(self, values: Values) -> Any:
        """One array a member."""
        blank = (None,) * len(self.members)
        columns = list(zip(*(blank if value is None else value for value in values), strict=True))
        arrays = [codec.arrow(columns[place] if columns else ()) for place, codec in enumerate(self.members)]
        mask = pa.array([value is None for value in values], pa.bool_())
        return pa.StructArray.from_arrays(arrays, fields=list(self.kind), mask=mask)


@frozen(eq=False)
class Pairs(Codec):
    """A map. Typed values are lists of (key, value) in an order that depends on the keys alone."""

    key: Codec
    value: Codec

    def typed(self, values: Values) -> Values:
        """Ordered lists of typed keys and values."""
        texts = list(chain.from_iterable(values))
        keys = iter(_within("[key]", self.key, [_parsed_key(self.key.wire, text) for text in texts]))
        items = iter(_within("[]", self.value, list(chain.from_iterable(value.values() for value in values))))
        return [_ordered([(next(keys), next(items)) for _ in value]) for value in values]

    def arrow(self, values: Values) -> Any:
        """Offsets into one array of keys and one of values."""
        pairs = list(chain.from_iterable(value for value in values if value))
        keys = self.key.arrow([key for key, _ in pairs])
        items = self.value.arrow([item for _, item in pairs])
        return pa.MapArray.from_arrays(_offsets(values), keys, items, type=self.kind)


def _within(step: str, codec: Codec, values: Values) -> Values:
    try:
        return values if codec.native else over_present(values, codec.typed)
    except Misfit as error:
        raise Misfit(error.reason, step + error.path) from error


def _offsets(values: Iterable[Any]) -> Any:
    """Where each list begins; a null stands where a list is null."""
    lengths = [None if value is None else len(value) for value in values]
    starts = accumulate(chain((0,), (length or 0 for length in lengths)))
    marked = [None if length is None else start for length, start in zip(lengths, starts, strict=False)]
    return pa.array([*marked, sum(length or 0 for length in lengths)], pa.int32())


def _parsed_key(wire: Any, text: str) -> Any:
    """A map's key, which JSON can only write as a text, read in the form that the key's type has as a value."""
    spelled = msgspec.json.encode(text)
    try:
        return msgspec.json.decode(spelled, type=wire)
    except msgspec.ValidationError:
        pass
    try:
        return msgspec.json.decode(text, type=wire)
    except (msgspec.DecodeError, RecursionError) as error:
        raise Misfit(f"the key {text[:80]!r} does not fit: {str(error).replace('`', '')}", "[key]") from error


_KEY_FORM = msgspec.msgpack.Encoder(enc_hook=encode_extra).encode


def _ordered(pairs: list[tuple[Any, Any]]) -> list[tuple[Any, Any]]:
    forms = {_KEY_FORM(key): (key, item) for key, item in pairs}
    if len(forms) != len(pairs):
        raise Misfit("a key stands twice in the map", "[key]")
    if any(key is None for key, _ in pairs):
        raise Misfit("a key of a map cannot be null", "[key]")
    return [forms[form] for form in sorted(forms)]


def _struct(logical: Struct, members: Sequence[tuple[str, Codec]]) -> Record:
    # Fields are f0, f1, … to Python, whatever their names are.
    fields = [(f"f{place}", nullable(codec.wire), None) for place, (_, codec) in enumerate(members)]
    names = tuple(name for name, _ in members)
    codecs = tuple(codec for _, codec in members)
    try:
        wire = payload_struct("Struct", fields, names)
    except ValueError as error:
        raise InvalidSchema(
            f"type {logical} has a field whose name contains a quote, a backslash or a control character",
            type=str(logical),
        ) from error
    return Record(wire, arrow_type(logical), names, codecs)


def payload_struct(title: str, fields: Sequence[tuple[str, Any, Any]], names: Sequence[str]) -> Any:
    """A msgspec struct whose n-th field is called ``names[n]`` in JSON; unknown fields are refused."""
    renamed = {field[0]: name for field, name in zip(fields, names, strict=True)}
    return msgspec.defstruct(title, fields, rename=renamed, kw_only=True, forbid_unknown_fields=True, gc=False)
