"""Tables of a tenant, and the control writes that make, alter and drop them.

Control writes stand in the same log as data, so a table's versions have a place among the writes. The catalog
applies them in log order with `apply_change`; the outcome of each is kept for the caller that waits for it.
"""

from collections.abc import Mapping

from attrs import evolve as changed
from attrs import frozen

from duckmesh.domain.errors import IncompatibleSchema, TableExists, TableNotFound
from duckmesh.domain.names import fold
from duckmesh.domain.schema import CompatibilityMode, SchemaMode, TableSchema


@frozen
class TableDefinition:
    """A table at one schema version. ``table_id`` is unique in the deployment and never used again."""

    table_id: str
    name: str
    schema: TableSchema
    compatibility: CompatibilityMode = CompatibilityMode.BACKWARD
    schema_mode: SchemaMode = SchemaMode.STRICT


@frozen
class CreateTable:
    """Make a table; fails with `TableExists` when the name is taken at its place in the log."""

    table: TableDefinition


@frozen
class AlterTable:
    """Replace the schema; fails with `IncompatibleSchema` when another change came first."""

    table_id: str
    schema: TableSchema


@frozen
class DropTable:
    """Hide the table from later snapshots."""

    table_id: str


ControlChange = CreateTable | AlterTable | DropTable

#: Tables of a tenant by folded name.
Tables = Mapping[str, TableDefinition]


def by_id(tables: Tables, table_id: str) -> TableDefinition | None:
    """The table of that id, when it is there."""
    return next((table for table in tables.values() if table.table_id == table_id), None)


def apply_change(tables: Tables, change: ControlChange) -> dict[str, TableDefinition]:
    """The tables after ``change``; raises when it cannot be applied at this place in the log."""
    after = dict(tables)
    match change:
        case CreateTable(table):
            if fold(table.name) in tables:
                raise TableExists(f"table {table.name!r} exists already", table=table.name)
            after[fold(table.name)] = table
        case AlterTable(table_id, schema):
            current = _existing(tables, table_id)
            if schema.version != current.schema.version + 1:
                raise IncompatibleSchema(
                    f"table {current.name!r} was changed to version {current.schema.version} in the meantime; "
                    "read it again and repeat the change",
                    table=current.name,
                    schema_version=current.schema.version,
                    problems=["changed in the meantime"],
                )
            after[fold(current.name)] = changed(current, schema=schema)
        case DropTable(table_id):
            del after[fold(_existing(tables, table_id).name)]
    return after


def _existing(tables: Tables, table_id: str) -> TableDefinition:
    table = by_id(tables, table_id)
    if table is None:
        raise TableNotFound("the table was dropped in the meantime", table_id=table_id)
    return table
