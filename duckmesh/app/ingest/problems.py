"""What a caller reads when a body is refused: the decoder's complaints, told in terms of records and columns."""

import re
from typing import Any, Final

import msgspec

from duckmesh.domain.errors import DuckMeshError, InvalidRequest, ValidationFailed
from duckmesh.domain.schema import Column
from duckmesh.domain.tables import TableDefinition
from duckmesh.domain.types import INTEGER_RANGES, Scalar

_COMPLAINT: Final = re.compile(r"(?P<what>.*?)(?: - at (?:`key` in )?`\$(?P<path>.*)`)?\Z", re.DOTALL)
_RECORD: Final = re.compile(r"\.records\[(?P<record>\d+)\](?P<rest>.*)\Z", re.DOTALL)
_COLUMN: Final = re.compile(r"\.payload\.(?P<column>[A-Za-z_][A-Za-z0-9_]*)(?P<inside>.*)\Z", re.DOTALL)
_FIELD: Final = re.compile(r"Object (?:missing required|contains unknown) field `(?P<field>.*)`\Z", re.DOTALL)
_BYTE: Final = re.compile(r"\(byte (\d+)\)")
_SHOWN: Final = 200


def validation_failed(
    table: TableDefinition, record: int, column: str | None, reason: str, **context: Any
) -> ValidationFailed:
    """The error for one value: ``column`` is a dotted path, or None when the record as a whole is wrong."""
    place = f"record {record}" if column is None else f"record {record}, column {column[:_SHOWN]!r}"
    return ValidationFailed(
        f"table {table.name!r}, {place}: {reason}",
        table=table.name,
        record=record,
        column=column,
        reason=reason,
        **context,
    )


def malformed(error: Exception) -> InvalidRequest:
    """The body is not JSON at all, or nests deeper than can be read."""
    if isinstance(error, RecursionError):
        return InvalidRequest("the body is nested too deeply", reason="nested too deeply")
    if isinstance(error, UnicodeDecodeError):
        return InvalidRequest("the body is not valid UTF-8", reason="invalid UTF-8")
    reason = str(error).replace("`", "")
    found = _BYTE.search(reason)
    position = {"byte": int(found.group(1))} if found else {}
    return InvalidRequest(f"the body cannot be read: {reason}", reason=reason, **position)


def unknown_column(error: msgspec.ValidationError) -> bool:
    """Whether the complaint is about a field of a payload that is no column by that spelling."""
    return str(error).startswith("Object contains unknown field") and str(error).endswith(".payload`")


def translated(table: TableDefinition, error: msgspec.ValidationError) -> DuckMeshError:
    """A complaint of the decoder with its record, its column and a reason."""
    complaint = _COMPLAINT.match(str(error))
    what, path = (complaint["what"], complaint["path"] or "") if complaint else (str(error), "")
    record = _RECORD.match(path)
    if record is None:
        reason = what.replace("`", "")
        return InvalidRequest(f"the body is not as expected: {reason}{f' at {path}' if path else ''}", reason=reason)
    return _in_record(table, int(record["record"]), what, record["rest"])


def _in_record(table: TableDefinition, record: int, what: str, rest: str) -> ValidationFailed:
    field = _FIELD.match(what)
    if rest == ".payload" and field is not None:
        return validation_failed(table, record, field["field"][:_SHOWN], _about_column(table, what, field["field"]))
    place = _COLUMN.match(rest)
    if place is None:
        reason = _plain(what) if rest in {"", ".payload"} else f"{rest[1:]}: {_about_envelope(rest, what)}"
        return validation_failed(table, record, None, reason)
    column = table.schema.column(place["column"])
    inside = place["inside"]
    path = place["column"] + inside.replace("[...]", "[]")
    return validation_failed(table, record, path, _about_value(column if not inside else None, what))


def _about_column(table: TableDefinition, what: str, name: str) -> str:
    if "unknown" in what:
        known = ", ".join(column.name for column in table.schema.columns)
        return f"unknown column; the table has {known[:_SHOWN] or 'no columns yet'}"
    return f"missing, but column {name!r} is not nullable and has no default"


def _about_envelope(rest: str, what: str) -> str:
    if rest == ".op":
        return "use insert, upsert or delete"
    if rest == ".event_time":
        return f"expected an instant such as 2024-01-31T12:00:00Z ({_plain(what)})"
    return _plain(what)


_RULES: Final = (
    ("got `null`", "null in a column that is not nullable"),
    ("with a timezone", "a time zone is needed, such as Z or +01:00"),
    ("with no timezone", "a time zone is not allowed here; use TIMESTAMPTZ for instants"),
    ("Number out of range", "overflow: the number is beyond DOUBLE"),
    ("Integer value out of range", "overflow: the integer has too many digits"),
    ("Invalid enum value", "a text is no number; only NaN, Infinity and -Infinity are written as texts"),
    ("RFC3339 encoded datetime", "expected an ISO 8601 date and time such as 2024-01-31T12:00:00.123456"),
    ("RFC3339 encoded date", "expected an ISO 8601 date such as 2024-01-31"),
    ("RFC3339 encoded time", "expected an ISO 8601 time such as 12:00:00.123456"),
)


def _about_value(column: Column | None, what: str) -> str:
    for sign, reason in _RULES:
        if sign in what:
            return reason
    if column is None:
        return _plain(what)
    if what.startswith(("Expected `int` <=", "Expected `int` >=")) and isinstance(column.type, Scalar):
        least, most = INTEGER_RANGES[column.type.kind]
        return f"overflow: {column.type} holds {least} to {most}"
    return f"wrong type: {_plain(what)}; the column is {column.type}"


def _plain(what: str) -> str:
    text = what.replace("`", "").replace(" | null", "")
    return text[:1].lower() + text[1:]
