"""The SQL behind a relation: files seen through one version of the table's schema.

Files are read by Parquet field id, so a column that was renamed keeps its data, one that a file does not have shows
its default, and a narrower type is widened. On a keyed table the last operation of every key wins.
"""
# ruff: noqa: S608 - this module makes SQL; names go through `quote`, values through `literals`

from collections.abc import Iterable, Sequence
from typing import Final

from attrs import frozen

from duckmesh.adapters.duckdb.literals import text, typed
from duckmesh.domain.schema import Column, TableSchema
from duckmesh.domain.types import quote
from duckmesh.domain.writes import Operation
from duckmesh.ports.columns import EVENT_TIME, OPERATION, ORDINAL, SYSTEM_FIELD_IDS, TOKEN
from duckmesh.ports.engine import Relation

_SYSTEM_TYPES: Final = {
    EVENT_TIME: "TIMESTAMPTZ",
    TOKEN: "BIGINT",
    OPERATION: "TINYINT",
    ORDINAL: "INTEGER",
}


@frozen
class StoredColumn:
    """A column as files have it: its field id, how it is called here, its type, and its default in SQL."""

    field_id: int
    name: str
    type: str
    default: str = "NULL"


@frozen
class ArrowSource:
    """Rows that are registered under a name; their columns are called by field id, see `arrow_column`."""

    name: str
    field_ids: frozenset[int]


def create_view(relation: Relation, uris: Sequence[str], arrow: Sequence[ArrowSource] = ()) -> str:
    """The statement that shows the relation under its name.

    ``uris`` are files that the engine reads by itself, ``arrow`` are those that were read for it.
    """
    return f"CREATE VIEW {quote(relation.name)} AS {relation_sql(relation.schema, uris, arrow)}"


def relation_sql(schema: TableSchema, uris: Sequence[str], arrow: Sequence[ArrowSource] = ()) -> str:
    """A SELECT of the rows that the relation shows."""
    stored = stored_columns(schema)
    sources = [_from_parquet(stored, uris)] if uris else []
    sources += [_from_arrow(stored, source) for source in arrow]
    shown = _names([*(column.name for column in schema.columns), EVENT_TIME, TOKEN])
    if not sources:
        return f"SELECT {shown} FROM ({_no_rows(stored)})"
    rows = " UNION ALL ".join(sources)
    return _last_of_each_key(schema, shown, rows) if schema.keyed else f"SELECT {shown} FROM ({rows})"


def stored_columns(schema: TableSchema) -> tuple[StoredColumn, ...]:
    """What is read from each file: the columns, then the system's own."""
    system = [EVENT_TIME, TOKEN, *((OPERATION, ORDINAL) if schema.keyed else ())]
    return (
        *(_user_column(column) for column in schema.columns),
        *(StoredColumn(SYSTEM_FIELD_IDS[name], name, _SYSTEM_TYPES[name]) for name in system),
    )


def arrow_column(field_id: int) -> str:
    """How a column of that field id is called in an `ArrowSource`."""
    return f"f{field_id}"


def _user_column(column: Column) -> StoredColumn:
    default = typed(column.default, column.type) if column.has_default else "NULL"
    return StoredColumn(column.column_id, column.name, str(column.type), default)


def _from_parquet(columns: Iterable[StoredColumn], uris: Iterable[str]) -> str:
    # One map holds the defaults of all columns, so they cross it as text; DuckDB casts each back to its type.
    schema = ", ".join(
        f"{c.field_id}: {{name: {text(c.name)}, type: {text(c.type)}, default_value: CAST({c.default} AS VARCHAR)}}"
        for c in columns
    )
    files = ", ".join(text(uri) for uri in uris)
    return f"SELECT * FROM read_parquet([{files}], schema = MAP {{{schema}}}, hive_partitioning = false)"


def _from_arrow(columns: Iterable[StoredColumn], source: ArrowSource) -> str:
    picked = ", ".join(
        f"CAST({quote(arrow_column(c.field_id)) if c.field_id in source.field_ids else c.default} AS {c.type})"
        f" AS {quote(c.name)}"
        for c in columns
    )
    return f"SELECT {picked} FROM {quote(source.name)}"


def _no_rows(columns: Iterable[StoredColumn]) -> str:
    empty = ", ".join(f"CAST(NULL AS {c.type}) AS {quote(c.name)}" for c in columns)
    return f"SELECT {empty} WHERE false"


def _last_of_each_key(schema: TableSchema, shown: str, rows: str) -> str:
    """Contract, section 5: the last operation in token order wins, within a write the later record wins.

    Deletes are hidden outside: they must win over what they delete first. DuckDB turns this window into a
    grouped top-1, and pushes conditions on key columns, and only those, below it.
    """
    key = _names(column.name for column in schema.key_columns)
    last = f"row_number() OVER (PARTITION BY {key} ORDER BY {quote(TOKEN)} DESC, {quote(ORDINAL)} DESC) = 1"
    return (
        f"SELECT {shown} FROM (SELECT * FROM ({rows}) QUALIFY {last}) "
        f"WHERE {quote(OPERATION)} IS DISTINCT FROM {int(Operation.DELETE)}"
    )


def _names(names: Iterable[str]) -> str:
    return ", ".join(quote(name) for name in names)
