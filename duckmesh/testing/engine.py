"""Laws of `QueryEngine`: the files of one snapshot, and nothing else.

Run them against an adapter by giving the suite a bench, which is an open engine and a place where its files lie::

    from duckmesh.testing.engine import EngineBench, QueryEngineSuite

    class TestMyEngine(QueryEngineSuite):
        @pytest_asyncio.fixture
        async def bench(self, tmp_path):
            async with MyEngine() as engine:
                async def write(path: str, data: bytes) -> ObjectLocation: ...
                yield EngineBench(engine, write)
"""

import asyncio
import datetime as dt
import decimal
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, Final

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import pytest_asyncio
from attrs import evolve as changed
from attrs import frozen

from duckmesh.domain.errors import (
    DataCorrupt,
    DuckMeshError,
    ObjectMissing,
    QueryResourceExceeded,
    QueryTimeout,
    SqlExecutionFailed,
    SqlInvalid,
    SqlNotAllowed,
)
from duckmesh.domain.schema import TableSchema, first_schema, parse_specs
from duckmesh.domain.writes import Operation
from duckmesh.ports.columns import EVENT_TIME, OPERATION, ORDINAL, TOKEN, file_schema
from duckmesh.ports.engine import EngineQuery, EngineResult, QueryEngine, QueryLimits, Relation, RelationFile
from duckmesh.ports.objectstore import ObjectLocation
from duckmesh.testing.laws import LawSuite, law, missing_hook

EVENTS: Final = first_schema(parse_specs({"id": "BIGINT", "name": "VARCHAR"}))
STATES: Final = first_schema(parse_specs({"id": "BIGINT", "name": "VARCHAR"}), ["id"])
NOON: Final = dt.datetime(2024, 5, 17, 12, 0, 0, 123456, tzinfo=dt.UTC)

#: Takes minutes on any machine, with hardly any memory, and yields nothing before it ends.
ENDLESS: Final = "SELECT sum(a.range * b.range) FROM range(100000000) a, range(1000000) b"
_LAW_TIMEOUT_S: Final = 10.0


@frozen(eq=False)
class EngineBench:
    """An open engine, and how to put an object where it looks for it. ``write`` takes a path and bytes."""

    engine: QueryEngine
    write: Callable[[str, bytes], Awaitable[ObjectLocation]]

    async def file(self, schema: TableSchema, rows: Sequence[Mapping[str, Any]], path: str = "") -> RelationFile:
        """Write a data file of these rows; system columns that a row leaves out are filled in."""
        data = parquet(schema, rows)
        path = path or f"data/{uuid.uuid4().hex}.parquet"
        return RelationFile(path, await self.write(path, data), len(data), len(rows))

    async def ask(
        self,
        sql: str,
        *relations: Relation,
        parameters: Sequence[Any] | Mapping[str, Any] | None = None,
        limits: QueryLimits | None = None,
    ) -> EngineResult:
        """The engine's answer."""
        return await self.engine.execute(EngineQuery(sql, relations, parameters, limits or QueryLimits()))

    async def rows(self, sql: str, *relations: Relation, **options: Any) -> list[tuple[Any, ...]]:
        """The rows of the answer."""
        table = (await self.ask(sql, *relations, **options)).table
        return list(zip(*(column.to_pylist() for column in table.columns), strict=True))


