"""The slow path: what the fast decoder cannot see, looked for only where the body gives a reason to.

The decoder takes the last of two members of one name, rounds fractions of a second to microseconds, and knows one
spelling of each name.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, Final

import msgspec
from msgspec import UNSET, Raw, UnsetType

from duckmesh.app.ingest.problems import malformed, validation_failed
from duckmesh.domain.errors import InvalidRequest
from duckmesh.domain.names import fold
from duckmesh.domain.schema import SchemaMode
from duckmesh.domain.tables import TableDefinition
from duckmesh.domain.types import Kind, ListOf, LogicalType, MapOf, Scalar, Struct


class _Twice:
    """Stands for an object in which a name stands twice."""

    def __init__(self, name: str) -> None:
        self.name = name


def _object(pairs: list[tuple[str, Any]]) -> Any:
    found = dict(pairs)
    if len(found) == len(pairs):
        return found
    names = [name for name, _ in pairs]
    return _Twice(next(name for name in names if names.count(name) > 1))


_PAIRS: Final = json.JSONDecoder(object_pairs_hook=_object, parse_int=str, parse_float=str)


def _tree(body: bytes) -> Any:
    try:
        return _PAIRS.decode(body.decode())
    except (ValueError, RecursionError) as error:
        raise malformed(error) from error


def refuse_repeated_names(table: TableDefinition, body: bytes) -> None:
    """Raise when an object of the body names a member twice. A JSON column's own objects are the user's matter."""
    tree = _tree(body)
    if isinstance(tree, _Twice):
        raise InvalidRequest(f"the body names {tree.name[:80]!r} twice", reason="named twice")
    types = {fold(column.name): column.type for column in table.schema.columns}
    for number, record in enumerate(tree["records"]):
        payload = record if isinstance(record, _Twice) else record["payload"]
        if isinstance(payload, _Twice):
            raise validation_failed(table, number, payload.name, "named twice in one object")
        for name, value in payload.items():
            twice = _repeated(types.get(fold(name)), value)
            if twice is not None:
                raise validation_failed(table, number, name, f"{twice[:80]!r} is named twice in one object")


def refuse_repeated_tables(body: bytes) -> None:
    """Raise when the body of several tables names one twice, or has any part twice beside its records."""
    tree = _tree(body)
    for found in (tree, {} if isinstance(tree, _Twice) else tree["tables"]):
        if isinstance(found, _Twice):
            raise InvalidRequest(f"the body names {found.name[:80]!r} twice", reason="named twice")


def _repeated(logical: LogicalType | None, value: Any) -> str | None:
    """The name that stands twice in a nested value, if any does."""
    if isinstance(value, _Twice) and logical != Scalar(Kind.JSON):
        return value.name
    found = (_repeated(inner, part) for inner, part in _parts(logical, value))
    return next((name for name in found if name is not None), None)


def _parts(logical: LogicalType | None, value: Any) -> Iterator[tuple[LogicalType, Any]]:
    """The parts of a nested JSON value, each with its type; a map's keys among them."""
    match logical:
        case ListOf(element) if isinstance(value, list):
            yield from ((element, part) for part in value)
        case Struct(fields) if isinstance(value, dict):
            yield from ((inner, value[name]) for name, inner in fields if name in value)
        case MapOf(key, inner) if isinstance(value, dict):
            yield from ((key, part) for part in value)
            yield from ((inner, part) for part in value.values())


#: A fraction of a second finer than microseconds. The first look, for any long fraction at the end of a text or
#: before a zone, is several times as fast.
_LONG_FRACTION: Final = re.compile(rb"\.[0-9]{7,}+[\"Zz+-]")
_FINE: Final = re.compile(rb"[0-9]:[0-9]{2}\.[0-9]{6}[0-9]*[1-9]0*[\"Zz+-]")
_ESCAPED: Final = re.compile(rb"\\u00(?:3[0-9aA]|2[eE])")
_FINE_TEXT: Final = re.compile(r"\.[0-9]{6}[0-9]*[1-9]")
_TEMPORAL: Final = {Scalar(Kind.TIME), Scalar(Kind.TIMESTAMP), Scalar(Kind.TIMESTAMPTZ)}
_TOO_FINE: Final = "loss of precision: times are kept to the microsecond"


