"""The laws of a query engine over S3, on a real server."""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from attrs import evolve as changed
from s3_server import S3Server, s3_client

from duckmesh.adapters.duckdb import DuckDbEngine
from duckmesh.domain.errors import SqlNotAllowed, Unavailable
from duckmesh.ports.engine import EngineQuery, Relation
from duckmesh.ports.objectstore import LocationKind, ObjectLocation
from duckmesh.testing.engine import EVENTS, EngineBench, QueryEngineSuite


class TestDuckDbOverS3(QueryEngineSuite):
    @pytest_asyncio.fixture
    async def bench(self, s3_server: S3Server, s3_bucket: str) -> AsyncIterator[EngineBench]:
        async with (
            s3_client(s3_server.access) as client,
            DuckDbEngine(max_concurrency=2, s3=s3_server.access) as engine,
        ):

            async def write(path: str, data: bytes) -> ObjectLocation:
                await client.put_object(Bucket=s3_bucket, Key=path, Body=data)
                return ObjectLocation(LocationKind.S3, f"s3://{s3_bucket}/{path}")

            yield EngineBench(engine, write)

    @pytest.mark.asyncio
    async def test_an_object_beside_is_not_reached_by_the_settings_either(
        self, bench: EngineBench, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        beside = await bench.file(EVENTS, [{"id": 3}])
        shown = Relation("t", EVENTS, (await bench.file(EVENTS, [{"id": 1}]),))
        monkeypatch.setattr("duckmesh.adapters.duckdb.guard.TABLE_FUNCTIONS", {"read_parquet"})
        own = shown.files[0].location.uri
        for uri in (beside.location.uri, f"{own}?s3_endpoint=example.com", own.replace("/data/", "/data/../data/")):
            with pytest.raises(SqlNotAllowed):
                await bench.ask(f"SELECT * FROM t, read_parquet('{uri}')", shown)


@pytest.mark.asyncio
async def test_a_store_that_does_not_answer_is_unavailable_and_its_address_is_not_shown(
    s3_server: S3Server,
) -> None:
    nowhere = changed(s3_server.access, endpoint="http://127.0.0.1:9")
    async with DuckDbEngine(max_concurrency=1, s3=nowhere) as engine:
        bench = EngineBench(engine, _nowhere)
        shown = Relation("t", EVENTS, (await bench.file(EVENTS, [{"id": 1}]),))
        with pytest.raises(Unavailable) as caught:
            await engine.execute(EngineQuery("FROM t", (shown,)))
    assert caught.value.retryable
    assert "127.0.0.1" not in caught.value.message


async def _nowhere(path: str, data: bytes) -> ObjectLocation:  # noqa: ARG001 - nothing is stored
    return ObjectLocation(LocationKind.S3, f"s3://bucket/{path}")
