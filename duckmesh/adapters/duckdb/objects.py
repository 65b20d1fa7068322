"""Files that DuckDB cannot reach by itself: their bytes as Arrow, with the columns called by field id."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from duckmesh.adapters.duckdb.relations import arrow_column
from duckmesh.domain.errors import DataCorrupt
from duckmesh.ports.columns import FIELD_ID
from duckmesh.ports.engine import Relation, RelationFile
from duckmesh.ports.objectstore import LocationKind

#: Characters that DuckDB's reader would take for a pattern or for options of the request.
_SPECIAL = frozenset("*?[]#")


def needs_fetching(file: RelationFile) -> bool:
    """Whether the file is to be read here and handed over."""
    return file.location.kind is LocationKind.BYTES or not _SPECIAL.isdisjoint(file.location.uri)


def as_tables(relation: Relation, contents: Mapping[str, bytes]) -> Sequence[Any]:
    """The rows of the relation's fetched files, one table for all files that look the same."""
    groups: dict[Any, list[Any]] = {}
    for file in relation.files:
        if file.path in contents:
            table = _read(relation, contents[file.path])
            groups.setdefault(table.schema, []).append(table)
    return [pa.concat_tables(tables) for tables in groups.values()]


def field_ids(table: Any) -> frozenset[int]:
    """The field ids of a table's columns."""
    return frozenset(_ids(table.schema))


def _read(relation: Relation, data: bytes) -> Any:
    try:
        table = pq.ParquetFile(pa.BufferReader(data)).read()
    except (pa.ArrowException, OSError) as error:
        raise DataCorrupt(f"a data file of table {relation.name!r} cannot be read", table=relation.name) from error
    known = [(number, field) for number, field in enumerate(table.schema) if FIELD_ID in (field.metadata or {})]
    columns = [table.column(number) for number, _ in known]
    names = [arrow_column(int(field.metadata[FIELD_ID])) for _, field in known]
    return pa.table(
        columns,
        schema=pa.schema(
            [
                pa.field(name, field.type, metadata={FIELD_ID: field.metadata[FIELD_ID]})
                for name, (_, field) in zip(names, known, strict=True)
            ]
        ),
    )


def _ids(schema: Any) -> Iterable[int]:
    return (int(field.metadata[FIELD_ID]) for field in schema)
