"""Each type's values: what is accepted, what it becomes, and why the rest is refused."""

import datetime as dt
import math
import uuid
from decimal import Decimal
from typing import Any

import pytest
from ingest_bodies import body_of, content, decoder_of, refusal, stored

from duckmesh.domain.errors import InvalidRequest, ValidationFailed

UUID_TEXT = "123e4567-e89b-12d3-a456-426614174000"
BIG = 2**53


@pytest.mark.parametrize(
    ("type_text", "value", "expected"),
    [
        ("BIGINT", "-9223372036854775808", -(2**63)),
        ("BIGINT", "9223372036854775807", 2**63 - 1),
        ("BIGINT", str(BIG + 1), BIG + 1),
        ("INTEGER", "2147483647", 2**31 - 1),
        ("SMALLINT", "-32768", -32768),
        ("TINYINT", "127", 127),
        ("UBIGINT", "18446744073709551615", 2**64 - 1),
        ("UINTEGER", "4294967295", 2**32 - 1),
        ("USMALLINT", "0", 0),
        ("UTINYINT", "255", 255),
        ("DOUBLE", "1", 1.0),
        ("DOUBLE", "0.1", 0.1),
        ("DOUBLE", str(2**60), float(2**60)),
        ("DOUBLE", '"Infinity"', math.inf),
        ("DOUBLE", '"-Infinity"', -math.inf),
        ("FLOAT", "0.5", 0.5),
        ("FLOAT", "0.1", 0.10000000149011612),
        ("FLOAT", "16777216", 16777216.0),
        ("FLOAT", '"Infinity"', math.inf),
        ("DECIMAL(10,2)", '"1.50"', Decimal("1.50")),
        ("DECIMAL(10,2)", "1.5", Decimal("1.50")),
        ("DECIMAL(10,2)", "1.500", Decimal("1.50")),
        ("DECIMAL(10,2)", "1e3", Decimal("1000.00")),
        ("DECIMAL(38,2)", "123456789012345678901234567890.12", Decimal("123456789012345678901234567890.12")),
        ("DECIMAL(38,0)", "9" * 38, Decimal("9" * 38)),
        ("DECIMAL(3,3)", '"-0.999"', Decimal("-0.999")),
        ("DECIMAL(10,2)", '"-0"', Decimal("0.00")),
        ("BOOLEAN", "true", True),
        ("VARCHAR", r'"é😀\u0000\n"', "é😀\0\n"),
        ("VARCHAR", r'"\ud83d\ude00"', "😀"),
        ("VARCHAR", '""', ""),
        ("BLOB", '"AP8="', b"\x00\xff"),
        ("BLOB", '""', b""),
        ("DATE", '"0001-01-01"', dt.date(1, 1, 1)),
        ("DATE", '"9999-12-31"', dt.date(9999, 12, 31)),
        ("TIME", '"23:59:59.999999"', dt.time(23, 59, 59, 999999)),
        ("TIMESTAMP", '"2024-01-31T12:00:00.123456"', dt.datetime(2024, 1, 31, 12, 0, 0, 123456)),  # noqa: DTZ001
        ("TIMESTAMP", '"0001-01-01T00:00:00"', dt.datetime(1, 1, 1)),  # noqa: DTZ001
        ("TIMESTAMP", '"2024-01-31T12:00:00.1234560000"', dt.datetime(2024, 1, 31, 12, 0, 0, 123456)),  # noqa: DTZ001
        ("TIMESTAMPTZ", '"9999-12-31T23:59:59.999999Z"', dt.datetime.max.replace(tzinfo=dt.UTC)),
        ("TIMESTAMPTZ", '"2024-01-01T01:00:00+01:00"', dt.datetime(2024, 1, 1, tzinfo=dt.UTC)),
        ("UUID", f'"{UUID_TEXT.upper()}"', uuid.UUID(UUID_TEXT)),
        ("JSON", '{ "b" : [1.10, 123456789012345678901234567890], "a":null }',
         '{"b":[1.10,123456789012345678901234567890],"a":null}'),
        ("JSON", "1e400", "1e400"),
        ("JSON", '"text"', '"text"'),
        ("JSON", "null", None),
        ("INTEGER[]", "[1,null,3]", [1, None, 3]),
        ("INTEGER[]", "[]", []),
        ("UUID[]", f'["{UUID_TEXT}",null]', [uuid.UUID(UUID_TEXT), None]),
        ("DECIMAL(4,1)[][]", '[[1,"2.5"],null,[]]', [[Decimal("1.0"), Decimal("2.5")], None, []]),
        ("JSON[]", '[{"a": 1}, null, 2]', ['{"a":1}', None, "2"]),
        ('STRUCT(a INTEGER, "b c" UUID)', f'{{"b c":"{UUID_TEXT}"}}', {"a": None, "b c": uuid.UUID(UUID_TEXT)}),
        ("MAP(VARCHAR, INTEGER)", '{"b":1,"a":null}', [("a", None), ("b", 1)]),
        ("MAP(INTEGER, VARCHAR)", '{"10":"x","-1":"y"}', [(10, "x"), (-1, "y")]),
        ("MAP(DATE, BOOLEAN)", '{"2024-01-01":true}', [(dt.date(2024, 1, 1), True)]),
        ("MAP(BOOLEAN, BOOLEAN)", '{"true":true}', [(True, True)]),
        ("MAP(DOUBLE, INTEGER)", '{"1.5":1,"Infinity":2}', [(1.5, 1), (math.inf, 2)]),
    ],
)  # fmt: skip
def test_a_value_is_stored_as_what_it_says(type_text: str, value: str, expected: Any) -> None:
    found = stored(type_text, value)
    if type_text.startswith("MAP"):
        assert sorted(found, key=str) == sorted(expected, key=str)
    else:
        assert found == expected


