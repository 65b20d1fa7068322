"""The column types of a table: DuckDB's, as text and as values (contract, section 5)."""

import re
from collections.abc import Iterator
from enum import Enum
from typing import Final

from attrs import field, frozen, validators

from duckmesh.domain.errors import InvalidSchema
from duckmesh.domain.names import MAX_NAME_LENGTH

MAX_TYPE_TEXT: Final = 4096
MAX_TYPE_DEPTH: Final = 8
MAX_STRUCT_FIELDS: Final = 256
MAX_DECIMAL_PRECISION: Final = 38
DEFAULT_DECIMAL: Final = (18, 3)


class Kind(Enum):
    """The scalar kinds; the value is DuckDB's canonical name."""

    BIGINT = "BIGINT"
    INTEGER = "INTEGER"
    SMALLINT = "SMALLINT"
    TINYINT = "TINYINT"
    UBIGINT = "UBIGINT"
    UINTEGER = "UINTEGER"
    USMALLINT = "USMALLINT"
    UTINYINT = "UTINYINT"
    DOUBLE = "DOUBLE"
    FLOAT = "FLOAT"
    BOOLEAN = "BOOLEAN"
    VARCHAR = "VARCHAR"
    BLOB = "BLOB"
    DATE = "DATE"
    TIME = "TIME"
    TIMESTAMP = "TIMESTAMP"
    TIMESTAMPTZ = "TIMESTAMPTZ"
    UUID = "UUID"
    JSON = "JSON"


#: Inclusive bounds of the integer kinds.
INTEGER_RANGES: Final[dict[Kind, tuple[int, int]]] = {
    Kind.TINYINT: (-(2**7), 2**7 - 1),
    Kind.SMALLINT: (-(2**15), 2**15 - 1),
    Kind.INTEGER: (-(2**31), 2**31 - 1),
    Kind.BIGINT: (-(2**63), 2**63 - 1),
    Kind.UTINYINT: (0, 2**8 - 1),
    Kind.USMALLINT: (0, 2**16 - 1),
    Kind.UINTEGER: (0, 2**32 - 1),
    Kind.UBIGINT: (0, 2**64 - 1),
}

_ALIASES: Final[dict[str, Kind]] = {
    "INT8": Kind.BIGINT, "LONG": Kind.BIGINT, "INT64": Kind.BIGINT,
    "INT": Kind.INTEGER, "INT4": Kind.INTEGER, "SIGNED": Kind.INTEGER, "INT32": Kind.INTEGER,
    "INT2": Kind.SMALLINT, "SHORT": Kind.SMALLINT, "INT16": Kind.SMALLINT,
    "INT1": Kind.TINYINT,
    "UINT64": Kind.UBIGINT, "UINT32": Kind.UINTEGER, "UINT16": Kind.USMALLINT, "UINT8": Kind.UTINYINT,
    "FLOAT8": Kind.DOUBLE, "FLOAT4": Kind.FLOAT, "REAL": Kind.FLOAT,
    "BOOL": Kind.BOOLEAN, "LOGICAL": Kind.BOOLEAN,
    "TEXT": Kind.VARCHAR, "STRING": Kind.VARCHAR, "CHAR": Kind.VARCHAR, "BPCHAR": Kind.VARCHAR,
    "BYTEA": Kind.BLOB, "BINARY": Kind.BLOB, "VARBINARY": Kind.BLOB,
    "DATETIME": Kind.TIMESTAMP,
    "TIMESTAMP WITH TIME ZONE": Kind.TIMESTAMPTZ,
    "TIMESTAMP WITHOUT TIME ZONE": Kind.TIMESTAMP,
    "TIME WITHOUT TIME ZONE": Kind.TIME,
    "DOUBLE PRECISION": Kind.DOUBLE,
}  # fmt: skip


@frozen
class Scalar:
    """A type without parameters."""

    kind: Kind

    def __str__(self) -> str:
        return self.kind.value


