"""Domain values as JSON, for the adapters that store them; one form, so that any adapter reads another's data.

Types are stored as DuckDB's text. Unknown fields are ignored when reading, so that an older version reads what a
newer one stored additively.
"""

import json
from collections.abc import Callable
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

import msgspec
from cattrs.preconf.json import make_converter

from duckmesh.domain import types
from duckmesh.domain.schema import Column
from duckmesh.domain.tables import AlterTable, ControlChange, CreateTable, DropTable, TableDefinition
from duckmesh.domain.types import ListOf, LogicalType, MapOf, Scalar, Struct, parse_type
from duckmesh.domain.writes import KeyClaim, LoggedPart, LoggedWrite, TableRef

_converter = make_converter()
for _kind in (Scalar, types.Decimal, ListOf, Struct, MapOf):
    _converter.register_unstructure_hook(_kind, str)
_converter.register_structure_hook(LogicalType, lambda text, _: parse_type(text))
_converter.register_unstructure_hook(
    Column,
    lambda c: {
        "column_id": c.column_id,
        "name": c.name,
        "type": str(c.type),
        "nullable": c.nullable,
        "has_default": c.has_default,
        "default": c.default,
        "description": c.description,
    },
)
_converter.register_structure_hook(Column, lambda d, _: Column(**{**d, "type": parse_type(d["type"])}))

_CHANGES: Final[dict[str, type[ControlChange]]] = {"create": CreateTable, "alter": AlterTable, "drop": DropTable}
_CHANGE_NAMES: Final = {kind: name for name, kind in _CHANGES.items()}


def dump_table(table: TableDefinition) -> str:
    """A table definition as JSON text."""
    return json.dumps(_converter.unstructure(table))


def load_table(text: str) -> TableDefinition:
    """The definition of `dump_table`."""
    return _converter.structure(json.loads(text), TableDefinition)


def dump_change(change: ControlChange) -> str:
    """A control change as JSON text, with its kind."""
    return json.dumps({"kind": _CHANGE_NAMES[type(change)], **_converter.unstructure(change)})


def load_change(text: str) -> ControlChange:
    """The change of `dump_change`."""
    value = json.loads(text)
    return _converter.structure(value, _CHANGES[value.pop("kind")])


class _Part(msgspec.Struct, array_like=True):
    table: int
    rows: int
    whole: bool = False
    key_ids: list[bytes] | None = None
    content_ids: list[bytes] | None = None


class _Write(msgspec.Struct, array_like=True):
    parts: list[_Part]
    control: str | None = None
    trace: str | None = None


class _Envelope(msgspec.Struct):
    """What stands beside the rows of a log entry. ``sizes`` are the lengths of each table's rows in the payload."""

    tables: list[tuple[str, int]]
    sizes: list[int]
    writes: list[_Write]
    version: int = 1


_envelope_encoder = msgspec.msgpack.Encoder()
_envelope_decoder = msgspec.msgpack.Decoder(_Envelope)


class EnvelopeBuilder:
    """Collects the writes of a log entry and gives its envelope."""

    def __init__(self, tables: list[TableRef], sizes: list[int]) -> None:
        self._numbers = {table: number for number, table in enumerate(tables)}
        self._envelope = _Envelope([(t.table_id, t.schema_version) for t in tables], sizes, [])

    def add(
        self,
        parts: list[tuple[TableRef, int]],
        control: ControlChange | None,
        trace: str | None,
        claims: list[KeyClaim] | None = None,
    ) -> None:
        """Add a write with the rows that it has in each table's batch."""
        encoded = [_Part(self._numbers[table], rows) for table, rows in parts]
        for part, claim in zip(encoded, claims or (), strict=False):
            part.whole, part.key_ids, part.content_ids = claim.whole, list(claim.key_ids), list(claim.content_ids)
        self._envelope.writes.append(_Write(encoded, dump_change(control) if control else None, trace))

    def encode(self) -> bytes:
        """The envelope's bytes."""
        return _envelope_encoder.encode(self._envelope)


def decode_envelope(
    data: bytes, tokens: range | list[int], accepted_at: datetime
) -> tuple[tuple[LoggedWrite, ...], list[tuple[TableRef, int]]]:
    """The writes of an entry, each with its token, and the tables with their sizes in the payload."""
    envelope = _envelope_decoder.decode(data)
    tables = [TableRef(table_id, version) for table_id, version in envelope.tables]
    writes = tuple(
        LoggedWrite(
            token,
            accepted_at,
            tuple(LoggedPart(tables[part.table], part.rows, _claim(part)) for part in write.parts),
            load_change(write.control) if write.control is not None else None,
            write.trace,
        )
        for token, write in zip(tokens, envelope.writes, strict=True)
    )
    return writes, list(zip(tables, envelope.sizes, strict=True))


def _claim(part: _Part) -> KeyClaim | None:
    if part.key_ids is None or part.content_ids is None:
        return None
    return KeyClaim(part.key_ids, part.content_ids, part.whole)


_KEY_KINDS: Final[dict[str, tuple[type, Callable[[Any], Any], Callable[[Any], Any]]]] = {
    # Order matters: a datetime is a date, and a bool an int.
    "bool": (bool, bool, bool),
    "int": (int, str, int),
    "text": (str, str, str),
    "decimal": (Decimal, str, Decimal),
    "datetime": (datetime, datetime.isoformat, datetime.fromisoformat),
    "date": (date, date.isoformat, date.fromisoformat),
    "time": (time, time.isoformat, time.fromisoformat),
    "uuid": (UUID, str, UUID),
    "bytes": (bytes, bytes.hex, bytes.fromhex),
}


def dump_key(key: tuple[Any, ...] | None) -> str | None:
    """Bounds of key columns as JSON text, each with its kind."""
    return json.dumps([_dump_bound(bound) for bound in key]) if key is not None else None


def load_key(text: str | None) -> tuple[Any, ...] | None:
    """The bounds of `dump_key`."""
    return tuple(_KEY_KINDS[kind][2](value) for kind, value in json.loads(text)) if text is not None else None


def _dump_bound(bound: Any) -> tuple[str, Any]:
    name = next(name for name, (kind, _, _) in _KEY_KINDS.items() if isinstance(bound, kind))
    return name, _KEY_KINDS[name][1](bound)


def json_text(value: Any) -> str:
    """Any JSON value as text; datetimes and decimals as their text."""
    return json.dumps(value, default=str)