@pytest.mark.parametrize("type_text", ["DOUBLE", "FLOAT"])
def test_nan_is_written_as_a_text(type_text: str) -> None:
    assert math.isnan(stored(type_text, '"NaN"'))


@pytest.mark.parametrize(
    ("type_text", "value", "reason"),
    [
        ("BIGINT", "1.0", "wrong type"),
        ("BIGINT", "true", "wrong type"),
        ("BIGINT", '"1"', "wrong type"),
        ("BIGINT", "9223372036854775808", "overflow"),
        ("BIGINT", "-9223372036854775809", "overflow"),
        ("BIGINT", "9" * 400, "overflow"),
        ("INTEGER", "2147483648", "overflow: INTEGER holds -2147483648 to 2147483647"),
        ("UTINYINT", "-1", "overflow"),
        ("UTINYINT", "256", "overflow"),
        ("UBIGINT", "18446744073709551616", "overflow"),
        ("UBIGINT", "-1", "overflow"),
        ("DOUBLE", str(BIG + 1), "loss of precision"),
        ("DOUBLE", "1e400", "overflow"),
        ("DOUBLE", "9" * 400, "overflow"),
        ("DOUBLE", '"1.5"', "a text is no number"),
        ("DOUBLE", "true", "wrong type"),
        ("FLOAT", "16777217", "loss of precision"),
        ("FLOAT", "1e39", "overflow"),
        ("FLOAT", "3.4028235677973366e+38", "overflow"),
        ("FLOAT", str(2**130), "overflow"),
        ("DECIMAL(10,2)", "1.505", "loss of precision"),
        ("DECIMAL(10,2)", '"123456789.00"', "overflow"),
        ("DECIMAL(10,2)", "1e999999999999", "overflow"),
        ("DECIMAL(10,2)", "1e-999999999999", "loss of precision"),
        ("DECIMAL(10,2)", '"NaN"', "no NaN"),
        ("DECIMAL(10,2)", '"sNaN"', "no NaN"),
        ("DECIMAL(10,2)", '"Infinity"', "overflow"),
        ("DECIMAL(10,2)", '"abc"', "decimal"),
        ("DECIMAL(10,2)", "true", "wrong type"),
        ("BOOLEAN", "1", "wrong type"),
        ("VARCHAR", "1", "wrong type"),
        ("BLOB", '"!"', "base64"),
        ("BLOB", '"QQ"', "base64"),
        ("DATE", '"2024-02-30"', "ISO 8601 date"),
        ("DATE", '"10000-01-01"', "ISO 8601 date"),
        ("TIME", '"24:00:00"', "ISO 8601 time"),
        ("TIME", '"12:00:00Z"', "zone is not allowed"),
        ("TIME", '"12:00:00.1234567"', "loss of precision"),
        ("TIMESTAMP", '"2024-01-01T00:00:00Z"', "zone is not allowed"),
        ("TIMESTAMP", '"2024-01-01T00:00:00.0000001"', "loss of precision"),
        ("TIMESTAMP", r'"2024-01-01T00:00:00.00000\u00301"', "loss of precision"),
        ("TIMESTAMP", '"0000-01-01T00:00:00"', "ISO 8601"),
        ("TIMESTAMP", "1700000000", "wrong type"),
        ("TIMESTAMP[]", '["2024-01-01T00:00:00.0000001"]', "loss of precision"),
        ("TIMESTAMPTZ", '"2024-01-01T00:00:00"', "zone is needed"),
        ("TIMESTAMPTZ", '"0001-01-01T00:00:00+01:00"', "overflow"),
        ("TIMESTAMPTZ", '"9999-12-31T23:59:59-01:00"', "overflow"),
        ("TIMESTAMPTZ", '"2024-01-01T00:00:00.1234567+01:00"', "loss of precision"),
        ("UUID", '"123"', "UUID"),
        ("INTEGER[]", "1", "array"),
        ("INTEGER[]", '["a"]', "int"),
        ("UBIGINT[]", "[18446744073709551616]", "overflow"),
        ("STRUCT(a INTEGER)", '{"b":1}', "unknown field"),
        ("STRUCT(a INTEGER)", '{"a":1,"a":2}', "named twice"),
        ("STRUCT(a DECIMAL(2,1))", '{"a":10}', "overflow"),
        ("MAP(INTEGER, INTEGER)", '{"x":1}', "does not fit"),
        ("MAP(INTEGER, INTEGER)", '{"1":1,"1":2}', "twice"),
        ("MAP(DOUBLE, INTEGER)", '{"1":1,"1.0":2}', "twice"),
        ("MAP(VARCHAR, INTEGER)", '{"a":"x"}', "int"),
    ],
)
def test_a_misfit_is_refused_with_record_column_and_reason(type_text: str, value: str, reason: str) -> None:
    decoder = decoder_of({"c": type_text})
    error = refusal(decoder.decode, body_of('{"c":null}', f'{{"c":{value}}}'))
    assert isinstance(error, ValidationFailed)
    assert error.context["record"] == 1
    assert error.context["table"] == "events"
    assert error.context["column"].startswith("c")
    assert reason in error.context["reason"]
    assert "record 1" in error.message