@frozen
class Decimal:
    """An exact number of ``precision`` digits, ``scale`` of them behind the point."""

    precision: int = field(validator=[validators.ge(1), validators.le(MAX_DECIMAL_PRECISION)])
    scale: int = field(validator=validators.ge(0))

    def __attrs_post_init__(self) -> None:
        if self.scale > self.precision:
            raise ValueError(f"scale {self.scale} is over precision {self.precision}")

    def __str__(self) -> str:
        return f"DECIMAL({self.precision},{self.scale})"


@frozen
class ListOf:
    """A list of any length."""

    element: "LogicalType"

    def __str__(self) -> str:
        return f"{self.element}[]"


@frozen
class Struct:
    """Named fields, in order."""

    fields: tuple[tuple[str, "LogicalType"], ...]

    def __str__(self) -> str:
        inner = ", ".join(f"{quote(name)} {kind}" for name, kind in self.fields)
        return f"STRUCT({inner})"


@frozen
class MapOf:
    """Key to value; keys are unique and not null."""

    key: "LogicalType"
    value: "LogicalType"

    def __str__(self) -> str:
        return f"MAP({self.key}, {self.value})"


LogicalType = Scalar | Decimal | ListOf | Struct | MapOf


def quote(identifier: str) -> str:
    """An identifier in SQL, always quoted."""
    escaped = identifier.replace('"', '""')
    return f'"{escaped}"'


def parse_type(text: str) -> LogicalType:
    """Read a DuckDB type name; raise `InvalidSchema` that says what was not understood."""
    if len(text) > MAX_TYPE_TEXT:
        raise InvalidSchema(f"the type is longer than {MAX_TYPE_TEXT} characters")
    parser = _Parser(text)
    parsed = parser.type(depth=0)
    parser.expect_end()
    if _nesting(parsed) > MAX_TYPE_DEPTH:
        raise InvalidSchema(f"type {text!r} is nested deeper than {MAX_TYPE_DEPTH}", type=text)
    return parsed


def _nesting(parsed: LogicalType) -> int:
    """How many types stand around the innermost one; brackets of a list are read after what they contain."""
    match parsed:
        case ListOf(element):
            return 1 + _nesting(element)
        case Struct(fields):
            return 1 + max(_nesting(inner) for _, inner in fields)
        case MapOf(key, value):
            return 1 + max(_nesting(key), _nesting(value))
        case _:
            return 0


_TOKEN = re.compile(
    r'\s*(?:(?P<word>[A-Za-z_][A-Za-z0-9_]*)|"(?P<quoted>(?:[^"\x00-\x1f\x7f]|"")+)"|(?P<number>\d+)|(?P<mark>[(),\[\]]))'
)
_TWO_WORDS = {("DOUBLE", "PRECISION"), ("TIMESTAMP", "WITH"), ("TIMESTAMP", "WITHOUT"), ("TIME", "WITHOUT")}


def _tokens(text: str) -> Iterator[tuple[str, str]]:
    position = 0
    while text[position:].strip():
        match = _TOKEN.match(text, position)
        if match is None:
            raise InvalidSchema(f"type {text!r} is not understood at character {position + 1}", type=text)
        position = match.end()
        group = match.lastgroup or ""
        yield group, match.group(group).replace('""', '"') if group == "quoted" else match.group(group)
    yield "end", ""


