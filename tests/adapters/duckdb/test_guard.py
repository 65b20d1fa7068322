"""The gate on the syntax tree."""

from collections.abc import Iterator

import duckdb
import pytest

from duckmesh.adapters.duckdb.guard import MAX_SQL_BYTES, SqlGuard
from duckmesh.adapters.duckdb.instance import locked
from duckmesh.domain.errors import SqlInvalid, SqlNotAllowed

TABLES = ("events", "Users")

ALLOWED = {
    "SELECT 1": set(),
    "FROM events": {"events"},
    "SELECT * FROM EVENTS e JOIN main.users u ON e.id = u.id": {"events", "users"},
    "WITH a AS (FROM events), b AS (FROM a) SELECT * FROM b": {"events"},
    "WITH events AS (SELECT 1) SELECT * FROM events": set(),
    "WITH events AS (FROM events) SELECT * FROM events": {"events"},
    "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r WHERE n < 5) FROM r": set(),
    "SELECT (SELECT max(id) FROM users) FROM range(3)": {"users"},
    "SELECT * FROM events WHERE id IN (SELECT id FROM users) AND EXISTS (FROM users)": {"events", "users"},
    "SELECT unnest([1, 2]), x FROM unnest([3]) AS t(x), generate_series(1, 2), json_each('[1]')": set(),
    "SELECT * FROM (PIVOT events ON kind IN ('a', 'b') USING sum(id))": {"events"},
    "UNPIVOT events ON a, b": {"events"},
    "DESCRIBE events": {"events"},
    "SUMMARIZE events": {"events"},
    "SELECT id, row_number() OVER (PARTITION BY k ORDER BY id) FROM events "
    "WINDOW w AS (ORDER BY id) QUALIFY rank() OVER w = 1": {"events"},
    "SELECT CAST(a AS DECIMAL(10, 2)), b::STRUCT(x INTEGER)[], try_cast(c AS MAP(VARCHAR, DATE)) FROM events": {
        "events"
    },
    "SELECT list_transform(l, lambda x: x + 1), [x * 2 FOR x IN l IF x > 1], {'a': 1}.a, l[1:2] FROM events": {
        "events"
    },
    "SELECT * EXCLUDE (a) REPLACE (b AS b), COLUMNS('x.*') FROM events TABLESAMPLE 10% LIMIT 5 OFFSET 1": {"events"},
    "VALUES (1, 'a')": set(),
    "SELECT 1 UNION ALL BY NAME SELECT 2 AS x ORDER BY ALL LIMIT 10%": set(),
    "SELECT count(*) FILTER (WHERE a) FROM events GROUP BY GROUPING SETS ((a), ()) HAVING count(*) > 1": {"events"},
    "SELECT * FROM events ASOF JOIN users ON events.at >= users.at": {"events", "users"},
    "SELECT pg_typeof(1), 'x' COLLATE NOCASE, #1, interval 1 day, date '2024-01-01'": set(),
    "SELECT 'SET x; DROP TABLE y' -- ; SELECT 2": set(),
}


@pytest.fixture(scope="module")
def guard() -> Iterator[SqlGuard]:
    with locked() as connection:
        yield SqlGuard(connection)


@pytest.mark.parametrize("sql", ALLOWED)
def test_ordinary_sql_passes_and_its_tables_are_known(guard: SqlGuard, sql: str) -> None:
    assert guard.check(sql, TABLES).tables == ALLOWED[sql]


