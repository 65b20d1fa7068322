import importlib.util
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from s3_server import S3Server

from duckmesh.adapters.objectstore import open_store
from duckmesh.ports.objectstore import S3Access


@pytest.fixture
def connection() -> Iterator[duckdb.DuckDBPyConnection]:
    with duckdb.connect() as connection:
        yield connection


@pytest.mark.asyncio
async def test_duckdb_reads_local_objects_by_their_location(
    connection: duckdb.DuckDBPyConnection, tmp_path: Path
) -> None:
    async with open_store(str(tmp_path)) as store:
        await store.put("tenant/t/1.parquet", _parquet(1_000))
        uri = store.locate("tenant/t/1.parquet").uri
        assert connection.execute("SELECT count(*), sum(n) FROM read_parquet(?)", [uri]).fetchone() == (
            1_000,
            499_500,
        )


@pytest.mark.asyncio
async def test_duckdb_reads_s3_objects_by_their_location(
    connection: duckdb.DuckDBPyConnection, s3_server: S3Server, s3_bucket: str
) -> None:
    async with open_store(f"s3://{s3_bucket}/prefix", s3_server.access) as store:
        locations = []
        for number in range(3):
            await store.put(f"tenant=ä b/t/{number}.parquet", _parquet(1_000))
            locations.append(store.locate(f"tenant=ä b/t/{number}.parquet").uri)
        connection.execute(f"LOAD '{_httpfs()}'")
        connection.execute(_secret(s3_server.access, s3_bucket))
        found = connection.execute("SELECT count(*), sum(n) FROM read_parquet(?)", [locations]).fetchone()
    assert found == (3_000, 3 * 499_500)


def _parquet(rows: int) -> memoryview:
    sink = pa.BufferOutputStream()
    pq.write_table(pa.table({"n": list(range(rows))}), sink, compression="zstd")
    return memoryview(sink.getvalue())


def _httpfs() -> Path:
    found = importlib.util.find_spec("duckdb_extension_httpfs")
    assert found
    assert found.submodule_search_locations
    return Path(found.submodule_search_locations[0], "extensions", f"v{duckdb.__version__}", "httpfs.duckdb_extension")


def _secret(access: S3Access, bucket: str) -> str:
    assert access.endpoint
    return f"""
        CREATE SECRET (
            TYPE s3, SCOPE 's3://{bucket}', REGION '{access.region}', URL_STYLE 'path', USE_SSL false,
            ENDPOINT '{access.endpoint.removeprefix("http://")}',
            KEY_ID '{access.access_key_id}', SECRET '{access.secret_access_key}'
        )
    """
