"""How values of the scalar types come in: what the JSON decoder takes, what is checked after it, how Arrow is made.

A `Codec` works on whole columns. Its ``wire`` annotation lets the JSON decoder refuse most misfits natively, with
the path to the record; ``typed`` settles what an annotation cannot say; ``arrow`` cannot fail on what ``typed``
returned.
"""

import decimal
import struct
from collections.abc import Sequence
from datetime import UTC, date, datetime, time
from math import isinf
from typing import Annotated, Any, Final, Literal, Optional
from uuid import UUID

import msgspec
import pyarrow as pa
from attrs import frozen
from msgspec import Meta

from duckmesh.domain.types import INTEGER_RANGES, Decimal, Kind, Scalar
from duckmesh.ports.columns import INSTANT, arrow_type

Values = Sequence[Any]


class Misfit(Exception):
    """A value does not fit its type. ``path`` leads from the column into a nested value, and is often empty."""

    def __init__(self, reason: str, path: str = "") -> None:
        super().__init__(reason)
        self.reason = reason
        self.path = path


@frozen(eq=False)
class Codec:
    """A type whose values the JSON decoder validates in full. ``kind`` is the Arrow type of the column."""

    wire: Any
    kind: Any

    @property
    def native(self) -> bool:
        """Whether ``typed`` has nothing to do."""
        return type(self).typed is Codec.typed

    def typed(self, values: Values) -> Values:
        """Decoded values (no nulls among them) in their one canonical form; raises `Misfit`."""
        return values

    def arrow(self, values: Values) -> Any:
        """An Arrow array of typed values and nulls."""
        return pa.array(values, self.kind)


@frozen(eq=False)
class UnsignedBig(Codec):
    """UBIGINT, whose upper bound is over what an annotation can say."""

    def typed(self, values: Values) -> Values:
        """Refuse what is beyond 64 bits."""
        _, most = INTEGER_RANGES[Kind.UBIGINT]
        if values and max(values) > most:
            raise Misfit(f"overflow: UBIGINT holds at most {most}")
        return values


NON_FINITE: Final = {"NaN": float("nan"), "Infinity": float("inf"), "-Infinity": float("-inf")}
_NUMBER: Final = int | float | Literal["NaN", "Infinity", "-Infinity"]


@frozen(eq=False)
class Double(Codec):
    """DOUBLE: any number's nearest double, but an integer only when it is one exactly."""

    def typed(self, values: Values) -> Values:
        """Doubles; raises `Misfit` for integers that are none."""
        if set(map(type, values)) <= {float}:
            return values
        return [value if type(value) is float else _exact_double(value) for value in values]


def _exact_double(value: int | str) -> float:
    if isinstance(value, str):
        return NON_FINITE[value]
    try:
        nearest = float(value)
    except OverflowError as error:
        raise Misfit("overflow: the number is beyond DOUBLE") from error
    if int(nearest) != value:
        raise Misfit(f"loss of precision: the integer {value} is not exact in DOUBLE; send it as 1.0e3 to round it")
    return nearest


@frozen(eq=False)
class Single(Double):
    """FLOAT: as DOUBLE, in 32 bits; beyond its range is an overflow and never an infinity."""

    def typed(self, values: Values) -> Values:
        """Doubles with the value of the nearest 32-bit number."""
        layout = f"{len(values)}f"
        try:
            rounded = struct.unpack(layout, struct.pack(layout, *Double.typed(self, values)))
        except OverflowError as error:
            raise Misfit("overflow: the number is beyond FLOAT") from error
        for sent, kept in zip(values, rounded, strict=True):
            if isinf(kept) and sent not in NON_FINITE:
                raise Misfit("overflow: the number is beyond FLOAT")
            if type(sent) is int and int(kept) != sent:
                raise Misfit(f"loss of precision: the integer {sent} is not exact in FLOAT")
        return [NON_FINITE["NaN"] if value != value else value for value in rounded]  # noqa: PLR0124 - finds NaN


@frozen(eq=False)
class Exact(Codec):
    """DECIMAL: a number or a text that fits without rounding."""

    logical: Decimal
    context: decimal.Context
    step: decimal.Decimal

    def typed(self, values: Values) -> Values:
        """Decimals of the scale; a negative zero becomes zero."""
        plus, quantize, step = self.context.plus, self.context.quantize, self.step
        if any(map(decimal.Decimal.is_nan, values)):
            raise Misfit(f"{self.logical} has no NaN")
        try:
            return [plus(quantize(value, step)) for value in values]
        except decimal.Inexact as error:
            scale = self.logical.scale
            raise Misfit(f"loss of precision: {self.logical} keeps {scale} digits behind the point") from error
        except decimal.InvalidOperation as error:
            digits = self.logical.precision - self.logical.scale
            raise Misfit(f"overflow: {self.logical} holds {digits} digits before the point") from error


def exact(logical: Decimal) -> Exact:
    """The codec of a DECIMAL; its context traps every loss."""
    context = decimal.Context(
        prec=logical.precision,
        Emax=decimal.MAX_EMAX,
        Emin=decimal.MIN_EMIN,
        traps=[decimal.Inexact, decimal.InvalidOperation],
    )
    step = decimal.Decimal(1).scaleb(-logical.scale)
    return Exact(decimal.Decimal, arrow_type(logical), logical, context, step)