@pytest.mark.parametrize("digits", [4_299, 4_301, 100_000])
@pytest.mark.parametrize(
    "type_text", ["BIGINT", "UBIGINT", "DOUBLE", "FLOAT", "DECIMAL(38,0)", "DOUBLE[]", "MAP(BIGINT, DOUBLE)"]
)
def test_a_number_of_any_length_is_a_clean_error(type_text: str, digits: int) -> None:
    number = "9" * digits
    value = f"[{number}]" if type_text.endswith("[]") else number
    for sent in (value, f'{{"{number}":1}}', f'{{"1":{number}}}'):
        assert isinstance(refusal(decoder_of({"c": type_text}).decode, body_of(f'{{"c":{sent}}}')), InvalidRequest)


@pytest.mark.parametrize("digits", [400, 5_000])
def test_json_keeps_a_number_of_any_length(digits: int) -> None:
    assert stored("JSON", f"[{'9' * digits}]") == f"[{'9' * digits}]"


@pytest.mark.parametrize("value", ['{"a":"\xff"}', '"\xff"', '"\xed\xa0\x80"'])
@pytest.mark.parametrize("type_text", ["VARCHAR", "JSON", "MAP(VARCHAR, VARCHAR)"])
def test_invalid_utf8_is_refused(type_text: str, value: str) -> None:
    body = body_of('{"c":null}', f'{{"c":{value}}}').decode().encode("latin-1")
    error = refusal(decoder_of({"c": type_text}).decode, body)
    assert isinstance(error, InvalidRequest)


