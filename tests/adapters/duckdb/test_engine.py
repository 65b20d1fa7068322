"""What this engine does beyond the laws of the port."""

import asyncio
import datetime as dt
import time
from collections.abc import AsyncIterator
from decimal import Decimal
from pathlib import Path

import pytest
import pytest_asyncio

from duckmesh.adapters.duckdb import DuckDbEngine
from duckmesh.adapters.duckdb.parameters import bind
from duckmesh.domain.errors import ConfigurationError, QueryTimeout, SqlInvalid, SqlNotAllowed, Unavailable
from duckmesh.ports.engine import EngineQuery, QueryLimits, Relation, RelationFile
from duckmesh.ports.objectstore import LocationKind, ObjectLocation
from duckmesh.testing.engine import ENDLESS, EVENTS, EngineBench, parquet

pytestmark = pytest.mark.asyncio


async def no_write(path: str, data: bytes) -> ObjectLocation:
    raise NotImplementedError


@pytest_asyncio.fixture
async def engine() -> AsyncIterator[DuckDbEngine]:
    async with DuckDbEngine(max_concurrency=1) as engine:
        yield engine


@pytest.fixture
def bench(engine: DuckDbEngine) -> EngineBench:
    return EngineBench(engine, no_write)


def local(folder: Path, name: str = "t") -> Relation:
    data = parquet(EVENTS, [{"id": 1, "name": "x"}])
    file = folder / f"{name}.parquet"
    file.write_bytes(data)
    location = ObjectLocation(LocationKind.FILE, str(file))
    return Relation(name, EVENTS, (RelationFile(file.name, location, len(data), 1),))


async def test_an_engine_that_is_not_open_is_unavailable() -> None:
    engine = DuckDbEngine()
    with pytest.raises(Unavailable):
        await engine.execute(EngineQuery("SELECT 1", ()))


async def test_closing_stops_what_runs() -> None:
    engine = DuckDbEngine(max_concurrency=2)
    await engine.open()
    running = asyncio.create_task(engine.execute(EngineQuery(ENDLESS, ())))
    await asyncio.sleep(0.2)
    await engine.aclose()
    with pytest.raises(QueryTimeout):
        await running
    await engine.aclose()


async def test_files_on_s3_need_access_to_it(engine: DuckDbEngine) -> None:
    file = RelationFile("x", ObjectLocation(LocationKind.S3, "s3://b/x"), 1, 1)
    with pytest.raises(ConfigurationError):
        await engine.execute(EngineQuery("FROM t", (Relation("t", EVENTS, (file,)),)))


async def test_bytes_need_somebody_who_fetches(engine: DuckDbEngine) -> None:
    file = RelationFile("x", ObjectLocation(LocationKind.BYTES, "memory://x"), 1, 1)
    with pytest.raises(ConfigurationError):
        await engine.execute(EngineQuery("FROM t", (Relation("t", EVENTS, (file,)),)))


async def test_a_fetch_that_hangs_is_part_of_the_time_limit() -> None:
    async def fetch(_: str) -> bytes:
        await asyncio.sleep(3600)
        raise AssertionError

    file = RelationFile("x", ObjectLocation(LocationKind.BYTES, "memory://x"), 1, 1)
    async with DuckDbEngine(max_concurrency=1, fetch=fetch) as engine:
        query = EngineQuery("FROM t", (Relation("t", EVENTS, (file,)),), limits=QueryLimits(timeout_s=0.1))
        for _ in range(2):
            with pytest.raises(QueryTimeout):
                await engine.execute(query)


async def test_a_path_that_looks_like_a_pattern_is_that_file_only(tmp_path: Path) -> None:
    wanted, other = local(tmp_path, "a[12]"), local(tmp_path, "a1")
    (tmp_path / "a1.parquet").write_bytes(parquet(EVENTS, [{"id": 99}]))

    async def fetch(path: str) -> bytes:
        return (tmp_path / path).read_bytes()

    async with DuckDbEngine(max_concurrency=1, fetch=fetch) as engine:
        shown = Relation("t", EVENTS, wanted.files)
        assert await EngineBench(engine, no_write).rows("SELECT id FROM t", shown) == [(1,)]
    assert other.files


async def test_hundreds_of_relations_cost_only_those_that_are_named(bench: EngineBench, tmp_path: Path) -> None:
    used = local(tmp_path)
    others = [Relation(f"other{n}", EVENTS, used.files * 100) for n in range(500)]
    started = time.monotonic()
    answer = await bench.ask("SELECT count(*) FROM t", used, *others)
    assert answer.scanned_files == 1
    assert time.monotonic() - started < 2


async def test_a_query_leaves_nothing_for_the_next(bench: EngineBench, tmp_path: Path) -> None:
    await bench.ask("SELECT setval FROM (SELECT 1 AS setval)", local(tmp_path))
    with pytest.raises(SqlInvalid):
        await bench.ask("FROM t")


async def test_variables_of_this_process_are_no_tables(
    bench: EngineBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("duckmesh.adapters.duckdb.guard.SqlGuard.check", _waved_through)
    for sql in ("FROM relations", "FROM contents", "FROM checked"):
        with pytest.raises(SqlInvalid):
            await bench.ask(sql, local(tmp_path))


@pytest.mark.parametrize(
    "sql",
    [
        "FROM read_parquet('{beside}')",
        "FROM read_text('/etc/passwd')",
        "FROM glob('/*')",
        "COPY (SELECT 1) TO '{beside}'",
        "ATTACH '{beside}' AS x",
        "INSTALL httpfs",
        "LOAD httpfs",
        "SET enable_external_access = true",
        "SET memory_limit = '1TB'",
        "RESET lock_configuration",
        "SELECT * FROM '{beside}'",
    ],
)
async def test_behind_the_gate_the_instance_reaches_nothing_either(
    bench: EngineBench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sql: str
) -> None:
    beside = tmp_path / "beside.parquet"
    beside.write_bytes(parquet(EVENTS, [{"id": 3}]))
    monkeypatch.setattr("duckmesh.adapters.duckdb.guard.SqlGuard.check", _waved_through)
    with pytest.raises((SqlNotAllowed, SqlInvalid, Unavailable)) as caught:
        await bench.ask(sql.format(beside=beside), local(tmp_path))
    assert "beside" not in caught.value.message


def _waved_through(_: object, sql: str, relations: list[str]) -> object:
    from duckmesh.adapters.duckdb.guard import CheckedSql  # noqa: PLC0415 - stands in for the gate itself

    return CheckedSql(sql, frozenset(relations), frozenset())


async def test_parameters_are_bound_by_their_folded_name() -> None:
    assert bind({"Name"}, {"nAME": 1}) == {"Name": 1}
    assert bind({"1", "2"}, (1, {"a": [dt.date(2024, 1, 1), None]})) == [1, {"a": [dt.date(2024, 1, 1), None]}]
    assert bind(set(), {}) == bind(set(), None) == bind(set(), []) == []


@pytest.mark.parametrize(
    "value",
    [2**128, -(2**127) - 1, Decimal("1E+40"), Decimal("NaN"), "\ud800", {1: 2}, {1, 2}, [[[[[[[[[[1]]]]]]]]]]],
)
async def test_values_that_sql_has_not_are_refused(value: object) -> None:
    with pytest.raises(SqlInvalid, match="parameter 1"):
        bind({"1"}, [value])


async def test_positional_parameters_have_no_gap() -> None:
    with pytest.raises(SqlInvalid, match="gap"):
        bind({"3"}, [1, 2, 3])
