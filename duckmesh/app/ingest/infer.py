"""Columns for tables with an automatic schema: inferred from records, and grown by those that bring new ones.

Inference never loses data: what does not agree is an error, and only additions are made.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

import msgspec
from attrs import define, field

from duckmesh.app.ingest.problems import malformed
from duckmesh.domain.errors import InvalidRequest, ValidationFailed
from duckmesh.domain.names import check_column_name, fold
from duckmesh.domain.schema import MAX_COLUMNS, Column, ColumnSpec, TableSchema
from duckmesh.domain.types import INTEGER_RANGES, Kind, ListOf, LogicalType, Scalar

_EXACT_IN_DOUBLE: Final = 2**53


class _Loose(msgspec.Struct):
    payload: dict[str, Any]


class _LooseBody(msgspec.Struct):
    records: list[_Loose]


_BODY: Final = msgspec.json.Decoder(_LooseBody)


def payloads_of(body: bytes) -> list[dict[str, Any]]:
    """The payloads of a JSON body ``{"records": […]}``; raises `InvalidRequest`."""
    try:
        return [record.payload for record in _BODY.decode(body).records]
    except msgspec.ValidationError as error:
        reason = str(error).replace("`", "")
        raise InvalidRequest(f"the body is not as expected: {reason}", reason=reason) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(error) from error


def infer_specs(payloads: Iterable[Mapping[str, Any]]) -> tuple[ColumnSpec, ...]:
    """Nullable columns for all that the payloads name, in the order in which they first appear.

    Integers are BIGINT (UBIGINT beyond it), numbers DOUBLE, lists of one scalar kind ``T[]``, all other nested
    values JSON. What is only ever null is no column yet. Raises `ValidationFailed` that names the record and the
    column where kinds do not agree, and `InvalidName`.
    """
    return tuple(
        ColumnSpec(seen.name, seen.type()) for seen in _seen(payloads, known=frozenset()).values() if seen.settled
    )


def grown_specs(schema: TableSchema, body: bytes) -> tuple[ColumnSpec, ...] | None:
    """The whole new list of columns when the records of ``body`` bring new ones, else None.

    Raises `InvalidRequest` when the body is none, else as `infer_specs`.
    """
    known = frozenset(fold(column.name) for column in schema.columns)
    seen = _seen(payloads_of(body), known).values()
    added = tuple(ColumnSpec(column.name, column.type()) for column in seen if column.settled)
    return (*map(_as_spec, schema.columns), *added) if added else None


def _as_spec(column: Column) -> ColumnSpec:
    return ColumnSpec(column.name, column.type, column.nullable, column.has_default, column.default, column.description)


def _seen(payloads: Iterable[Mapping[str, Any]], known: frozenset[str]) -> dict[str, "_Seen"]:
    found: dict[str, _Seen] = {}
    for record, payload in enumerate(payloads):
        for name, value in payload.items():
            folded = fold(name)
            if folded in known:
                continue
            if folded not in found:
                if len(found) + len(known) >= MAX_COLUMNS:
                    raise ValidationFailed(
                        f"a table has at most {MAX_COLUMNS} columns", record=record, column=name[:80]
                    )
                found[folded] = _Seen(check_column_name(name))
            found[folded].add(record, value)
    return found


@define
class _Numbers:
    """The numbers of a column: their range while they are integers, and whether a fraction was among them."""

    least: int = 0
    most: int = 0
    fractions: bool = False

    def add(self, column: "_Seen", record: int, value: float) -> None:
        if isinstance(value, float):
            self.fractions = True
        else:
            self.least, self.most = min(self.least, value), max(self.most, value)
        if self.fractions and not all(_exact(bound) for bound in (self.least, self.most)):
            raise column.conflict(record, "fractions and integers that are not exact in DOUBLE")
        if not self.fractions and not self._fits():
            raise column.conflict(record, "the integers fit neither BIGINT nor UBIGINT")

    def _fits(self) -> bool:
        (least, most), (_, beyond) = INTEGER_RANGES[Kind.BIGINT], INTEGER_RANGES[Kind.UBIGINT]
        return least <= self.least and self.most <= (beyond if self.least == 0 else most)

    def kind(self) -> Kind:
        if self.fractions:
            return Kind.DOUBLE
        return Kind.BIGINT if self.most <= INTEGER_RANGES[Kind.BIGINT][1] else Kind.UBIGINT


@define
class _Seen:
    """What is known of one column so far."""

    name: str
    shape: str = ""
    numbers: _Numbers = field(factory=_Numbers)
    element: str = ""

    @property
    def settled(self) -> bool:
        return bool(self.shape)

    def add(self, record: int, value: Any) -> None:
        shape = _shape(value)
        if shape is None:
            return
        if shape == "list":
            shape = self._list_shape(record, value)
        elif shape == "number":
            self.numbers.add(self, record, value)
        if self.shape in {"", shape}:
            self.shape = shape
        elif {self.shape, shape} <= {"list", "json"}:
            self.shape = "json"
        else:
            raise self.conflict(record, f"{_SAID[shape]} here, {_SAID[self.shape]} in an earlier record")

    def _list_shape(self, record: int, values: Sequence[Any]) -> str:
        shapes = {_shape(value) for value in values} - {None}
        if len(shapes) != 1 or shapes & {"list", "json"} or (self.element and self.element not in shapes):
            return "json"
        self.element = next(shape for shape in shapes if shape)
        if self.element == "number":
            for value in _present(values):
                self.numbers.add(self, record, value)
        return "list"

    def type(self) -> LogicalType:
        if self.shape == "list":
            return ListOf(Scalar(self._kind(self.element)))
        return Scalar(self._kind(self.shape))

    def _kind(self, shape: str) -> Kind:
        return self.numbers.kind() if shape == "number" else _KINDS[shape]

    def conflict(self, record: int, reason: str) -> ValidationFailed:
        return ValidationFailed(
            f"record {record}, column {self.name!r}: conflict of types: {reason}; nothing is converted silently",
            record=record,
            column=self.name,
            reason=f"conflict of types: {reason}",
        )


def _exact(value: int) -> bool:
    return abs(value) <= _EXACT_IN_DOUBLE


_KINDS: Final = {"bool": Kind.BOOLEAN, "text": Kind.VARCHAR, "json": Kind.JSON}
_SAID: Final = {
    "bool": "a boolean",
    "text": "a text",
    "number": "a number",
    "list": "a list",
    "json": "a nested value",
}


def _shape(value: Any) -> str | None:
    match value:
        case None:
            return None
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case str():
            return "text"
        case list():
            return "list"
        case _:
            return "json"


def _present(values: Iterable[Any]) -> Iterator[Any]:
    return (value for value in values if value is not None)