def test_invalid_utf8_is_refused_with_its_place() -> None:
    body = body_of('{"c":"fine"}', '{"c":"\xff"}').decode().encode("latin-1")
    error = refusal(decoder_of({"c": "VARCHAR"}).decode, body)
    assert (error.context["record"], error.context["column"], error.context["reason"]) == (1, "c", "invalid UTF-8")


@pytest.mark.parametrize("type_text", ["VARCHAR", "JSON", "VARCHAR[]"])
@pytest.mark.parametrize("escape", [r'"\ud800"', r'"\udc00 and more"', r'"\ud800\u0041"'])
def test_a_lone_surrogate_is_refused(type_text: str, escape: str) -> None:
    value = f"[{escape}]" if type_text.endswith("[]") else escape
    assert isinstance(refusal(decoder_of({"c": type_text}).decode, body_of(f'{{"c":{value}}}')), InvalidRequest)


@pytest.mark.parametrize(
    ("type_text", "one", "other"),
    [
        ("DOUBLE", "1", "1.0"),
        ("DOUBLE", "1e2", "100"),
        ("FLOAT", "0.1", "0.10000000149011612"),
        ("DOUBLE[]", "[1]", "[1.0]"),
        ("DECIMAL(10,2)", '"1.50"', "1.5"),
        ("DECIMAL(10,2)", "0", '"-0.00"'),
        ("VARCHAR", r'"\u00e9"', '"é"'),
        ("TIMESTAMPTZ", '"2024-01-01T00:00:00Z"', '"2024-01-01T00:00:00+00:00"'),
        ("TIMESTAMPTZ", '"2024-01-01T00:00:00Z"', '"2024-01-01T01:00:00.000+01:00"'),
        ("TIMESTAMP", '"2024-01-01T00:00:00"', '"2024-01-01 00:00:00.000000"'),
        ("UUID", f'"{UUID_TEXT}"', f'"{UUID_TEXT.upper()}"'),
        ("JSON", '{"a":1,"b":2}', '{ "b": 2, "a": 1 }'),
        ("JSON", r'"\u00e9"', '"é"'),
        ("MAP(VARCHAR, INTEGER)", '{"a":1,"b":2}', '{"b":2,"a":1}'),
        ("STRUCT(a INTEGER, b INTEGER)", '{"a":1,"b":null}', '{"a":1}'),
    ],
)
def test_two_spellings_of_one_value_are_the_same_content(type_text: str, one: str, other: str) -> None:
    assert content(type_text, one) == content(type_text, other)


@pytest.mark.parametrize(
    ("type_text", "one", "other"),
    [
        ("DOUBLE", '"NaN"', "null"),
        ("DOUBLE", '"Infinity"', '"NaN"'),
        ("BIGINT", "1", "2"),
        ("VARCHAR", '"1"', '"2"'),
        ("VARCHAR", '""', "null"),
        ("JSON", '"1"', "1"),
        ("JSON", "[1,2]", "[2,1]"),
        ("INTEGER[]", "[]", "null"),
        ("INTEGER[]", "[null]", "[]"),
        ("TIMESTAMPTZ", '"2024-01-01T00:00:00Z"', '"2024-01-01T00:00:00+01:00"'),
        ("BOOLEAN", "true", "false"),
    ],
)
def test_two_values_are_two_contents(type_text: str, one: str, other: str) -> None:
    assert content(type_text, one) != content(type_text, other)


def test_every_nan_is_the_same_content() -> None:
    assert content("DOUBLE", '"NaN"') == content("DOUBLE", '"NaN"')
