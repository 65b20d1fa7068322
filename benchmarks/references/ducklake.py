"""DuckLake on the same Postgres: the peer that a DuckDB user would otherwise take.

Its extensions are loaded by path from their wheels, so nothing is downloaded during a run.
"""

import importlib.util
import os
import random
import shutil
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb
from attrs import frozen

from benchmarks.bodies import SCHEMA, arrow_table, payloads
from benchmarks.load import latency_figures

# All writers start at once and collide; only when their waits have spread do they reach their rate.
_WARM_UP_SECONDS = 1.0


@frozen
class Settings:
    """How DuckLake is set up: as it comes, except that it does not give up.

    Only the retry count differs from its defaults (10), so that a conflict costs time and not the row. No other
    wait or backoff that was tried was faster beyond the noise, and the README says what was tried.
    """

    retry_count: int = 1000
    retry_wait_ms: int = 100
    retry_backoff: float = 1.5
    inlined_rows: int | None = None
    """Rows that are kept in Postgres instead of a Parquet file; None leaves DuckLake's default of 10."""


def extension(name: str) -> Path:
    """Find an extension inside its wheel."""
    spec = importlib.util.find_spec(f"duckdb_extension_{name}")
    if spec is None or spec.origin is None:
        raise RuntimeError(f"the {name} extension is missing: pip install duckmesh[bench]")
    folder = Path(spec.origin).parent / "extensions" / f"v{duckdb.__version__}"
    return folder / f"{name}.duckdb_extension"


def connect(keywords: str, lake: "Lake", settings: Settings, threads: int = 1) -> duckdb.DuckDBPyConnection:
    """Open a DuckDB of its own and attach the lake, as a separate writer would.

    One thread is best for single rows: 16 instances with a thread per core would only get in each other's way.
    """
    connection = duckdb.connect(config={"autoinstall_known_extensions": "false", "threads": threads})
    for name in ("ducklake", "postgres_scanner"):
        connection.execute(f"LOAD '{extension(name)}'")
    connection.execute(f"SET ducklake_max_retry_count = {settings.retry_count}")
    connection.execute(f"SET ducklake_retry_wait_ms = {settings.retry_wait_ms}")
    connection.execute(f"SET ducklake_retry_backoff = {settings.retry_backoff}")
    if settings.inlined_rows is not None:
        connection.execute(f"SET ducklake_default_data_inlining_row_limit = {settings.inlined_rows}")
    # 16 writers with the default pool of 4 would take two thirds of a default Postgres.
    connection.execute("SET pg_pool_max_connections = 2")
    dsn = keywords.replace("'", "''")
    connection.execute(
        f"ATTACH 'ducklake:postgres:{dsn}' AS lake (DATA_PATH '{lake.path}', METADATA_SCHEMA '{lake.schema}')"
    )
    return connection


@frozen
class Lake:
    """Where one lake keeps its data and its metadata."""

    path: Path
    schema: str


@contextmanager
def fresh_lake(keywords: str, work_dir: Path, settings: Settings) -> Iterator[Lake]:
    """Make a new lake with an empty table for one run: an old one is slower, which would flatter the product."""
    lake = Lake(Path(tempfile.mkdtemp(prefix="lake-", dir=work_dir)), f"lake_{uuid.uuid4().hex[:12]}")
    columns = ", ".join(f'"{name}" {kind}' for name, kind in SCHEMA.items())
    connection = connect(keywords, lake, settings)
    try:
        connection.execute(f"CREATE TABLE lake.events ({columns})")
        yield lake
    finally:
        connection.close()
        shutil.rmtree(lake.path, ignore_errors=True)


class OneRowWriter(threading.Thread):
    """Commits one row after the other. A thread is enough: DuckDB works outside the interpreter's lock."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, barrier: threading.Barrier, seconds: float) -> None:
        super().__init__(daemon=True)
        self.connection = connection
        self.barrier = barrier
        self.seconds = seconds
        self.latencies: list[float] = []
        self.in_time = 0
        self.errors = 0

    def run(self) -> None:
        """Insert until the time is over; count what was committed by then."""
        rows = [tuple(payload.values()) for payload in payloads(1000, seed=self.ident or 0)]
        statement = "INSERT INTO lake.events VALUES (?, ?, ?, ?, ?)"
        self.connection.execute("SELECT count(*) FROM lake.events").fetchall()
        self.barrier.wait()
        begins = time.monotonic() + _WARM_UP_SECONDS
        ends = begins + self.seconds
        while (started := time.monotonic()) < ends:
            try:
                self.connection.execute(statement, random.choice(rows))
            except duckdb.Error:
                self.errors += started >= begins
                continue
            now = time.monotonic()
            if now >= begins:
                self.latencies.append(now - started)
                self.in_time += now <= ends


def one_row_commits(
    keywords: str, work_dir: Path, seconds: float, writers: int = 16, settings: Settings | None = None
) -> dict[str, float]:
    """Commit single rows from many writers; the rate counts commits inside the window only."""
    settings = settings or Settings()
    with fresh_lake(keywords, work_dir, settings) as lake:
        barrier = threading.Barrier(writers)
        threads = [OneRowWriter(connect(keywords, lake, settings), barrier, seconds) for _ in range(writers)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
            thread.connection.close()
    latencies = sorted(latency for thread in threads for latency in thread.latencies)
    return {
        "rate": sum(thread.in_time for thread in threads) / seconds,
        **latency_figures(latencies),
        "errors": sum(thread.errors for thread in threads),
        "writers_active": sum(thread.in_time > 0 for thread in threads),
        "busiest_share": max(thread.in_time for thread in threads) / max(1, sum(thread.in_time for thread in threads)),
    }


def arrow_batches(keywords: str, work_dir: Path, seconds: float, rows: int, seeds: int) -> dict[str, float]:
    """Insert Arrow batches from one writer, a commit each; more writers only conflict with each other."""
    settings = Settings()
    tables = [arrow_table(rows, seed) for seed in range(seeds)]
    latencies: list[float] = []
    with fresh_lake(keywords, work_dir, settings) as lake:
        connection = connect(keywords, lake, settings, threads=os.cpu_count() or 1)
        for index, table in enumerate(tables):
            connection.register(f"batch_{index}", table)
        connection.execute("INSERT INTO lake.events FROM batch_0")
        started = time.monotonic()
        while (before := time.monotonic()) < started + seconds:
            connection.execute(f"INSERT INTO lake.events FROM batch_{len(latencies) % len(tables)}")
            latencies.append(time.monotonic() - before)
        elapsed = time.monotonic() - started
        connection.close()
    latencies.sort()
    return {"rate": len(latencies) * rows / elapsed, **latency_figures(latencies)}