class _Parser:
    """Recursive descent over the tokens of one type name."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._tokens = list(_tokens(text))
        self._at = 0

    def type(self, depth: int) -> LogicalType:
        if depth > MAX_TYPE_DEPTH:
            raise InvalidSchema(f"type {self._text!r} is nested deeper than {MAX_TYPE_DEPTH}", type=self._text)
        parsed = self._base(depth)
        while self._peek() == ("mark", "["):
            self._next()
            self._expect("]")
            depth += 1
            if depth > MAX_TYPE_DEPTH:
                raise InvalidSchema(f"type {self._text!r} is nested deeper than {MAX_TYPE_DEPTH}", type=self._text)
            parsed = ListOf(parsed)
        return parsed

    def expect_end(self) -> None:
        if self._peek()[0] != "end":
            raise self._unexpected()

    def _base(self, depth: int) -> LogicalType:
        group, word = self._next()
        if group != "word":
            raise InvalidSchema(f"type {self._text!r} is not understood: a type name is expected", type=self._text)
        name = word.upper()
        match name:
            case "STRUCT" | "ROW":
                return self._struct(depth)
            case "MAP":
                return self._map(depth)
            case "DECIMAL" | "NUMERIC" | "DEC":
                return self._decimal()
            case "VARCHAR" | "CHAR" | "TEXT" | "STRING" if self._peek() == ("mark", "("):
                self._length()  # DuckDB takes a length and ignores it; so do we
                return Scalar(Kind.VARCHAR)
        return self._scalar(name)

    def _scalar(self, name: str) -> LogicalType:
        following = self._peek()
        if following[0] == "word" and (name, following[1].upper()) in _TWO_WORDS:
            name = f"{name} {self._next()[1].upper()}"
            while self._peek()[0] == "word":
                name = f"{name} {self._next()[1].upper()}"
        kind = _ALIASES.get(name) or next((k for k in Kind if k.value == name), None)
        if kind is None:
            raise InvalidSchema(
                f"type {name!r} is not supported; use one of {', '.join(k.value for k in Kind)}, DECIMAL(p,s), "
                "STRUCT(…), MAP(…) or a list such as INTEGER[]",
                type=self._text,
            )
        return Scalar(kind)

    def _decimal(self) -> LogicalType:
        precision, scale = DEFAULT_DECIMAL
        if self._peek() == ("mark", "("):
            self._next()
            precision, scale = self._number(), 0
            if self._peek() == ("mark", ","):
                self._next()
                scale = self._number()
            self._expect(")")
        try:
            return Decimal(precision, scale)
        except ValueError as error:
            raise InvalidSchema(
                f"DECIMAL({precision},{scale}) is not possible: 1 <= precision <= {MAX_DECIMAL_PRECISION}, "
                "0 <= scale <= precision",
                type=self._text,
            ) from error

    def _struct(self, depth: int) -> LogicalType:
        self._expect("(")
        fields: list[tuple[str, LogicalType]] = []
        while True:
            group, name = self._next()
            if group not in {"word", "quoted"} or len(name) > MAX_NAME_LENGTH:
                raise InvalidSchema(f"type {self._text!r}: a field name is expected in STRUCT", type=self._text)
            fields.append((name, self.type(depth + 1)))
            if self._peek() != ("mark", ","):
                break
            self._next()
        self._expect(")")
        if len({name.lower() for name, _ in fields}) != len(fields):
            raise InvalidSchema(f"type {self._text!r} has two fields of one name", type=self._text)
        if len(fields) > MAX_STRUCT_FIELDS:
            raise InvalidSchema(f"a STRUCT has at most {MAX_STRUCT_FIELDS} fields", type=self._text)
        return Struct(tuple(fields))

    def _map(self, depth: int) -> LogicalType:
        self._expect("(")
        key = self.type(depth + 1)
        self._expect(",")
        value = self.type(depth + 1)
        self._expect(")")
        if not isinstance(key, Scalar | Decimal):
            raise InvalidSchema(f"type {self._text!r}: the key of a MAP must be a scalar", type=self._text)
        return MapOf(key, value)

    def _length(self) -> None:
        self._expect("(")
        self._number()
        self._expect(")")

    def _number(self) -> int:
        group, digits = self._next()
        if group != "number" or len(digits) > 6:  # noqa: PLR2004 - no parameter of a type has more digits
            raise InvalidSchema(f"type {self._text!r}: a number is expected", type=self._text)
        return int(digits)

    def _peek(self) -> tuple[str, str]:
        return self._tokens[self._at]

    def _next(self) -> tuple[str, str]:
        token = self._tokens[self._at]
        self._at = min(self._at + 1, len(self._tokens) - 1)
        return token

    def _expect(self, mark: str) -> None:
        if self._peek() != ("mark", mark):
            raise self._unexpected()
        self._next()

    def _unexpected(self) -> InvalidSchema:
        found = self._peek()[1] or "the end"
        return InvalidSchema(f"type {self._text!r} is not understood at {found!r}", type=self._text)
