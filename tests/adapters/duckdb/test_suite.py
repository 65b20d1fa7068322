"""The laws of a query engine over local files and over bytes, and engines that break one of them."""

import contextlib
from collections.abc import AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import pytest_asyncio
from attrs import evolve as changed

from duckmesh.adapters.duckdb import DuckDbEngine, relations
from duckmesh.domain.errors import DuckMeshError, ObjectMissing
from duckmesh.ports.columns import field_id
from duckmesh.ports.engine import EngineQuery, EngineResult, QueryEngine
from duckmesh.ports.objectstore import LocationKind, ObjectLocation
from duckmesh.testing.engine import EngineBench, QueryEngineSuite
from duckmesh.testing.mutants import broken_laws


@contextlib.asynccontextmanager
async def local_bench(folder: Path) -> AsyncIterator[EngineBench]:
    async def write(path: str, data: bytes) -> ObjectLocation:
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(data)
        return ObjectLocation(LocationKind.FILE, str(file))

    async with DuckDbEngine(max_concurrency=2) as engine:
        yield EngineBench(engine, write)


@contextlib.asynccontextmanager
async def bytes_bench() -> AsyncIterator[EngineBench]:
    objects: dict[str, bytes] = {}

    async def write(path: str, data: bytes) -> ObjectLocation:
        objects[path] = data
        return ObjectLocation(LocationKind.BYTES, f"memory://{path}")

    async def fetch(path: str) -> bytes:
        try:
            return objects[path]
        except KeyError:
            raise ObjectMissing("an object is missing") from None

    async with DuckDbEngine(max_concurrency=2, fetch=fetch) as engine:
        yield EngineBench(engine, write)


class TestDuckDbOverLocalFiles(QueryEngineSuite):
    @pytest_asyncio.fixture
    async def bench(self, tmp_path: Path) -> AsyncIterator[EngineBench]:
        async with local_bench(tmp_path) as bench:
            yield bench


class TestDuckDbOverBytes(QueryEngineSuite):
    @pytest_asyncio.fixture
    async def bench(self) -> AsyncIterator[EngineBench]:
        async with bytes_bench() as bench:
            yield bench


class TestDuckDbInAFolderWithAnAwkwardName(QueryEngineSuite):
    @pytest_asyncio.fixture
    async def bench(self, tmp_path: Path) -> AsyncIterator[EngineBench]:
        async with local_bench(tmp_path / "year=2024" / 'it\'s 100% "ü"') as bench:
            yield bench


class Mutant:
    """An engine in front of the real one."""

    def __init__(self, inner: QueryEngine) -> None:
        self.inner = inner

    async def execute(self, query: EngineQuery) -> EngineResult:
        return await self.inner.execute(query)


class IgnoresTheTimeLimit(Mutant):
    async def execute(self, query: EngineQuery) -> EngineResult:
        return await self.inner.execute(changed(query, limits=changed(query.limits, timeout_s=3600)))


class IgnoresTheRowLimit(Mutant):
    async def execute(self, query: EngineQuery) -> EngineResult:
        limits = changed(query.limits, max_rows=query.limits.max_rows * 10)
        return await self.inner.execute(changed(query, limits=limits))


class LeaksPaths(Mutant):
    async def execute(self, query: EngineQuery) -> EngineResult:
        try:
            return await self.inner.execute(query)
        except DuckMeshError as error:
            files = [file for relation in query.relations for file in relation.files]
            raise type(error)(f"{error.message} in {files[0].location.uri if files else '?'}") from error


class HidesCuts(Mutant):
    async def execute(self, query: EngineQuery) -> EngineResult:
        return changed(await self.inner.execute(query), truncated=False)


def named_fields(uri: str) -> Iterable[pa.Field]:
    with contextlib.suppress(pa.ArrowException):
        yield from pq.read_schema(uri)


async def broken(folder: Path, mutant: type[Mutant]) -> set[str]:
    @contextlib.asynccontextmanager
    async def bench() -> AsyncIterator[EngineBench]:
        async with local_bench(folder) as real:
            yield changed(real, engine=mutant(real.engine))

    return await broken_laws(TestDuckDbOverLocalFiles, bench=bench)


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("mutant", "law"),
    [
        (IgnoresTheTimeLimit, "ENG-10"),
        (IgnoresTheRowLimit, "ENG-11"),
        (HidesCuts, "ENG-11"),
        (LeaksPaths, "ENG-17"),
    ],
)
async def test_an_engine_that_breaks_a_promise_breaks_its_law(tmp_path: Path, mutant: type[Mutant], law: str) -> None:
    assert await broken(tmp_path, mutant) == {law}


@pytest.mark.asyncio
async def test_an_engine_that_reads_columns_by_name_breaks_the_law_of_ids(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def by_name(columns: Any, uris: Sequence[str]) -> str:
        found = {f.name: field_id(f) for uri in uris if Path(uri).exists() for f in named_fields(uri)}
        return by_id([changed(c, field_id=found.get(c.name, 999)) for c in columns] if found else columns, uris)

    by_id = relations._from_parquet
    monkeypatch.setattr(relations, "_from_parquet", by_name)
    assert await broken(tmp_path, Mutant) == {"ENG-3"}
