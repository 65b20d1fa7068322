"""`QueryEngine`: runs one tenant's SQL over the files of one snapshot and nothing else."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from attrs import field, frozen

from duckmesh.domain.schema import TableSchema
from duckmesh.ports.objectstore import ObjectLocation


@frozen
class RelationFile:
    """A data file of a relation."""

    path: str
    location: ObjectLocation
    size: int
    rows: int


@frozen(eq=False)
class Relation:
    """A table as the SQL may name it, with its columns at the snapshot and its files.

    Rows show the columns of ``schema``, then ``_event_time`` and ``_token``; columns that a file does not have
    are filled with their default. A keyed relation shows the last row of every key that is not deleted.
    """

    name: str
    schema: TableSchema
    files: tuple[RelationFile, ...]


@frozen
class QueryLimits:
    """What one query may take. ``max_rows`` bounds the rows returned, ``max_bytes`` their size as columns."""

    timeout_s: float = 30.0
    max_rows: int = 100_000
    max_bytes: int = 256 * 1024 * 1024
    memory_bytes: int = 1024 * 1024 * 1024
    threads: int = 2


@frozen(eq=False)
class EngineQuery:
    """One SELECT with its parameters: a sequence for ``?`` and ``$1``, a mapping for ``$name``."""

    sql: str
    relations: tuple[Relation, ...]
    parameters: Sequence[Any] | Mapping[str, Any] | None = None
    limits: QueryLimits = field(factory=QueryLimits)


@frozen(eq=False)
class EngineResult:
    """The answer as an Arrow table, with DuckDB's name of each column's type.

    ``truncated`` says that ``max_rows`` cut it. Files and bytes are those that the query could have read.
    """

    table: Any
    column_types: tuple[str, ...]
    duration_ms: float
    scanned_files: int
    scanned_bytes: int
    truncated: bool = False


@runtime_checkable
class QueryEngine(Protocol):
    """Runs SQL that it does not trust."""

    async def execute(self, query: EngineQuery) -> EngineResult:
        """Run one read-only statement.

        Raises `SqlInvalid`, `SqlNotAllowed`, `SqlExecutionFailed`, `QueryTimeout`, `QueryResourceExceeded`, and
        `ObjectMissing` or `DataCorrupt` when a file cannot be read. Cancelling the caller stops the query.
        """
        ...
