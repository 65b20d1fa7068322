"""Makes the fixture of this version: ``python tests/upgrade/make_fixture.py``, once, when a version is released.

A small catalog with its log (as SQL) and its objects, and what every snapshot answered. Later versions prove with
it that they upgrade a deployment of this one.
"""

# ruff: noqa: ASYNC221, ASYNC240 - a script that waits for one thing at a time
import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa

import duckmesh
from duckmesh.adapters.postgres import migrate
from duckmesh.adapters.postgres.embedded import EmbeddedPostgres
from duckmesh.adapters.postgres.embedded_binaries import find_installation
from duckmesh.app.library import Mesh
from duckmesh.app.settings import load_settings

FOLDER = Path(__file__).parent / duckmesh.__version__


async def write(mesh: Mesh) -> None:
    """A history with everything that this version can do."""
    await mesh.create_table(
        "events",
        {
            "id": {"type": "BIGINT", "nullable": False},
            "name": "VARCHAR",
            "amount": "DECIMAL(18,2)",
            "at": "TIMESTAMPTZ",
            "tags": "VARCHAR[]",
            "detail": "STRUCT(a INTEGER, b MAP(VARCHAR, DOUBLE))",
            "raw": "JSON",
            "blob": "BLOB",
            "uid": "UUID",
        },
    )
    await mesh.create_table("accounts", {"id": "BIGINT", "owner": "VARCHAR"}, primary_key=["id"])
    await mesh.create_table("loose", {}, schema_mode="auto")
    row = {
        "id": 1, "name": "ünï\u0000cödé", "amount": "12.50", "at": "2026-01-31T23:59:59.999999Z", "tags": ["a", None],
        "detail": {"a": 1, "b": {"x": 1.5, "y": "NaN"}}, "raw": {"big": 12345678901234567890}, "blob": "AAEC",
        "uid": "01234567-89ab-cdef-0123-456789abcdef",
    }  # fmt: skip
    await mesh.ingest("events", [row, {"id": 2}], idempotency_key="first", wait=True)
    await mesh.ingest("accounts", [{"id": 1, "owner": "ada"}, {"id": 2, "owner": "bob"}], op="upsert", wait=True)
    await mesh.ingest("accounts", [{"id": 1, "owner": "ada l."}], op="upsert", wait=True)
    await mesh.ingest("accounts", [{"id": 2}], op="delete", wait=True)
    await mesh.ingest("loose", [{"a": 1, "b": "x"}], wait=True)
    await mesh.ingest("loose", [{"a": 2, "c": 0.5}], wait=True)
    events = (await mesh.tables())[1]
    schema = {c.name: str(c.type) for c in events.schema.columns} | {"id": {"type": "BIGINT", "nullable": False}}
    await mesh.alter_table("events", schema | {"added": {"type": "INTEGER", "default": 7}})
    await mesh.ingest("events", pa.table({"id": pa.array([3, 4], pa.int64())}), idempotency_key="bulk", wait=True)
    await mesh.create_table("gone", {"id": "BIGINT"})
    await mesh.ingest("gone", [{"id": 1}], wait=True)
    await mesh.drop_table("gone")


async def answers(mesh: Mesh) -> dict[str, dict[str, list[object]]]:
    """What every table says in every snapshot."""
    found: dict[str, dict[str, list[object]]] = {}
    for snapshot in await mesh.snapshots(1000):
        manifest = await mesh.manifest(snapshot.snapshot_id)
        found[str(snapshot.snapshot_id)] = {
            table.name: [
                list(row)
                for row in (
                    await mesh.query(f"SELECT * FROM {table.name} ORDER BY ALL", snapshot_id=snapshot.snapshot_id)
                ).rows()
            ]
            for table in sorted(manifest.tables.values(), key=lambda table: table.name)
            if table.schema.columns
        }
    return found


async def make() -> None:
    """Write the fixture."""
    data = Path(tempfile.mkdtemp(prefix="duckmesh-fixture-", dir="/tmp"))
    data.chmod(0o755)
    postgres = EmbeddedPostgres(data)
    await postgres.start()
    try:
        await migrate.upgrade(postgres.dsn)
        settings = load_settings(env={}, data_dir=data, postgres_dsn=postgres.dsn)
        async with duckmesh.open(settings=settings) as mesh:
            await write(mesh)
            expected = await answers(mesh)
        FOLDER.mkdir(parents=True, exist_ok=True)
        dump = subprocess.run(
            [str(find_installation() / "bin" / "pg_dump"), "--no-owner", "--no-privileges", "--inserts", postgres.dsn],
            check=True, capture_output=True, text=True, env={"PATH": os.environ["PATH"]},
        )  # fmt: skip
        lines = [line for line in dump.stdout.splitlines() if not line.startswith(("\\", "SET transaction_timeout"))]
        (FOLDER / "catalog.sql").write_text("\n".join(lines) + "\n")
        (FOLDER / "expected.json").write_text(json.dumps(expected, indent=1, ensure_ascii=False) + "\n")
        shutil.copytree(data / "objects", FOLDER / "objects", dirs_exist_ok=True)
    finally:
        await postgres.stop()
        shutil.rmtree(data)


if __name__ == "__main__":
    if FOLDER.exists():
        sys.exit(f"{FOLDER} is there already: a release's fixture is never made again")
    asyncio.run(make())
