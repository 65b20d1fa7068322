"""One query on one instance, in a worker thread."""

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

import duckdb
import pyarrow as pa

from duckmesh.adapters.duckdb.errors import translated
from duckmesh.adapters.duckdb.guard import CheckedSql
from duckmesh.adapters.duckdb.instance import harden
from duckmesh.adapters.duckdb.objects import as_tables, field_ids, needs_fetching
from duckmesh.adapters.duckdb.parameters import bind
from duckmesh.adapters.duckdb.plain import plain_batch, plain_schema
from duckmesh.adapters.duckdb.relations import ArrowSource, create_view
from duckmesh.domain.errors import QueryResourceExceeded, QueryTimeout
from duckmesh.ports.engine import EngineQuery, EngineResult, Relation

#: DuckDB's own vector size: results are looked at in small steps, so that a limit is noticed early.
_BATCH_ROWS = 2048


class Job:
    """A query that can be stopped from another thread at any time."""

    def __init__(self, query: EngineQuery) -> None:
        self.query = query
        self._stopped = threading.Event()
        self._lock = threading.Lock()
        self._running: duckdb.DuckDBPyConnection | None = None

    def stop(self) -> None:
        """Interrupt the query; an interrupt between two steps is lost, so this is called until it ends."""
        self._stopped.set()
        with self._lock, contextlib.suppress(duckdb.Error):
            if self._running is not None:
                self._running.interrupt()

    def check_stopped(self) -> None:
        """Raise when `stop` was called."""
        if self._stopped.is_set():
            raise QueryTimeout("the query was stopped")

    def run(
        self, connection: duckdb.DuckDBPyConnection, checked: CheckedSql, contents: Mapping[str, bytes]
    ) -> EngineResult:
        """Bind the relations that the query names and read its result, up to its limits.

        ``contents`` are the bytes of the files that the engine cannot reach by itself, by path.
        """
        started = time.monotonic()
        relations = named_relations(self.query, checked)
        with self._interruptible(connection):
            try:
                _bind_relations(connection, self.query, relations, contents)
                table, types, truncated = self._read(connection, checked)
            except (duckdb.Error, pa.ArrowException, OSError) as error:
                raise translated(error, checked.sql, _places(relations)) from error
        files = [file for relation in relations for file in relation.files]
        return EngineResult(
            table=table,
            column_types=types,
            duration_ms=(time.monotonic() - started) * 1000,
            scanned_files=len(files),
            scanned_bytes=sum(file.size for file in files),
            truncated=truncated,
        )

    @contextlib.contextmanager
    def _interruptible(self, connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
        self.check_stopped()
        with self._lock:
            self._running = connection
        try:
            yield
        finally:
            with self._lock:
                self._running = None

    def _read(self, connection: duckdb.DuckDBPyConnection, checked: CheckedSql) -> tuple[Any, tuple[str, ...], bool]:
        connection.execute(checked.sql, bind(checked.parameters, self.query.parameters))
        types = tuple(str(column[1]) for column in connection.description or ())
        limits = self.query.limits
        with connection.to_arrow_reader(min(_BATCH_ROWS, limits.max_rows + 1)) as reader:
            schema = plain_schema(reader.schema)
            batches: list[Any] = []
            rows = size = 0
            while rows <= limits.max_rows and (batch := _next(reader)) is not None:
                self.check_stopped()
                batches.append(plain_batch(batch, schema))
                rows += batch.num_rows
                size += batches[-1].nbytes
                _check_size(size, limits.max_bytes)
        table = pa.Table.from_batches(batches, schema)
        return table.slice(0, limits.max_rows), types, rows > limits.max_rows


def named_relations(query: EngineQuery, checked: CheckedSql) -> tuple[Relation, ...]:
    """Those of the query's relations that its SQL names; the others cost nothing."""
    return tuple(relation for relation in query.relations if relation.name.lower() in checked.tables)


def _bind_relations(
    connection: duckdb.DuckDBPyConnection,
    query: EngineQuery,
    relations: tuple[Relation, ...],
    contents: Mapping[str, bytes],
) -> None:
    own = {r.name: [file.location.uri for file in r.files if not needs_fetching(file)] for r in relations}
    for relation in relations:
        sources = [_register(connection, table) for table in as_tables(relation, contents)]
        connection.execute(create_view(relation, own[relation.name], sources))
    harden(connection, query.limits, [uri for uris in own.values() for uri in uris])


def _register(connection: duckdb.DuckDBPyConnection, table: Any) -> ArrowSource:
    # Names of tables cannot begin like this, so no SQL of a tenant can mean it.
    name = f"_dm_arrow_{id(table):x}"
    connection.register(name, table)
    return ArrowSource(name, field_ids(table))


def _places(relations: tuple[Relation, ...]) -> dict[str, str]:
    return {file.location.uri: relation.name for relation in relations for file in relation.files}


def _next(reader: Any) -> Any:
    try:
        return reader.read_next_batch()
    except StopIteration:
        return None


def _check_size(size: int, limit: int) -> None:
    if size > limit:
        raise QueryResourceExceeded(
            f"the result is larger than {limit} bytes; select fewer columns or rows, or aggregate",
            limit="max_bytes",
            max_bytes=limit,
        )
