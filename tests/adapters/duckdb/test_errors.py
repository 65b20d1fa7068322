"""DuckDB's failures as errors of the domain."""

import pytest

from duckmesh.adapters.duckdb.errors import translated
from duckmesh.domain.errors import (
    DataCorrupt,
    DuckMeshError,
    ErrorKind,
    ObjectMissing,
    QueryResourceExceeded,
    QueryTimeout,
    SqlExecutionFailed,
    SqlInvalid,
    SqlNotAllowed,
    Unavailable,
)

FILE = "/data/tenant-a/t/0001.parquet"
FILES = {FILE: "t"}


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ("Parser Error: syntax error", SqlInvalid),
        ("Binder Error: no column", SqlInvalid),
        ("Catalog Error: no function", SqlInvalid),
        ("Conversion Error: not a number", SqlExecutionFailed),
        ("Out of Range Error: overflow", SqlExecutionFailed),
        ("Invalid Input Error: boo", SqlExecutionFailed),
        ("Not implemented Error: cannot", SqlExecutionFailed),
        ("Permission Error: Cannot access file", SqlNotAllowed),
        ("Out of Memory Error: failed to allocate", QueryResourceExceeded),
        ("INTERRUPT Error: Interrupted!", QueryTimeout),
        ("IO Error: Could not connect", Unavailable),
        (f'IO Error: Cannot open file "{FILE}": No such file or directory', ObjectMissing),
        (f'IO Error: No files found that match the pattern "{FILE}"', ObjectMissing),
        (f"Invalid Input Error: No magic bytes found at end of file '{FILE}'", DataCorrupt),
        (f"Conversion Error: in file '{FILE}' a value", DataCorrupt),
        ("HTTP Error: HTTP GET error on 'http://h/b/x' (HTTP 404)", ObjectMissing),
        ("HTTP Error: HTTP GET error on 'http://h/b/x' (HTTP 503)", Unavailable),
        ("INTERNAL Error: Attempted to access index 5", DuckMeshError),
        ("FATAL Error: database invalidated", DuckMeshError),
        ("something new", DuckMeshError),
    ],
)
def test_every_failure_has_its_class(said: str, expected: type[DuckMeshError]) -> None:
    assert type(translated(OSError(said), files=FILES)) is expected


def test_a_failure_of_a_file_names_its_table_and_nothing_else() -> None:
    error = translated(OSError(f"Invalid Input Error: Footer length error in file '{FILE}'"), files=FILES)
    assert error.context == {"table": "t"}
    assert "0001" not in error.message
    assert error.kind is ErrorKind.UNAVAILABLE


def test_an_excerpt_of_the_users_sql_stays_and_one_of_ours_goes() -> None:
    said = "Binder Error: no column x\n\nLINE 1: SELECT x\n               ^"
    assert "LINE 1: SELECT x" in translated(OSError(said), sql="SELECT x FROM t").message
    assert translated(OSError(said), sql="SELECT y FROM t").message == "no column x"


def test_hints_about_settings_and_addresses_go() -> None:
    said = "Conversion Error: bad value\nUse SET foo = 1 to change that\nsee https://example.com/x and s3://b/c"
    assert translated(OSError(said)).message == "bad value\nsee … and …"


def test_an_internal_failure_says_nothing_of_its_text() -> None:
    error = translated(OSError("INTERNAL Error: secret detail"))
    assert error.code == "INTERNAL_ERROR"
    assert "secret" not in error.message
