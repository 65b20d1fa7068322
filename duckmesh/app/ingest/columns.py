"""What becomes of one column of a request: absent fields, nulls, typed values, and the form that is compared."""

from collections.abc import Set as AbstractSet
from types import NoneType
from typing import Any, Final

import msgspec
from attrs import frozen
from msgspec import UNSET, UnsetType

from duckmesh.app.ingest.nested import codec_for, over_present
from duckmesh.app.ingest.problems import validation_failed
from duckmesh.app.ingest.values import Codec, Json, Misfit, Values, nullable
from duckmesh.domain.errors import InvalidSchema
from duckmesh.domain.schema import Column, ColumnSpec
from duckmesh.domain.tables import TableDefinition
from duckmesh.domain.types import ListOf, LogicalType, MapOf, Struct

#: Compares as no value of any column does: an explicit null where the column has a default.
_NULL: Final = msgspec.msgpack.Ext(1, b"")


@frozen(eq=False)
class ColumnPlan:
    """One column with its codec. ``in_deletes`` says that a delete must name it."""

    table: TableDefinition
    column: Column
    codec: Codec
    in_deletes: bool
    default: Any = None

    @property
    def may_be_absent(self) -> bool:
        """Whether the decoder lets a payload leave the column out."""
        return self.column.optional or (self.table.schema.keyed and not self.in_deletes)

    def settle(self, values: Values, kinds: AbstractSet[type], deletes: Values) -> tuple[Values, Values]:
        """The decoded values as they are stored, and as contents are compared.

        ``kinds`` are the classes of the values; ``deletes`` marks the rows that delete, and is empty when none
        does. In contents an absent field, a default that was spelled out and a null where there is no default are
        all None.
        """
        if deletes:
            self._check_deletes(values, deletes)
        if self.codec.native and not self.may_be_absent:
            return values, values
        absent = UnsetType in kinds
        if absent:
            self._check_required(values, deletes)
        sent = [None if value is UNSET else value for value in values] if absent else values
        if not self.codec.native:
            sent = self._typed(sent, null=absent or NoneType in kinds)
        if not self.column.has_default:
            return sent, sent
        stored = self._filled(values, sent, deletes) if absent else sent
        return stored, self._compared(stored, values)

    def _filled(self, values: Values, sent: Values, deletes: Values) -> Values:
        gaps = [None if delete else self.default for delete in deletes] or [self.default] * len(values)
        rows = zip(values, sent, gaps, strict=True)
        return [gap if raw is UNSET else value for raw, value, gap in rows]

    def _compared(self, stored: Values, values: Values) -> Values:
        default = self.default
        return [
            None if raw is UNSET or value == default else _NULL if value is None else value
            for raw, value in zip(values, stored, strict=True)
        ]

    def _typed(self, values: Values, *, null: bool) -> Values:
        try:
            typed = over_present(values, self.codec.typed) if null else self.codec.typed(values)
        except Misfit:
            self._raise_first(values)
            raise
        if isinstance(self.codec, Json) and not self.column.nullable and None in typed:
            row = next(row for row, value in enumerate(typed) if value is None and values[row] is not None)
            raise validation_failed(self.table, row, self.column.name, "null in a column that is not nullable")
        return typed

    def _raise_first(self, values: Values) -> None:
        for row, value in enumerate(values):
            try:
                if value is not None:
                    self.codec.typed([value])
            except Misfit as error:
                raise validation_failed(self.table, row, self.column.name + error.path, error.reason) from error

    def _check_required(self, values: Values, deletes: Values) -> None:
        if self.column.optional:
            return
        for row, value in enumerate(values):
            if value is UNSET and not (deletes and deletes[row]):
                reason = f"missing, but column {self.column.name!r} is not nullable and has no default"
                raise validation_failed(self.table, row, self.column.name, reason)

    def _check_deletes(self, values: Values, deletes: Values) -> None:
        if self.in_deletes:
            return
        for row, (value, delete) in enumerate(zip(values, deletes, strict=True)):
            if delete and value is not UNSET:
                reason = "a delete names the columns of the primary key and no other"
                raise validation_failed(self.table, row, self.column.name, reason)


def plan_column(table: TableDefinition, column: Column) -> ColumnPlan:
    """How that column of the table is read; raises `InvalidSchema` when its default does not fit."""
    codec = codec_for(column.type)
    in_key = column.column_id in table.schema.primary_key
    default = _typed_default(column, codec) if column.has_default else None
    return ColumnPlan(table, column, codec, in_key, default)


def wire_of(plan: ColumnPlan) -> tuple[Any, ...]:
    """The annotation of the column in a payload, and its default when it may be absent."""
    wire = nullable(plan.codec.wire) if plan.column.nullable else plan.codec.wire
    if not plan.may_be_absent:
        return (wire,)
    return (wire if wire is msgspec.Raw else wire | UnsetType, UNSET)


def has_members(logical: LogicalType) -> bool:
    """Whether values of the type are, or hold, JSON objects that the table's schema describes."""
    match logical:
        case ListOf(element):
            return has_members(element) or isinstance(codec_for(element), Json)
        case Struct() | MapOf():
            return True
    return False


def check_default(spec: ColumnSpec) -> None:
    """Raise `InvalidSchema` when the default does not fit the type, or when the type can have no payload."""
    codec = codec_for(spec.type)
    if spec.has_default:
        _typed_default(spec, codec)


def _typed_default(spec: ColumnSpec | Column, codec: Codec) -> Any:
    try:
        wire = msgspec.json.decode(msgspec.json.encode(spec.default), type=codec.wire)
        return codec.typed([wire])[0]
    except (Misfit, msgspec.DecodeError, OverflowError, RecursionError) as error:
        reason = error.reason if isinstance(error, Misfit) else str(error).replace("`", "")
        raise InvalidSchema(
            f"the default of column {spec.name!r} does not fit {spec.type}: {reason}",
            column=spec.name,
            reason=reason,
        ) from error
