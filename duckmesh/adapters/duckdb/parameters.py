"""The parameters of a query, checked before DuckDB converts them."""

import datetime as dt
import uuid
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from typing import Any, Final

from duckmesh.domain.errors import SqlInvalid

MAX_DEPTH: Final = 8
_LEAST_INTEGER: Final = -(2**127)
_GREATEST_INTEGER: Final = 2**128 - 1
_MAX_DIGITS: Final = 38
_SCALARS: Final = (bool, float, bytes, dt.date, dt.time, dt.timedelta, uuid.UUID)


def bind(names: Collection[str], given: Sequence[Any] | Mapping[str, Any] | None) -> list[Any] | dict[str, Any]:
    """The values for a statement with parameters of these names (``"1"``, ``"2"`` for positional ones).

    Raises `SqlInvalid` that says which are missing, unknown, or of a kind that SQL has not.
    """
    if all(name.isdigit() for name in names):
        return _positional(names, [] if given is None else given)
    return _named(names, {} if given is None else given)


def _positional(names: Collection[str], given: Sequence[Any] | Mapping[str, Any]) -> list[Any]:
    if isinstance(given, Mapping) and (given or names):
        if not names:
            raise SqlInvalid(f"the SQL has no parameters, but {_list(given)} came with it")
        raise SqlInvalid("the SQL has positional parameters (? or $1): send their values as an array")
    if {int(name) for name in names} != set(range(1, len(names) + 1)):
        raise SqlInvalid("positional parameters must be numbered from 1 without a gap")
    if isinstance(given, str | bytes):
        raise SqlInvalid("positional parameters are an array of values")
    if len(given) != len(names):
        raise SqlInvalid(f"the SQL has {len(names)} parameters, but {len(given)} values came with it")
    return [_value(value, f"parameter {number}") for number, value in enumerate(given, start=1)]


def _named(names: Collection[str], given: Sequence[Any] | Mapping[str, Any]) -> dict[str, Any]:
    if not isinstance(given, Mapping):
        raise SqlInvalid(f"the SQL has named parameters: send an object with {_list(names)}")
    wanted = {name.lower(): name for name in names}
    unknown = [name for name in given if not isinstance(name, str) or name.lower() not in wanted]
    if unknown:
        raise SqlInvalid(f"the SQL has no parameter {_list(unknown)}; it has {_list(names)}")
    values = {wanted[name.lower()]: _value(value, f"parameter ${name}") for name, value in given.items()}
    missing = set(names) - set(values)
    if missing:
        raise SqlInvalid(f"the SQL has parameters without a value: {_list(missing)}")
    return values


def _list(names: Collection[Any]) -> str:
    return ", ".join(sorted(f"${name}"[:64] for name in names))


def _value(value: Any, where: str, depth: int = 0) -> Any:
    if depth > MAX_DEPTH:
        raise SqlInvalid(f"{where} is nested deeper than {MAX_DEPTH}")
    if value is None or isinstance(value, _SCALARS):
        return value
    match value:
        case int():
            return _integer(value, where)
        case str():
            return _text(value, where)
        case Decimal():
            return _decimal(value, where)
        case Mapping():
            return {_text(name, where): _value(item, where, depth + 1) for name, item in value.items()}
        case Sequence():
            return [_value(item, where, depth + 1) for item in value]
    raise SqlInvalid(f"{where} has a value of a kind that SQL has not: {type(value).__name__}")


def _integer(value: int, where: str) -> int:
    if not _LEAST_INTEGER <= value <= _GREATEST_INTEGER:
        raise SqlInvalid(f"{where} is an integer of more than 128 bits")
    return value


def _text(value: Any, where: str) -> str:
    if not isinstance(value, str):
        raise SqlInvalid(f"{where} has a name that is no text")
    try:
        value.encode()
    except UnicodeEncodeError as error:
        raise SqlInvalid(f"{where} is not valid Unicode") from error
    return value


def _decimal(value: Decimal, where: str) -> Decimal:
    _, digits, exponent = value.as_tuple()
    if not isinstance(exponent, int) or max(len(digits), -exponent) + max(exponent, 0) > _MAX_DIGITS:
        raise SqlInvalid(f"{where} is a decimal that does not fit in {_MAX_DIGITS} digits")
    return value
