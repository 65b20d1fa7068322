"""Values as SQL literals, safe by construction: text is only ever inside quotes, or is hexadecimal digits."""

import base64
import binascii
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, assert_never

from duckmesh.domain.errors import InvalidSchema
from duckmesh.domain.types import Decimal, Kind, ListOf, LogicalType, MapOf, Scalar, Struct

# A NUL ends a statement in some readers of SQL, so text with control characters is spelled in hexadecimal.
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


def text(value: str) -> str:
    """A string literal: any text that is valid Unicode."""
    if _CONTROL.search(value):
        return f"decode(unhex('{value.encode().hex()}'))"
    escaped = value.replace("'", "''")
    return f"'{escaped}'"


def typed(value: Any, kind: LogicalType) -> str:
    """A JSON value, in the forms that ingest takes, as an expression of the column's type.

    Raises `InvalidSchema` when the value has not the shape of the type; a scalar that the type does not take is
    found by the engine.
    """
    return f"CAST({_expression(value, kind)} AS {kind})"


def _expression(value: Any, kind: LogicalType) -> str:
    if value is None:
        return "NULL"
    match kind:
        case Scalar(scalar):
            return _scalar(value, scalar)
        case Decimal():
            return text(str(value))
        case ListOf(element):
            return f"[{', '.join(typed(item, element) for item in _sequence(value, kind))}]"
        case Struct():
            return _struct(_mapping(value, kind), kind)
        case MapOf(key, inner):
            pairs = _mapping(value, kind).items()
            keys = ", ".join(typed(name, key) for name, _ in pairs)
            values = ", ".join(typed(item, inner) for _, item in pairs)
            return f"MAP([{keys}], [{values}])"
        case _:
            assert_never(kind)


def _scalar(value: Any, kind: Kind) -> str:
    if kind is Kind.JSON:
        return text(json.dumps(value))
    if isinstance(value, bool):
        return text("true" if value else "false")
    if not isinstance(value, str | int | float):
        raise _misfit(Scalar(kind))
    return _blob(str(value)) if kind is Kind.BLOB else text(str(value))


def _blob(value: str) -> str:
    try:
        return f"unhex('{base64.b64decode(value, validate=True).hex()}')"
    except (binascii.Error, ValueError) as error:
        raise _misfit(Scalar(Kind.BLOB)) from error


def _struct(value: Mapping[str, Any], kind: Struct) -> str:
    given = {name.lower(): item for name, item in value.items()}
    unknown = set(given) - {name.lower() for name, _ in kind.fields}
    if unknown:
        raise _misfit(kind)
    parts = (f"{text(name)}: {typed(given.get(name.lower()), inner)}" for name, inner in kind.fields)
    return "{" + ", ".join(parts) + "}"


def _sequence(value: Any, kind: LogicalType) -> Sequence[Any]:
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise _misfit(kind)
    return value


def _mapping(value: Any, kind: LogicalType) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _misfit(kind)
    return value


def _misfit(kind: LogicalType) -> InvalidSchema:
    return InvalidSchema(f"the default is no value of type {kind}", type=str(kind))
