"""What was accepted can always be written to Parquet and read back: random schemas, random values."""

import base64
import itertools
import json
import math
import struct
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal as Exact
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ingest_bodies import NOW, decoder_of

from duckmesh.domain.types import (
    INTEGER_RANGES,
    Decimal,
    Kind,
    ListOf,
    LogicalType,
    MapOf,
    Scalar,
    Struct,
)

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
ZONES = st.integers(-1439, 1439).map(lambda minutes: timezone(timedelta(minutes=minutes)))
INSTANTS = st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=ZONES)  # noqa: DTZ001

DECIMALS = st.integers(1, 38).flatmap(lambda p: st.integers(0, p).map(lambda s: Decimal(p, s)))
SCALARS = st.sampled_from([Scalar(kind) for kind in Kind]) | DECIMALS
KEYS = st.sampled_from([Scalar(kind) for kind in Kind if kind not in {Kind.JSON, Kind.DOUBLE, Kind.FLOAT}]) | DECIMALS
FIELDS = st.lists(SCALARS, min_size=1, max_size=3).map(
    lambda kinds: Struct(tuple((f"f {place}.x", kind) for place, kind in enumerate(kinds)))
)
TYPES = st.recursive(
    SCALARS,
    lambda inner: (
        inner.map(ListOf)
        | st.lists(inner, min_size=1, max_size=3).map(lambda ks: Struct(tuple((f"m{n}", k) for n, k in enumerate(ks))))
        | st.tuples(KEYS, inner).map(lambda pair: MapOf(*pair))
    ),
    max_leaves=4,
)


def values(logical: LogicalType) -> st.SearchStrategy[tuple[Any, Any]]:
    """Pairs of a value as JSON and as DuckDB gives it back."""
    match logical:
        case Scalar(kind) if kind in INTEGER_RANGES:
            return st.integers(*INTEGER_RANGES[kind]).map(lambda value: (value, value))
        case Scalar(kind):
            return SCALAR_VALUES[kind]
        case Decimal(precision, scale):
            most = 10**precision - 1
            return st.integers(-most, most).map(lambda digits: exact(digits, scale))
        case ListOf(element):
            return st.lists(nullable(element), max_size=4).map(
                lambda pairs: ([j for j, _ in pairs], [v for _, v in pairs])
            )
        case Struct(fields):
            parts = st.tuples(*(nullable(kind) for _, kind in fields))
            return parts.map(lambda pairs: struct_of([name for name, _ in fields], pairs))
        case MapOf(key, value):
            pairs = st.tuples(values(key), nullable(value))
            return st.lists(pairs, max_size=4, unique_by=lambda pair: repr(pair[0][1])).map(map_of)
    raise AssertionError(logical)


def nullable(logical: LogicalType) -> st.SearchStrategy[tuple[Any, Any]]:
    return st.one_of(st.just((None, None)), values(logical))


def exact(digits: int, scale: int) -> tuple[str, Exact]:
    number = Exact((int(digits < 0), tuple(int(digit) for digit in str(abs(digits))), -scale))
    return f"{number:f}", number


def struct_of(names: list[str], pairs: tuple[tuple[Any, Any], ...]) -> tuple[Any, Any]:
    sent = {name: json_value for name, (json_value, _) in zip(names, pairs, strict=True)}
    return sent, {name: value for name, (_, value) in zip(names, pairs, strict=True)}


def map_of(pairs: list[tuple[tuple[Any, Any], tuple[Any, Any]]]) -> tuple[Any, Any]:
    sent = {key if isinstance(key, str) else json.dumps(key): value for (key, _), (value, _) in pairs}
    return sent, [(key, value) for (_, key), (_, value) in pairs]


def number(value: float) -> tuple[Any, float]:
    if math.isfinite(value):
        return value, value
    return {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}[str(value)], value


def single(value: float) -> tuple[Any, float]:
    sent, _ = number(value)
    return sent, struct.unpack("f", struct.pack("f", value))[0]


def same(value: Any) -> tuple[Any, Any]:
    return value, value