def test_parameters_are_known_by_position_or_name(guard: SqlGuard) -> None:
    assert guard.check("SELECT ?, $2", TABLES).parameters == {"1", "2"}
    assert guard.check("SELECT $a + $b", TABLES).parameters == {"a", "b"}


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("SET threads = 1", "this is SET"),
        ("COPY events TO 'x'", "this is COPY"),
        ("SELECT 1; SELECT 2", "these are 2"),
        ("PIVOT events ON kind", "PIVOT needs its values"),
        ("SHOW TABLES", "DESCRIBE"),
        ("FROM read_csv('x')", "read_csv"),
        ("SELECT getenv('x')", "getenv"),
        ("SELECT GetEnv('x')", "getenv"),
        ("SELECT main.getenv('x')", "getenv"),
        ("SELECT id.getenv() FROM events", "getenv"),
        ("FROM information_schema.tables", "information_schema.tables"),
        ("FROM events AT (VERSION => 1)", "snapshot_id"),
        ("SELECT DEFAULT FROM events", "DEFAULT"),
    ],
)
def test_a_refusal_says_what_is_not_allowed(guard: SqlGuard, sql: str, said: str) -> None:
    with pytest.raises(SqlNotAllowed, match=said):
        guard.check(sql, TABLES)


@pytest.mark.parametrize(
    "sql",
    [
        "WITH a AS (FROM sqlite_master), sqlite_master AS (SELECT 1) FROM a",
        "WITH sqlite_master AS (FROM sqlite_master) FROM sqlite_master",
        "SELECT (WITH sqlite_master AS (SELECT 1) SELECT 1 FROM sqlite_master) FROM sqlite_master",
        "(WITH sqlite_master AS (SELECT 1) FROM sqlite_master) UNION ALL (SELECT 1 FROM sqlite_master)",
        "WITH RECURSIVE a AS (SELECT 1 FROM duckdb_views UNION ALL FROM a), duckdb_views AS (SELECT 1) FROM a",
        "WITH sqlite_master AS (SELECT 1) FROM main.sqlite_master",
    ],
)
def test_a_name_of_the_engine_cannot_hide_behind_a_common_table_expression(guard: SqlGuard, sql: str) -> None:
    with pytest.raises(SqlNotAllowed):
        guard.check(sql, TABLES)


def test_an_unknown_table_is_named_with_the_tables_that_it_could_mean(guard: SqlGuard) -> None:
    with pytest.raises(SqlInvalid, match="did you mean Users") as caught:
        guard.check("FROM user_s", TABLES)
    assert caught.value.context == {"table": "user_s", "similar": ["Users"]}


@pytest.mark.parametrize("sql", ["", " ", ";", "-- nothing", "SELECT 1 /* open", "SELECT 'a", "\ud800", "SELECT '\0'"])
def test_what_does_not_parse_is_invalid(guard: SqlGuard, sql: str) -> None:
    with pytest.raises(SqlInvalid):
        guard.check(sql, TABLES)


def test_long_sql_is_refused_before_it_is_parsed(guard: SqlGuard) -> None:
    with pytest.raises(SqlNotAllowed, match="longer"):
        guard.check("SELECT 1" + " " * MAX_SQL_BYTES, TABLES)


@pytest.mark.parametrize("depth", [300, 900, 5_000, 16_000])
@pytest.mark.parametrize(("start", "end"), [("(", ")"), ("NOT ", ""), ("[", "]"), ("abs(", ")"), ("(SELECT ", ")")])
def test_deep_sql_is_an_error_and_no_crash(guard: SqlGuard, start: str, end: str, depth: int) -> None:
    sql = f"SELECT {start * depth}true{end * depth}"
    said = ""
    try:
        guard.check(sql, TABLES)
    except (SqlInvalid, SqlNotAllowed) as error:
        said = error.message
    assert "SET" not in said


def test_the_parser_can_read_no_file(guard: SqlGuard) -> None:
    with pytest.raises(SqlNotAllowed):
        guard.check("IMPORT DATABASE '/etc'", TABLES)


def test_every_function_of_the_engine_that_reads_a_file_or_setting_is_refused(guard: SqlGuard) -> None:
    with duckdb.connect(":memory:") as connection:
        rows = connection.execute(
            "SELECT DISTINCT function_name FROM duckdb_functions() WHERE function_type IN ('table', 'table_macro')"
        ).fetchall()
    harmless = {"range", "generate_series", "unnest", "repeat", "json_each", "json_tree"}
    for (name,) in rows:
        if name not in harmless:
            with pytest.raises(SqlNotAllowed):
                guard.check(f'FROM "{name}"(1)', TABLES)
