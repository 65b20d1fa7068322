"""DuckMesh as a library, in memory and on the embedded default."""

import shutil
import tempfile
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

import duckmesh
from duckmesh.domain.errors import IdempotencyConflict, TableExists, ValidationFailed

pytestmark = pytest.mark.asyncio


@pytest.fixture
def folder() -> Iterator[Path]:
    made = Path(tempfile.mkdtemp(prefix="duckmesh-test-", dir="/tmp"))
    made.chmod(0o755)  # started as root, PostgreSQL runs as somebody else
    yield made
    shutil.rmtree(made, ignore_errors=True)


@pytest.fixture(params=["memory", "embedded"])
def location(request: pytest.FixtureRequest, folder: Path) -> str:
    return "memory" if request.param == "memory" else str(folder)


async def test_a_write_is_seen_by_a_query_that_names_it(location: str) -> None:
    async with duckmesh.open(location) as mesh:
        await mesh.create_table("sales", {"id": "BIGINT", "amount": "DECIMAL(18,2)"})
        receipt = await mesh.ingest("sales", [{"id": 1, "amount": Decimal("1.50")}, {"id": 2}])
        result = await mesh.query(
            "SELECT id, amount FROM sales WHERE id >= $1 ORDER BY id", [1], min_visibility_token=receipt.token
        )
        assert result.rows() == [(1, "1.50"), (2, None)]
        assert result.snapshot.watermark >= receipt.token
        assert result.to_pandas()["id"].tolist() == [1, 2]
        assert result.to_polars()["id"].to_list() == [1, 2]


async def test_arrow_tables_are_written_once_under_one_key(location: str) -> None:
    rows = pa.table({"id": pa.array([1, 2, 3], pa.int64()), "name": ["a", None, "c"]})
    async with duckmesh.open(location) as mesh:
        await mesh.create_table("things", {"id": "BIGINT", "name": "VARCHAR"})
        first = await mesh.ingest("things", rows, idempotency_key="load-1", wait=True)
        again = await mesh.ingest("things", rows, idempotency_key="load-1", wait=True)
        assert (first.accepted, again.accepted, again.duplicates, again.token) == (3, 0, 3, first.token)
        assert (await mesh.query("SELECT count(*) FROM things")).rows() == [(3,)]
        with pytest.raises(IdempotencyConflict):
            await mesh.ingest("things", rows.slice(1), idempotency_key="load-1")


async def test_an_old_snapshot_answers_as_it_did(location: str) -> None:
    async with duckmesh.open(location) as mesh:
        await mesh.create_table("t", {"id": "BIGINT"})
        before = await mesh.ingest("t", [{"id": 1}], wait=True)
        await mesh.ingest("t", [{"id": 2}], wait=True)
        old = await mesh.query("SELECT count(*) FROM t", snapshot_id=before.snapshot_id)
        assert old.rows() == [(1,)]
        assert [s.watermark for s in await mesh.snapshots(3)] == [3, 2, 1]


async def test_mistakes_raise_what_the_api_would_answer() -> None:
    async with duckmesh.open() as mesh:
        await mesh.create_table("t", {"id": "BIGINT"})
        with pytest.raises(TableExists):
            await mesh.create_table("T", {"id": "BIGINT"})
        with pytest.raises(ValidationFailed):
            await mesh.ingest("t", [{"id": "one"}])


async def test_tables_grow_by_themselves_and_are_dropped() -> None:
    async with duckmesh.open() as mesh:
        await mesh.create_table("auto", {}, schema_mode="auto")
        await mesh.ingest("auto", [{"a": 1}], wait=True)
        await mesh.ingest("auto", [{"a": 2, "b": "x"}], wait=True)
        assert (await mesh.query("SELECT a, b FROM auto ORDER BY a")).rows() == [(1, None), (2, "x")]
        await mesh.alter_table("auto", {"a": "BIGINT", "b": "VARCHAR", "c": {"type": "INTEGER", "default": 7}})
        assert (await mesh.query("SELECT c FROM auto")).rows() == [(7,), (7,)]
        await mesh.drop_table("auto")
        assert await mesh.tables() == []


async def test_data_outlives_the_process(folder: Path) -> None:
    async with duckmesh.open(folder) as mesh:
        await mesh.create_table("t", {"id": "BIGINT"})
        receipt = await mesh.ingest("t", [{"id": 1}])
    async with duckmesh.open(folder) as mesh:
        assert (await mesh.query("SELECT id FROM t", min_visibility_token=receipt.token)).rows() == [(1,)]