def parquet(schema: TableSchema, rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A data file as publications write it."""
    system: dict[str, Any] = {EVENT_TIME: NOON, TOKEN: 1}
    if schema.keyed:
        system |= {OPERATION: int(Operation.UPSERT), ORDINAL: 0}
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist([{**system, **row} for row in rows], schema=file_schema(schema)), sink)
    return bytes(sink.getvalue())


def relation(schema: TableSchema, *files: RelationFile, name: str = "t") -> Relation:
    """A relation over these files."""
    return Relation(name, schema, files)


class QueryEngineSuite(LawSuite):
    """Laws of a query engine."""

    @pytest_asyncio.fixture
    async def bench(self) -> AsyncIterator[EngineBench]:
        """An open engine and its files (required)."""
        missing_hook(self, "bench", "yield an EngineBench with an open engine")
        yield

    @law("ENG-1", "A query reads the files of its relation and no others")
    async def test_a_query_reads_exactly_its_files(self, bench: EngineBench) -> None:
        first, second = [await bench.file(EVENTS, [{"id": n, "name": "x"}]) for n in (1, 2)]
        await bench.file(EVENTS, [{"id": 3, "name": "beside"}])
        answer = await bench.ask("SELECT id FROM t ORDER BY id", relation(EVENTS, first, second))
        assert answer.table.column(0).to_pylist() == [1, 2]
        assert (answer.scanned_files, answer.scanned_bytes) == (2, first.size + second.size)

    @law("ENG-2", "A relation shows its columns, then the event time and the token")
    async def test_the_columns_of_a_relation(self, bench: EngineBench) -> None:
        for schema in (EVENTS, STATES):
            answer = await bench.ask("SELECT * FROM t", relation(schema, await bench.file(schema, [{"id": 7}])))
            assert answer.table.column_names == ["id", "name", "_event_time", "_token"]
            assert [c.to_pylist() for c in answer.table.columns] == [[7], [None], [NOON], [1]]

    @law("ENG-3", "Columns are mapped by their id: a rename keeps the data, a name used again resurrects none")
    async def test_columns_are_mapped_by_id(self, bench: EngineBench) -> None:
        file = await bench.file(EVENTS, [{"id": 7, "name": "old"}])
        identity, name = EVENTS.columns
        renamed = changed(EVENTS, version=2, columns=(identity, changed(name, name="title")))
        assert await bench.rows("SELECT id, title FROM t", relation(renamed, file)) == [(7, "old")]
        again = changed(EVENTS, version=3, columns=(identity, changed(name, column_id=3)))
        assert await bench.rows("SELECT id, name FROM t", relation(again, file)) == [(7, None)]

    @law("ENG-4", "A column that a file does not have shows its default, or null")
    async def test_missing_columns_show_their_default(self, bench: EngineBench) -> None:
        old = await bench.file(EVENTS, [{"id": 1}])
        late = parse_specs({"kind": {"type": "VARCHAR", "default": "it's"}, "parts": "INTEGER[]"})
        added = (*EVENTS.columns, *(spec.with_id(number) for number, spec in enumerate(late, start=3)))
        schema = changed(EVENTS, version=2, columns=added)
        new = await bench.file(schema, [{"id": 2, "kind": None, "parts": [1]}])
        rows = await bench.rows("SELECT id, kind, parts FROM t ORDER BY id", relation(schema, new, old))
        assert rows == [(1, "it's", None), (2, None, [1])]

    @law("ENG-5", "On a keyed table the last row of a key wins: by token, then by its place in the write")
    async def test_the_last_write_of_a_key_wins(self, bench: EngineBench) -> None:
        files = [
            await bench.file(STATES, [{"id": 1, "name": "first", TOKEN: 1}, {"id": 2, "name": "a", TOKEN: 1}]),
            await bench.file(
                STATES,
                [{"id": 1, "name": "later", TOKEN: 9, ORDINAL: 1}, {"id": 1, "name": "mid", TOKEN: 9, ORDINAL: 0}],
            ),
            await bench.file(STATES, [{"id": 1, "name": "middle", TOKEN: 8, ORDINAL: 5}]),
        ]
        for order in ((0, 1, 2), (2, 1, 0), (1, 0, 2)):
            shown = relation(STATES, *(files[number] for number in order))
            assert await bench.rows("SELECT id, name FROM t ORDER BY id", shown) == [(1, "later"), (2, "a")]
            assert await bench.rows("SELECT id FROM t WHERE name = 'first'", shown) == []

    @law("ENG-6", "A deleted key is hidden until it is written again")
    async def test_a_delete_hides_its_key(self, bench: EngineBench) -> None:
        gone = {OPERATION: int(Operation.DELETE)}
        files = [
            await bench.file(STATES, [{"id": 1, TOKEN: 5, **gone}, {"id": 2, TOKEN: 5, **gone}]),
            await bench.file(STATES, [{"id": n, "name": "old", TOKEN: 1} for n in (1, 2, 3)]),
            await bench.file(STATES, [{"id": 2, "name": "back", TOKEN: 6}]),
        ]
        for order in (files, files[::-1]):
            shown = relation(STATES, *order)
            assert await bench.rows("SELECT id, name FROM t ORDER BY id", shown) == [(2, "back"), (3, "old")]

    @law("ENG-7", "A relation without files is empty, with the types of its columns")
    async def test_a_relation_without_files_is_empty(self, bench: EngineBench) -> None:
        for schema in (EVENTS, STATES):
            answer = await bench.ask("SELECT * FROM t", relation(schema))
            assert (answer.table.num_rows, answer.scanned_files) == (0, 0)
            assert answer.column_types == ("BIGINT", "VARCHAR", "TIMESTAMP WITH TIME ZONE", "BIGINT")

    @law("ENG-8", "One SELECT runs; every other statement is refused, and so are two")
    async def test_only_one_select_runs(self, bench: EngineBench) -> None:
        shown = relation(EVENTS, await bench.file(EVENTS, [{"id": 1}]))
        for sql in OTHER_STATEMENTS:
            with pytest.raises(SqlNotAllowed):
                await bench.ask(sql, shown)
        for sql in ("", "  -- nothing", ";", "SELEC 1", "SELECT FROM WHERE"):
            with pytest.raises(SqlInvalid):
                await bench.ask(sql, shown)

    @law("ENG-9", "SQL reaches no file, setting, secret or catalog of the engine")
    async def test_nothing_outside_is_reached(self, bench: EngineBench) -> None:
        beside = await bench.file(EVENTS, [{"id": 3, "name": "beside"}])
        shown = relation(EVENTS, await bench.file(EVENTS, [{"id": 1}]))
        for location in {beside.location.uri, shown.files[0].location.uri, "/etc/passwd", "../*"}:
            place = location.replace("'", "''")
            for sql in (f"FROM '{place}'", f"FROM read_parquet('{place}')", f"FROM read_text(['{place}'])"):
                with pytest.raises(SqlNotAllowed):
                    await bench.ask(sql, shown)
        for sql in OUTSIDE:
            with pytest.raises((SqlNotAllowed, SqlInvalid)):
                await bench.ask(sql, shown)

    @law("ENG-10", "A query that runs past its time limit is stopped, and the engine goes on")
    async def test_the_time_limit_holds(self, bench: EngineBench) -> None:
        started = time.monotonic()
        with pytest.raises(QueryTimeout):
            async with asyncio.timeout(_LAW_TIMEOUT_S):
                await bench.ask(ENDLESS, limits=QueryLimits(timeout_s=0.3))
        assert time.monotonic() - started < _LAW_TIMEOUT_S / 2
        assert await bench.rows("SELECT 1") == [(1,)]

    @law("ENG-11", "No more rows than the limit are returned or made, and a cut is said")
    async def test_the_row_limit_cuts_and_says_so(self, bench: EngineBench) -> None:
        shown = relation(EVENTS, await bench.file(EVENTS, [{"id": n} for n in range(10)]))
        limits = QueryLimits(max_rows=10)
        whole = await bench.ask("SELECT * FROM t", shown, limits=limits)
        assert (whole.table.num_rows, whole.truncated) == (10, False)
        for sql in ("SELECT * FROM t UNION ALL SELECT * FROM t", "SELECT * FROM range(100000000000)"):
            cut = await bench.ask(sql, shown, limits=limits)
            assert (cut.table.num_rows, cut.truncated) == (10, True)

    @law("ENG-12", "A result that is too large is refused")
    async def test_the_size_limit_refuses(self, bench: EngineBench) -> None:
        limits = QueryLimits(max_bytes=100_000)
        with pytest.raises(QueryResourceExceeded):
            await bench.ask("SELECT repeat('x', 1000) FROM range(1000)", limits=limits)
        assert (await bench.ask("SELECT repeat('x', 1000) FROM range(10)", limits=limits)).table.num_rows == 10

    @law("ENG-13", "A query that wants more memory than it may use is refused, and the engine goes on")
    async def test_the_memory_limit_refuses(self, bench: EngineBench) -> None:
        with pytest.raises(QueryResourceExceeded):
            await bench.ask("SELECT list(range) FROM range(50000000)", limits=QueryLimits(memory_bytes=50_000_000))
        assert await bench.rows("SELECT 1") == [(1,)]

    @law("ENG-14", "Parameters are values: by position, by name, and never SQL")
    async def test_parameters_are_values(self, bench: EngineBench) -> None:
        shown = relation(EVENTS, await bench.file(EVENTS, [{"id": 1, "name": "a'; --"}, {"id": 2, "name": "b"}]))
        by_name = "SELECT id FROM t WHERE name = "
        assert await bench.rows(f"{by_name}?", shown, parameters=["a'; --"]) == [(1,)]
        assert await bench.rows(f"{by_name}$1 AND id = $2", shown, parameters=("b", 2)) == [(2,)]
        assert await bench.rows(f"{by_name}$Name", shown, parameters={"name": "b"}) == [(2,)]
        values = [None, True, 2**63 - 1, 1.5, "ü\n", [1, 2], dt.date(2024, 2, 29), NOON, decimal.Decimal("1.50")]
        assert await bench.rows(f"SELECT {', '.join('?' * len(values))}", parameters=values) == [tuple(values)]

    @law("ENG-15", "Parameters that do not fit the SQL are its error, and said")
    async def test_parameters_that_do_not_fit_are_refused(self, bench: EngineBench) -> None:
        unfit: list[tuple[str, Any]] = [
            ("SELECT ?", None), ("SELECT ?, ?", [1]), ("SELECT ?", [1, 2]), ("SELECT ?", {"a": 1}),
            ("SELECT $a", [1]), ("SELECT $a", {}), ("SELECT $a", {"a": 1, "b": 2}), ("SELECT $a, ?", [1]),
            ("SELECT 1", [1]), ("SELECT ?", [object()]), ("SELECT ?", [2**200]), ("SELECT ?", "a"),
        ]  # fmt: skip
        for sql, parameters in unfit:
            with pytest.raises(SqlInvalid):
                await bench.ask(sql, parameters=parameters)

    @law("ENG-16", "A missing file and one that cannot be read are failures of the store, not of the SQL")
    async def test_files_that_cannot_be_read(self, bench: EngineBench) -> None:
        for shown, error in await _broken_relations(bench):
            with pytest.raises(error):
                await bench.ask("SELECT * FROM t", shown)

    @law("ENG-17", "No error shows where a file lies")
    async def test_errors_show_no_path(self, bench: EngineBench) -> None:
        good = relation(EVENTS, await bench.file(EVENTS, [{"id": 1, "name": "x"}]))
        asked = [("SELECT * FROM t", shown) for shown, _ in await _broken_relations(bench)]
        asked += [(sql, good) for sql in FAILING]
        for sql, shown in asked:
            with pytest.raises(DuckMeshError) as caught:
                await bench.ask(sql, shown)
            said = f"{caught.value.message} {caught.value.context}"
            for file in shown.files:
                hidden = (file.path, file.location.uri, file.path.rpartition("/")[2])
                assert not [place for place in hidden if place in said], said

    @law("ENG-18", "A failure of the SQL says whether it was the text or the data, and names an unknown table")
    async def test_failures_of_the_sql(self, bench: EngineBench) -> None:
        shown = relation(EVENTS, await bench.file(EVENTS, [{"id": 1, "name": "x"}]), name="events")
        with pytest.raises(SqlInvalid, match="event") as caught:
            await bench.ask("SELECT * FROM event", shown)
        assert "events" in caught.value.message
        for sql in ("SELECT nope FROM events", "SELECT nope(1)", "SELECT id + [1] FROM events"):
            with pytest.raises(SqlInvalid):
                await bench.ask(sql, shown)
        late = "SELECT CAST(CASE WHEN range = 900000 THEN 'x' ELSE '1' END AS INTEGER) FROM range(1000000)"
        for sql in ("SELECT CAST(name AS INTEGER) FROM events", "SELECT error('x')", late):
            with pytest.raises(SqlExecutionFailed):
                await bench.ask(sql, shown, limits=QueryLimits(max_rows=2_000_000))

    @law("ENG-19", "Two queries at once with relations of one name each see their own")
    async def test_queries_at_once_see_their_own(self, bench: EngineBench) -> None:
        relations = [relation(EVENTS, await bench.file(EVENTS, [{"id": n}])) for n in range(8)]
        answers = await asyncio.gather(*(bench.rows("SELECT id FROM t", shown) for shown in relations))
        assert answers == [[(n,)] for n in range(8)]

    @law("ENG-20", "A cancelled query stops, and leaves the engine free")
    async def test_a_cancelled_query_stops(self, bench: EngineBench) -> None:
        for _ in range(3):
            queries = [asyncio.create_task(bench.ask(ENDLESS)) for _ in range(8)]
            await asyncio.sleep(0.2)
            for query in queries:
                query.cancel()
            ended = await asyncio.gather(*queries, return_exceptions=True)
            assert all(isinstance(error, asyncio.CancelledError) for error in ended)
        async with asyncio.timeout(_LAW_TIMEOUT_S):
            assert await bench.rows("SELECT 1") == [(1,)]

    @law("ENG-21", "Relations that the SQL does not name are not read")
    async def test_unnamed_relations_cost_nothing(self, bench: EngineBench) -> None:
        good = relation(EVENTS, await bench.file(EVENTS, [{"id": 1}]))
        broken = [changed(shown, name="u") for shown, _ in await _broken_relations(bench)]
        for other in broken:
            answer = await bench.ask("WITH v AS (FROM T) SELECT id FROM v", good, other)
            assert (answer.table.column(0).to_pylist(), answer.scanned_files) == ([1], 1)

    @law("ENG-22", "Columns of one name are all kept, and each has its type")
    async def test_columns_of_one_name_are_kept(self, bench: EngineBench) -> None:
        answer = await bench.ask("SELECT 1 AS a, 'x' AS a, 2::DECIMAL(4, 2) AS A")
        assert answer.table.column_names == ["a", "a", "A"]
        assert answer.column_types == ("INTEGER", "VARCHAR", "DECIMAL(4,2)")

    @law("ENG-23", "Values of every type come back as they were stored")
    async def test_stored_values_come_back(self, bench: EngineBench) -> None:
        schema = first_schema(parse_specs(dict(STORED_TYPES)))
        files = [await bench.file(schema, [values]) for values in STORED]
        for number in range(len(files)):
            table = (await bench.ask("SELECT * EXCLUDE (_event_time, _token) FROM t",
                                     relation(schema, files[number]))).table  # fmt: skip
            assert table.to_pylist() == [STORED[number]]

    @law("ENG-24", "Times of day and instants are UTC")
    async def test_the_time_zone_is_utc(self, bench: EngineBench) -> None:
        shown = relation(EVENTS, await bench.file(EVENTS, [{"id": 1}]))
        rows = await bench.rows("SELECT hour(_event_time), _event_time::VARCHAR FROM t", shown)
        assert rows == [(12, "2024-05-17 12:00:00.123456+00")]


async def _broken_relations(bench: EngineBench) -> list[tuple[Relation, type[DuckMeshError]]]:
    whole = parquet(EVENTS, [{"id": n, "name": "x" * 50} for n in range(500)])
    broken: dict[str, bytes] = {
        "empty": b"",
        "noise": b"PAR1" + bytes(range(256)) + b"PAR1",
        "cut": whole[: len(whole) // 2],
        "changed": whole[:40] + bytes(byte ^ 0xFF for byte in whole[40:90]) + whole[90:],
    }
    relations: list[tuple[Relation, type[DuckMeshError]]] = []
    for name, data in broken.items():
        path = f"secret/{name}-{uuid.uuid4().hex}.parquet"
        file = RelationFile(path, await bench.write(path, data), max(len(data), 1), 500)
        relations.append((relation(EVENTS, file), DataCorrupt))
    there = await bench.file(EVENTS, [{"id": 1}])
    missing = changed(
        there,
        path=there.path.replace(".parquet", "-gone.parquet"),
        location=changed(there.location, uri=there.location.uri.replace(".parquet", "-gone.parquet")),
    )
    relations.append((relation(EVENTS, missing), ObjectMissing))
    return relations


OTHER_STATEMENTS: Final = (
    "SELECT 1; SELECT 2", "COPY t TO 'x.csv'", "COPY (SELECT 1) TO '/tmp/x'", "ATTACH 'x.db'", "DETACH memory",
    "PRAGMA version", "PRAGMA show_tables", "PRAGMA enable_profiling", "SET threads = 1", "RESET threads",
    "CALL pragma_version()", "EXPLAIN SELECT 1", "EXPLAIN ANALYZE SELECT 1", "CREATE TABLE x AS SELECT 1",
    "CREATE VIEW x AS SELECT 1", "DROP VIEW t", "INSERT INTO t VALUES (1)", "UPDATE t SET id = 1", "DELETE FROM t",
    "INSTALL httpfs", "LOAD httpfs", "PREPARE p AS SELECT 1", "EXECUTE p", "CHECKPOINT", "VACUUM", "BEGIN",
    "USE memory", "SHOW TABLES", "SHOW ALL TABLES", "CREATE SECRET (TYPE s3)", "EXPORT DATABASE 'x'",
    "CREATE MACRO m(a) AS a", "SET VARIABLE x = 1", "SELECT 1; DROP VIEW t",
)  # fmt: skip

OUTSIDE: Final = (
    "FROM duckdb_settings()", "FROM duckdb_secrets()", "FROM duckdb_views()", "FROM duckdb_logs()",
    "FROM duckdb_views", "FROM sqlite_master", "FROM information_schema.tables", "FROM pg_catalog.pg_tables",
    "FROM pg_tables", "FROM pragma_table_info('t')", "FROM glob('*')", "FROM read_csv('x')", "FROM read_json('x')",
    "FROM read_blob('x')", "FROM parquet_metadata('x')", "FROM parquet_schema('x')", "FROM sniff_csv('x')",
    "FROM query('SELECT 1')", "FROM query_table('t')", "FROM which_secret('x', 's3')", "FROM 'x.parquet'",
    "FROM 's3://bucket/x.parquet'", "FROM 'https://example.com/x.csv'", "FROM other", "FROM memory.main.t",
    "FROM system.main.duckdb_views", "FROM seq_scan('t')", "FROM arrow_scan(1, 2, 3)", "FROM pandas_scan(1)",
    "FROM enable_logging()", "FROM json_execute_serialized_sql('{}')", "SELECT getenv('HOME')",
    "SELECT current_setting('threads')", "SELECT current_setting($$home_directory$$)", "SELECT write_log('x')",
    "WITH a AS (FROM duckdb_views), duckdb_views AS (SELECT 1) FROM a",
    "SELECT (WITH duckdb_views AS (SELECT 1 AS x) SELECT x FROM duckdb_views), * FROM duckdb_views",
    "SELECT * FROM (SELECT 1) WHERE EXISTS (FROM duckdb_settings())", "SELECT [x FOR x IN (FROM glob('*'))]",
)  # fmt: skip

FAILING: Final = (
    "SELECT nope FROM t", "SELECT * FROM tt", "SELECT CAST(name AS INTEGER) FROM t", "SELECT name + 1 FROM t",
    "SELECT t.nope.x FROM t", "SELECT error(name) FROM t", "FROM read_parquet('x')", "SELECT id, FROM t WHERE",
    "SELECT strptime(name, '%Y') FROM t", "SELECT sum(name) FROM t", "SELECT * FROM t JOIN t USING (id)",
)  # fmt: skip

STORED_TYPES: Final = {
    "b": "BIGINT", "ub": "UBIGINT", "t": "TINYINT", "f": "FLOAT", "d": "DOUBLE", "p": "DECIMAL(38,10)",
    "o": "BOOLEAN", "v": "VARCHAR", "x": "BLOB", "day": "DATE", "clock": "TIME", "at": "TIMESTAMP",
    "instant": "TIMESTAMPTZ", "u": "UUID", "j": "JSON", "l": "INTEGER[]", "s": 'STRUCT(a INTEGER, "b c" VARCHAR[])',
    "m": "MAP(VARCHAR, DOUBLE)", "ls": "STRUCT(a DATE)[]",
}  # fmt: skip
STORED: Final[tuple[dict[str, Any], ...]] = (
    {
        "b": -(2**63), "ub": 2**64 - 1, "t": -128, "f": 0.5, "d": 1e308, "p": decimal.Decimal("-1.0000000001"),
        "o": True, "v": "zażółć 😀\n\0", "x": b"\x00\xff", "day": dt.date(1, 1, 1),
        "clock": dt.time(23, 59, 59, 999999), "at": NOON.replace(year=9999, tzinfo=None), "instant": NOON,
        "u": uuid.UUID(int=2**128 - 1), "j": '{"a":[1,null]}', "l": [1, None], "s": {"a": 1, "b c": ["x"]},
        "m": [("k", 1.5)], "ls": [{"a": dt.date(2024, 2, 29)}, None],
    },
    dict.fromkeys(STORED_TYPES),
    {
        "b": 0, "ub": 0, "t": 0, "f": float("inf"), "d": float("-inf"), "p": decimal.Decimal("0E-10"), "o": False,
        "v": "", "x": b"", "day": dt.date(1970, 1, 1), "clock": dt.time(0), "at": NOON.replace(tzinfo=None),
        "instant": dt.datetime(1, 1, 1, tzinfo=dt.UTC), "u": uuid.UUID(int=0), "j": "null", "l": [],
        "s": {"a": None, "b c": []}, "m": [], "ls": [],
    },
)  # fmt: skip
