"""The system under test: started for the benchmark, or reached at a URL."""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from attrs import define, field, frozen

from benchmarks.bodies import SCHEMA
from benchmarks.load import LoadSpec

_START_SECONDS = 60.0
_STOP_SECONDS = 30.0
_VISIBLE_SECONDS = 120.0


@frozen
class Endpoint:
    """Where the product answers, and with which credential."""

    url: str
    key: str | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Return the credential's header, if any."""
        return {"Authorization": f"Bearer {self.key}"} if self.key else {}


@define
class Product:
    """A small client for what is not timed: tables, barriers, counts."""

    endpoint: Endpoint
    cold_start_seconds: float | None = None
    """From starting the command to ready; None when the product was already there."""
    _client: httpx.Client = field(init=False)

    def __attrs_post_init__(self) -> None:
        """Open the client."""
        self._client = httpx.Client(
            base_url=self.endpoint.url, headers=self.endpoint.headers, timeout=_VISIBLE_SECONDS + 10
        )

    def close(self) -> None:
        """Close the client."""
        self._client.close()

    def create_table(self, table: str) -> None:
        """Create a table of the benchmark's schema; an existing one (of an earlier run) is fine."""
        answer = self._client.post("/v1/tables", json={"table_name": table, "schema_json": SCHEMA})
        if answer.status_code not in (201, 409):
            raise RuntimeError(f"POST /v1/tables: {answer.status_code} {answer.text[:500]}")

    def query(self, sql: str, **request: Any) -> dict[str, Any]:
        """Run a query and return its answer."""
        answer = self._client.post("/v1/query", json={"sql": sql, **request})
        if answer.status_code != 200:
            raise RuntimeError(f"POST /v1/query: {answer.status_code} {answer.text[:500]}")
        decoded: dict[str, Any] = answer.json()
        return decoded

    def wait_visible(self, token: int) -> float:
        """Wait until a snapshot covers the token; return the time on the monotonic clock.

        A query with ``min_visibility_token`` is the contract's own barrier: it runs on a snapshot that covers the
        token, or it fails. It costs a few milliseconds, against runs of seconds.
        """
        deadline = time.monotonic() + _VISIBLE_SECONDS
        while True:
            answer = self._client.post(
                "/v1/query",
                json={"sql": "SELECT 1", "min_visibility_token": token, "consistency_timeout_ms": 30_000},
            )
            if answer.status_code == 200:
                return time.monotonic()
            if answer.status_code != 504 or time.monotonic() > deadline:
                raise RuntimeError(f"not visible: {answer.status_code} {answer.text[:500]}")

    def count(self, table: str, token: int | None = None) -> int:
        """Count the rows of a table, on a snapshot that covers the token if there is one."""
        barrier = {} if token is None else {"min_visibility_token": token}
        answer = self.query(f'SELECT count(*) FROM "{table}"', **barrier)
        return int(answer["rows"][0][0])

    def lag(self) -> dict[str, Any]:
        """Return ``GET /v1/lag``."""
        answer = self._client.get("/v1/lag")
        answer.raise_for_status()
        decoded: dict[str, Any] = answer.json()
        return decoded

    def ingest(self, table: str, **changes: Any) -> LoadSpec:
        """Describe a stream of ingest requests."""
        url = httpx.URL(self.endpoint.url)
        headers = tuple(self.endpoint.headers.items())
        defaults = {"host": url.host, "port": url.port or 80, "path": f"/v1/ingest/{table}", "headers": headers}
        return LoadSpec(**{**defaults, **changes})


def free_port() -> int:
    """Find a port that nobody uses at the moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _command() -> list[str]:
    beside = Path(sys.executable).with_name("duckmesh")
    found = str(beside) if beside.exists() else shutil.which("duckmesh")
    if found is None:
        raise SystemExit("--embedded needs the duckmesh command: pip install -e .[bench]")
    return [found]


@contextmanager
def embedded(data_dir: Path) -> Iterator[tuple[Product, str]]:
    """Start ``duckmesh up`` and yield the product and the DSN of its Postgres; stop it at the end."""
    endpoint = Endpoint(f"http://127.0.0.1:{(port := free_port())}")
    log_path = data_dir.parent / "duckmesh.log"
    command = [*_command(), "up", "--data-dir", str(data_dir), "--port", str(port), "--auth", "off"]
    with log_path.open("wb") as log:
        started = time.monotonic()
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            _wait_ready(endpoint, process, log_path)
            product = Product(endpoint, cold_start_seconds=time.monotonic() - started)
            with contextlib.closing(product):
                yield product, postgres_dsn(data_dir)
        finally:
            _stop(process)


def postgres_dsn(data_dir: Path) -> str:
    """Ask the product where its embedded Postgres listens."""
    command = [*_command(), "postgres-dsn", "--data-dir", str(data_dir)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def _wait_ready(endpoint: Endpoint, process: "subprocess.Popen[bytes]", log_path: Path) -> None:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        if process.poll() is not None:
            break
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{endpoint.url}/v1/ready", timeout=2).status_code == 200:
                return
        time.sleep(0.02)
    raise RuntimeError(f"duckmesh up did not get ready:\n{log_path.read_text(errors='replace')[-3000:]}")


def _stop(process: "subprocess.Popen[bytes]") -> None:
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_SECONDS)
    except subprocess.TimeoutExpired:
        # Its own session, so this reaches its children and nobody else's.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