_EPOCH: Final = datetime(1970, 1, 1)  # noqa: DTZ001 - a TIMESTAMP has no zone
_EPOCH_UTC: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST: Final = datetime.min.replace(tzinfo=UTC)
_LAST: Final = datetime.max.replace(tzinfo=UTC)


@frozen(eq=False)
class Moment(Codec):
    """TIMESTAMP, to the microsecond. Durations since the epoch reach Arrow faster than moments do."""

    epoch: datetime

    def arrow(self, values: Values) -> Any:
        """Microseconds since the epoch."""
        epoch = self.epoch
        since = [None if value is None else value - epoch for value in values]
        return pa.array(since, pa.duration("us")).view(pa.int64()).view(self.kind)


@frozen(eq=False)
class Instant(Moment):
    """TIMESTAMPTZ; the year counts in UTC."""

    def typed(self, values: Values) -> Values:
        """Refuse years outside of 1 to 9999."""
        if values and (min(values) < _FIRST or max(values) > _LAST):
            raise Misfit("overflow: in UTC the year must be 1 to 9999")
        return values


@frozen(eq=False)
class Identifier(Codec):
    """UUID, as 16 bytes."""

    def arrow(self, values: Values) -> Any:
        """The UUID extension type."""
        stored = [None if value is None else value.int.to_bytes(16, "big") for value in values]
        return self.kind.wrap_array(pa.array(stored, pa.binary(16)))


class JsonText:
    """A JSON value: the compact text that is stored, and the form in which it is compared.

    A plain class on purpose: the content encoder writes attrs classes by itself, text and all.
    """

    __slots__ = ("canonical", "text")

    def __init__(self, text: str, canonical: bytes) -> None:
        self.text = text
        self.canonical = canonical

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JsonText) and self.canonical == other.canonical

    def __hash__(self) -> int:
        return hash(self.canonical)


@frozen(eq=False)
class Json(Codec):
    """JSON: kept as it was sent, without its white space. A JSON ``null`` is a NULL."""

    def typed(self, values: Values) -> Values:
        """`JsonText` for each value, or None for a JSON ``null``."""
        return [_json_text(bytes(value)) for value in values]

    def arrow(self, values: Values) -> Any:
        """The compact texts."""
        return pa.array([None if value is None else value.text for value in values], self.kind)


_JSON: Final = msgspec.json.Decoder()
_SORTED: Final = msgspec.json.Encoder(order="sorted")


def _json_text(raw: bytes) -> JsonText | None:
    try:
        compact = msgspec.json.format(raw, indent=-1)
        text = compact.decode()
        return None if text == "null" else JsonText(text, _canonical(compact))
    except RecursionError as error:
        raise Misfit("the JSON value is nested too deeply") from error
    except UnicodeDecodeError as error:
        raise Misfit("invalid UTF-8") from error
    except msgspec.DecodeError as error:
        raise Misfit(f"not a JSON value: {error}") from error


def _canonical(compact: bytes) -> bytes:
    try:
        return _SORTED.encode(_JSON.decode(compact))
    except msgspec.ValidationError:  # a number beyond a double: valid JSON, which only its text can carry
        return compact


def nullable(wire: Any) -> Any:
    """The annotation that also takes a null; raw JSON takes it anyway, and must not stand in a union."""
    return wire if wire is msgspec.Raw else Optional[wire]  # noqa: UP045 - made at run time


def encode_extra(value: Any) -> Any:
    """What the content encoder writes for a value of no type that it knows: the canonical form of JSON."""
    return value.canonical


def scalar_codec(kind: Kind) -> Codec:
    """The codec of a type without parameters."""
    return _SCALARS[kind]


def _integer(kind: Kind) -> Codec:
    least, most = INTEGER_RANGES[kind]
    return Codec(Annotated[int, Meta(ge=least, le=most)], arrow_type(Scalar(kind)))


#: An instant with its zone, as TIMESTAMPTZ and a record's event time are sent.
INSTANT_WIRE: Final = Annotated[datetime, Meta(tz=True)]

_SCALARS: Final[dict[Kind, Codec]] = {
    **{kind: _integer(kind) for kind in INTEGER_RANGES if kind is not Kind.UBIGINT},
    Kind.UBIGINT: UnsignedBig(Annotated[int, Meta(ge=0)], pa.uint64()),
    Kind.DOUBLE: Double(_NUMBER, pa.float64()),
    Kind.FLOAT: Single(_NUMBER, pa.float32()),
    Kind.BOOLEAN: Codec(bool, pa.bool_()),
    Kind.VARCHAR: Codec(str, pa.string()),
    Kind.BLOB: Codec(bytes, pa.binary()),
    Kind.DATE: Codec(date, pa.date32()),
    Kind.TIME: Codec(Annotated[time, Meta(tz=False)], pa.time64("us")),
    Kind.TIMESTAMP: Moment(Annotated[datetime, Meta(tz=False)], pa.timestamp("us"), _EPOCH),
    Kind.TIMESTAMPTZ: Instant(INSTANT_WIRE, INSTANT, _EPOCH_UTC),
    Kind.UUID: Identifier(UUID, pa.uuid()),
    Kind.JSON: Json(msgspec.Raw, pa.string()),
}