SCALAR_VALUES = {
    Kind.DOUBLE: st.floats().map(number),
    Kind.FLOAT: st.floats(width=32).map(single),
    Kind.BOOLEAN: st.booleans().map(same),
    Kind.VARCHAR: TEXT.map(same),
    Kind.BLOB: st.binary(max_size=8).map(lambda value: (base64.b64encode(value).decode(), value)),
    Kind.DATE: st.dates(date(1, 1, 1), date(9999, 12, 31)).map(lambda value: (value.isoformat(), value)),
    Kind.TIME: st.times(time.min, time.max).map(lambda value: (value.isoformat(), value)),
    Kind.TIMESTAMP: st.datetimes().map(lambda value: (value.isoformat(), value)),
    Kind.TIMESTAMPTZ: INSTANTS.map(lambda value: (value.isoformat(), value.astimezone(UTC))),
    Kind.UUID: st.uuids().map(lambda value: (str(value), value)),
    Kind.JSON: JSON.filter(lambda value: value is not None).map(
        lambda value: (value, json.dumps(value, ensure_ascii=False, separators=(",", ":")))
    ),
}


@st.composite
def tables(draw: st.DrawFn) -> tuple[list[LogicalType], list[list[tuple[Any, Any]]]]:
    kinds = draw(st.lists(TYPES, min_size=1, max_size=4))
    row = st.tuples(*(nullable(kind) for kind in kinds))
    return kinds, draw(st.lists(row, min_size=1, max_size=6))


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[pa.RecordBatch], pa.Table]]:
    """Writes a batch as Parquet and reads it with DuckDB."""
    folder = tmp_path_factory.mktemp("parquet")
    connection = duckdb.connect()
    numbers = itertools.count()

    def read_back(batch: pa.RecordBatch) -> pa.Table:
        path = folder / f"{next(numbers)}.parquet"  # a new one each time: DuckDB remembers what it read
        pq.write_table(pa.Table.from_batches([batch]), path, compression="zstd")
        return connection.execute("SELECT * FROM read_parquet(?)", [str(path)]).to_arrow_table()

    yield read_back
    connection.close()


FORMS: dict[Kind, Callable[[Any], Any]] = {
    Kind.UUID: str,
    Kind.JSON: lambda text: repr(json.loads(text)),
    Kind.DOUBLE: repr,
    Kind.FLOAT: repr,
}


def comparable(logical: LogicalType, value: Any) -> Any:
    """A form in which two results can be compared: NaN equals itself, maps have no order, JSON is its meaning."""
    if value is None:
        return None
    match logical:
        case ListOf(element):
            return [comparable(element, part) for part in value]
        case Struct(fields):
            return [comparable(kind, value[name]) for name, kind in fields]
        case MapOf(key, inner):
            pairs = value.items() if isinstance(value, dict) else value
            return sorted(((comparable(key, k), comparable(inner, v)) for k, v in pairs), key=repr)
        case Scalar(kind):
            return FORMS.get(kind, lambda plain: plain)(value)
        case _:
            return value


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(tables())
def test_what_was_accepted_is_read_back_from_parquet(read: Any, drawn: Any) -> None:
    kinds, rows = drawn
    names = [f"c{place}" for place in range(len(kinds))]
    decoder = decoder_of(dict(zip(names, map(str, kinds), strict=True)))
    payloads = [{name: sent for name, (sent, _) in zip(names, row, strict=True)} for row in rows]
    records = [{"idempotency_key": str(n), "payload": payload} for n, payload in enumerate(payloads)]
    plain = decoder.decode(json.dumps({"records": records}, ensure_ascii=False).encode()).records
    escaped = decoder.decode(json.dumps({"records": records}, separators=(",", ":"), indent=1).encode()).records
    assert plain.content_ids == escaped.content_ids

    batch = decoder.batch([plain, escaped], NOW)
    batch.validate(full=True)
    found = read(batch)
    assert found.num_rows == 2 * len(rows)
    for place, kind in enumerate(kinds):
        expected = [comparable(kind, row[place][1]) for row in rows] * 2
        assert [comparable(kind, value) for value in found.column(place).to_pylist()] == expected