def holds_times(logical: LogicalType) -> bool:
    """Whether values of the type are, or hold, times."""
    match logical:
        case ListOf(element):
            return holds_times(element)
        case Struct(fields):
            return any(holds_times(inner) for _, inner in fields)
        case MapOf(key, value):
            return holds_times(key) or holds_times(value)
    return logical in _TEMPORAL


def may_be_too_fine(body: bytes) -> bool:
    """Whether a time of the body may be finer than a microsecond; a text of another column can look like one."""
    if _LONG_FRACTION.search(body) and _FINE.search(body):
        return True
    return b"\\" in body and _ESCAPED.search(body) is not None


def refuse_fine_times(table: TableDefinition, body: bytes) -> None:
    """Raise when a time is finer than a microsecond."""
    columns = {fold(column.name): column.type for column in table.schema.columns}
    tree = _tree(body)
    for number, record in enumerate(tree["records"]):
        if _FINE_TEXT.search(record.get("event_time") or ""):
            raise validation_failed(table, number, None, f"event_time: {_TOO_FINE}")
        for name, value in record["payload"].items():
            if _too_fine(columns[fold(name)], value):
                raise validation_failed(table, number, name, _TOO_FINE)


def _too_fine(logical: LogicalType, value: Any) -> bool:
    if logical in _TEMPORAL:
        return isinstance(value, str) and _FINE_TEXT.search(value) is not None
    return any(_too_fine(inner, part) for inner, part in _parts(logical, value))


class _LooseRecord(msgspec.Struct, forbid_unknown_fields=True):
    idempotency_key: Raw
    payload: dict[str, Raw]
    op: Raw | UnsetType = UNSET
    event_time: Raw | UnsetType = UNSET


class _LooseBody(msgspec.Struct, forbid_unknown_fields=True):
    records: list[_LooseRecord]
    wait_for_visibility: Raw | UnsetType = UNSET
    visibility_timeout_ms: Raw | UnsetType = UNSET


_LOOSE: Final = msgspec.json.Decoder(_LooseBody)
_ENCODE: Final = msgspec.json.Encoder().encode


def respelled(table: TableDefinition, body: bytes) -> bytes:
    """The body with every column called as the table calls it.

    A table with an automatic schema has no column yet for what was only ever null: there such members are left
    out. Raises when a payload spells a column in two ways, and `msgspec.DecodeError` when there are no payloads.
    """
    loose = _LOOSE.decode(body)
    refuse_repeated_names(table, body)
    spelling = {fold(column.name): column.name for column in table.schema.columns}
    grows = table.schema_mode is SchemaMode.AUTO
    for number, record in enumerate(loose.records):
        record.payload = _respelled(table, number, record.payload, spelling, grows=grows)
    return _ENCODE(loose)


def _respelled(
    table: TableDefinition, number: int, payload: Mapping[str, Raw], spelling: Mapping[str, str], *, grows: bool
) -> dict[str, Raw]:
    found: dict[str, Raw] = {}
    for name, value in payload.items():
        column = spelling.get(fold(name))
        if column in found:
            raise validation_failed(table, number, column, "named twice in one payload (names are case-insensitive)")
        if column is not None or not (grows and bytes(value) == b"null"):
            found[column or name] = value
    return found


def place_of_bad_text(table: TableDefinition, body: bytes) -> InvalidRequest | None:
    """The error for the first payload value that is not valid UTF-8, when its record can be found."""
    try:
        loose = _LOOSE.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    for number, record in enumerate(loose.records):
        for name, value in record.payload.items():
            try:
                bytes(value).decode()
            except UnicodeDecodeError:
                return validation_failed(table, number, name, "invalid UTF-8")
    return None
