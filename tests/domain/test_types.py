import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from duckmesh.domain.errors import InvalidSchema
from duckmesh.domain.types import (
    INTEGER_RANGES,
    MAX_STRUCT_FIELDS,
    MAX_TYPE_DEPTH,
    MAX_TYPE_TEXT,
    Decimal,
    Kind,
    ListOf,
    LogicalType,
    MapOf,
    Scalar,
    Struct,
    parse_type,
    quote,
)

SCALARS = st.sampled_from(Kind).map(Scalar)
DECIMALS = st.integers(1, 38).flatmap(lambda p: st.integers(0, p).map(lambda s: Decimal(p, s)))
NAMES = st.text(st.characters(exclude_categories=["Cc", "Cs"]), min_size=1, max_size=8)


def structs(inner: st.SearchStrategy[LogicalType]) -> st.SearchStrategy[Struct]:
    fields = st.lists(st.tuples(NAMES, inner), min_size=1, max_size=3, unique_by=lambda field: field[0].lower())
    return fields.map(lambda found: Struct(tuple(found)))


TYPES = st.recursive(
    SCALARS | DECIMALS,
    lambda inner: inner.map(ListOf) | structs(inner) | st.builds(MapOf, SCALARS | DECIMALS, inner),
    max_leaves=5,
)


def nesting(kind: LogicalType) -> int:
    match kind:
        case ListOf(element):
            return 1 + nesting(element)
        case Struct(fields):
            return 1 + max(nesting(inner) for _, inner in fields)
        case MapOf(_, value):
            return 1 + nesting(value)
    return 0


@given(TYPES.filter(lambda kind: nesting(kind) <= MAX_TYPE_DEPTH))
def test_a_type_is_read_back_from_its_text(kind: LogicalType) -> None:
    assert parse_type(str(kind)) == kind


@given(st.text(max_size=30) | st.text('STRUCMAPINGELD(),[]" 0123\n', max_size=30))
def test_any_text_is_a_type_or_an_invalid_schema(text: str) -> None:
    with contextlib.suppress(InvalidSchema):
        assert parse_type(str(parse_type(text))) == parse_type(text)


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("int", "INTEGER"),
        ("Int8", "BIGINT"),
        ("text", "VARCHAR"),
        ("VARCHAR(20)", "VARCHAR"),
        ("datetime", "TIMESTAMP"),
        ("timestamp with time zone", "TIMESTAMPTZ"),
        ("TIMESTAMP WITHOUT TIME ZONE", "TIMESTAMP"),
        ("double  precision", "DOUBLE"),
        ("real", "FLOAT"),
        ("decimal", "DECIMAL(18,3)"),
        ("NUMERIC(5)", "DECIMAL(5,0)"),
        (" DEC ( 5 , 2 ) ", "DECIMAL(5,2)"),
        ("INTEGER [ ] []", "INTEGER[][]"),
        ("row(a int, b struct(c text)[])", 'STRUCT("a" INTEGER, "b" STRUCT("c" VARCHAR)[])'),
        ('STRUCT("a ""b" DATE)', 'STRUCT("a ""b" DATE)'),
        ("map(varchar, timestamp with time zone)", "MAP(VARCHAR, TIMESTAMPTZ)"),
    ],
)
def test_duckdbs_spellings_are_understood(text: str, canonical: str) -> None:
    assert str(parse_type(text)) == canonical


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "HUGEINT",
        "INTERVAL",
        "TIME WITH TIME ZONE",
        "TIMESTAMP WITH",
        "DECIMAL(0)",
        "DECIMAL(39)",
        "DECIMAL(5,6)",
        "DECIMAL(9999999)",
        "DECIMAL(x)",
        "INTEGER[3]",
        "INTEGER[",
        "INTEGER]",
        "INTEGER VARCHAR",
        "STRUCT()",
        "STRUCT(a)",
        "STRUCT(a INTEGER,)",
        "STRUCT(a INTEGER, A DATE)",
        'STRUCT("" INTEGER)',
        'STRUCT("a\x00b" INTEGER)',
        f"STRUCT({'a' * 64} INTEGER)",
        "MAP(INTEGER)",
        "MAP(INTEGER[], INTEGER)",
        '"INTEGER"',
        "INTEGER; DROP TABLE x",
        "INTEGER -- comment",
    ],
)
def test_whatever_is_not_a_type_is_refused(text: str) -> None:
    with pytest.raises(InvalidSchema):
        parse_type(text)


@pytest.mark.parametrize(
    "deepest",
    [
        "INTEGER" + "[]" * MAX_TYPE_DEPTH,
        "STRUCT(a " * MAX_TYPE_DEPTH + "INTEGER" + ")" * MAX_TYPE_DEPTH,
        "STRUCT(a INTEGER[][][])[][][][]",
        "MAP(INTEGER, " * MAX_TYPE_DEPTH + "INTEGER" + ")" * MAX_TYPE_DEPTH,
    ],
)
def test_nesting_is_bounded_whichever_way_types_are_nested(deepest: str) -> None:
    assert nesting(parse_type(deepest)) == MAX_TYPE_DEPTH
    for deeper in (f"{deepest}[]", f"STRUCT(x {deepest})", f"MAP(DATE, {deepest})"):
        with pytest.raises(InvalidSchema, match="nested deeper"):
            parse_type(deeper)


def test_length_and_number_of_fields_are_bounded() -> None:
    fields = [f"f{n} INT" for n in range(MAX_STRUCT_FIELDS + 1)]
    assert isinstance(parse_type(f"STRUCT({', '.join(fields[:-1])})"), Struct)
    with pytest.raises(InvalidSchema, match="at most"):
        parse_type(f"STRUCT({', '.join(fields)})")
    with pytest.raises(InvalidSchema, match="longer than"):
        parse_type("(" * (MAX_TYPE_TEXT + 1))


def test_a_decimal_has_a_possible_scale() -> None:
    for precision, scale in ((0, 0), (39, 0), (5, 6), (5, -1)):
        with pytest.raises(ValueError, match=r"."):
            Decimal(precision, scale)


def test_a_quoted_identifier_ends_where_it_should() -> None:
    assert quote('a"; DROP TABLE b; --') == '"a""; DROP TABLE b; --"'


def test_integer_ranges_are_those_of_their_widths() -> None:
    assert {high - low + 1 for low, high in INTEGER_RANGES.values()} == {2**8, 2**16, 2**32, 2**64}
    assert len(INTEGER_RANGES) == 8
