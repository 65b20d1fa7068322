"""Hardened DuckDB instances: one per query, prepared ahead.

Settings are global to an instance and a query may leave traces in it, so none is used twice. Connecting takes about
10 ms; a small pool does it beside the queries.
"""

import contextlib
import importlib.util
import queue
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final

import duckdb
from attrs import frozen

from duckmesh.adapters.duckdb.guard import MAX_EXPRESSION_DEPTH
from duckmesh.adapters.duckdb.literals import text
from duckmesh.domain.errors import ConfigurationError
from duckmesh.ports.engine import QueryLimits
from duckmesh.ports.objectstore import S3Access

_DEFAULTS: Final = QueryLimits()
_HTTP_TIMEOUT_S: Final = 30

_CONFIG: Final[dict[str, Any]] = {
    "threads": _DEFAULTS.threads,
    "memory_limit": f"{_DEFAULTS.memory_bytes}B",
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "allow_persistent_secrets": False,
    "python_enable_replacements": False,  # or a table name could mean a variable of this process
    "temp_directory": "",  # nothing is spilled: a spill directory would silently be an allowed one
    "max_temp_directory_size": "0B",
}
_SETTINGS: Final = (
    "SET TimeZone = 'UTC'; SET arrow_lossless_conversion = true; SET enable_progress_bar = false; "
    f"SET max_expression_depth = {MAX_EXPRESSION_DEPTH}; SET validate_external_file_cache = 'NO_VALIDATION'; "
    "SET parquet_metadata_cache = true"
)
_LOCK: Final = "SET enable_external_access = false; SET lock_configuration = true"


@frozen
class S3Setup:
    """How an instance reaches the bucket: the extension's file and the secret."""

    extension: Path
    access: S3Access

    def apply(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Load the extension and make the secret, which lives in memory only."""
        connection.execute(
            f"LOAD {text(str(self.extension))}; SET enable_http_metadata_cache = true; "
            f"SET http_timeout = {_HTTP_TIMEOUT_S}; {_secret(self.access)}"
        )


def s3_setup(access: S3Access) -> S3Setup:
    """Find the extension and verify its signature once; later loads of the same file skip that (100 ms each)."""
    extension = _httpfs()
    with duckdb.connect(":memory:", config=_CONFIG) as connection:
        try:
            connection.execute(f"LOAD {text(str(extension))}")
        except duckdb.Error as error:
            raise ConfigurationError("the DuckDB extension for S3 cannot be loaded") from error
    return S3Setup(extension, access)


def locked() -> duckdb.DuckDBPyConnection:
    """An instance that can reach nothing at all, for parsing."""
    connection = duckdb.connect(":memory:", config={**_CONFIG, "threads": 1})
    connection.execute(f"{_SETTINGS}; {_LOCK}")
    return connection


def prepared(s3: S3Setup | None) -> duckdb.DuckDBPyConnection:
    """An instance that is ready for the settings of a query."""
    connection = duckdb.connect(":memory:", config={**_CONFIG, "allow_unsigned_extensions": s3 is not None})
    connection.execute(_SETTINGS)
    if s3 is not None:
        s3.apply(connection)
    return connection


def harden(connection: duckdb.DuckDBPyConnection, limits: QueryLimits, uris: Sequence[str]) -> None:
    """Allow exactly these files and lock the configuration; this comes after all else."""
    changes = [f"SET allowed_paths = [{', '.join(text(uri) for uri in uris)}]"] if uris else []
    if limits.threads != _DEFAULTS.threads:
        changes.append(f"SET threads = {limits.threads:d}")
    if limits.memory_bytes != _DEFAULTS.memory_bytes:
        changes.append(f"SET memory_limit = '{limits.memory_bytes:d}B'")
    connection.execute("; ".join([*changes, _LOCK]))


class InstancePool:
    """Prepared instances, refilled in the background after each query."""

    def __init__(self, size: int, s3: S3Setup | None) -> None:
        self._size = size
        self._s3 = s3
        self._ready: queue.SimpleQueue[duckdb.DuckDBPyConnection] = queue.SimpleQueue()
        self._background = ThreadPoolExecutor(1, thread_name_prefix="duckmesh-duckdb-prepare")
        self._closing = threading.Event()
        self._refill()

    @contextlib.contextmanager
    def instance(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """An instance for one query; it is thrown away afterwards."""
        connection = self._take()
        try:
            yield connection
        finally:
            self._replace(connection)

    def close(self) -> None:
        """Close what is left."""
        self._closing.set()
        self._background.shutdown(wait=True)
        with contextlib.suppress(queue.Empty):
            while True:
                self._ready.get_nowait().close()

    def _take(self) -> duckdb.DuckDBPyConnection:
        try:
            return self._ready.get_nowait()
        except queue.Empty:
            return prepared(self._s3)

    def _replace(self, used: duckdb.DuckDBPyConnection) -> None:
        try:
            self._background.submit(self._close_and_refill, used)
        except RuntimeError:  # the pool was closed while the query ran
            used.close()

    def _close_and_refill(self, used: duckdb.DuckDBPyConnection) -> None:
        used.close()
        self._refill()

    def _refill(self) -> None:
        while self._ready.qsize() < self._size and not self._closing.is_set():
            self._ready.put(prepared(self._s3))


def _httpfs() -> Path:
    found = importlib.util.find_spec("duckdb_extension_httpfs")
    for place in (found.submodule_search_locations or []) if found else []:
        for extension in Path(place).glob(f"extensions/v{duckdb.__version__}/*.duckdb_extension"):
            return extension
    raise ConfigurationError(
        f"S3 needs the package duckdb-extension-httpfs of the same version as duckdb, {duckdb.__version__}"
    )


def _secret(access: S3Access) -> str:
    options = {"REGION": access.region, "URL_STYLE": access.url_style}
    if access.endpoint is not None:
        scheme, _, host = access.endpoint.rpartition("://")
        options["ENDPOINT"] = host.rstrip("/")
        options["USE_SSL"] = "false" if scheme == "http" else "true"
    optional = {
        "KEY_ID": access.access_key_id,
        "SECRET": access.secret_access_key,
        "SESSION_TOKEN": access.session_token,
    }
    options |= {name: value for name, value in optional.items() if value is not None}
    listed = ", ".join(f"{name} {text(value)}" for name, value in options.items())
    return f"CREATE TEMPORARY SECRET duckmesh (TYPE s3, {listed})"
