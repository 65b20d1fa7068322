"""What earlier versions wrote is upgraded and answers as it did, for every snapshot that they made."""

import json
import shutil
from pathlib import Path

import asyncpg
import pytest
from postgres_server import PostgresServer

import duckmesh
from duckmesh.adapters.postgres import migrate
from duckmesh.app.settings import load_settings

VERSIONS = sorted(path.parent.name for path in Path(__file__).parent.glob("*/catalog.sql"))


@pytest.mark.asyncio
@pytest.mark.parametrize("version", VERSIONS)
async def test_a_deployment_of_an_earlier_version_is_upgraded(
    version: str, postgres_server: PostgresServer, tmp_path: Path
) -> None:
    fixture = Path(__file__).parent / version
    dsn = await postgres_server.make_database(empty=True)
    connection = await asyncpg.connect(dsn)
    await connection.execute((fixture / "catalog.sql").read_text())
    await connection.close()
    await migrate.upgrade(dsn)
    shutil.copytree(fixture / "objects", tmp_path / "objects")
    expected = json.loads((fixture / "expected.json").read_text())
    assert len(expected) > 10

    async with duckmesh.open(settings=load_settings(env={}, data_dir=tmp_path, postgres_dsn=dsn)) as mesh:
        for snapshot_id, tables in expected.items():
            for table, rows in tables.items():
                found = await mesh.query(f"SELECT * FROM {table} ORDER BY ALL", snapshot_id=int(snapshot_id))
                assert [list(row) for row in found.rows()] == rows, f"{table} in snapshot {snapshot_id}"
        again = await mesh.ingest("events", [{"id": 5}], wait=True)
        count = await mesh.query("SELECT count(*) FROM events", min_visibility_token=again.token)
        assert count.rows() == [(5,)]
    await postgres_server.drop_database(dsn)


def test_every_released_version_left_a_fixture() -> None:
    assert "0.1.0" in VERSIONS
