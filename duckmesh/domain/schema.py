"""Columns, schema versions and how a schema may change (contract, section 5).

A column is known by its id, so that a rename keeps its data and a name used again does not resurrect any.
"""

from collections.abc import Mapping, Sequence
from enum import Enum
from typing import Any, Final

from attrs import evolve as changed
from attrs import field, frozen

from duckmesh.domain.errors import IncompatibleSchema, InvalidSchema
from duckmesh.domain.names import check_column_name, fold
from duckmesh.domain.types import Decimal, Kind, LogicalType, Scalar, parse_type

MAX_COLUMNS: Final = 1000


class SchemaMode(Enum):
    """Whether the schema is declared, or inferred from the data and grown additively."""

    STRICT = "strict"
    AUTO = "auto"


class CompatibilityMode(Enum):
    """Which changes a table allows, with the meanings of Confluent's Schema Registry."""

    NONE = "none"
    BACKWARD = "backward"
    FORWARD = "forward"
    FULL = "full"


@frozen
class Column:
    """One typed column. ``default`` is a JSON value; it counts only where ``has_default``."""

    column_id: int
    name: str
    type: LogicalType
    nullable: bool = True
    has_default: bool = False
    default: Any = None
    description: str | None = None

    @property
    def optional(self) -> bool:
        """Whether a record may leave the column out."""
        return self.nullable or self.has_default


@frozen
class ColumnSpec:
    """What a user asks of a column, before it has an id."""

    name: str
    type: LogicalType
    nullable: bool = True
    has_default: bool = False
    default: Any = None
    description: str | None = None

    def with_id(self, column_id: int) -> Column:
        """The column of that id."""
        return Column(column_id, self.name, self.type, self.nullable, self.has_default, self.default, self.description)


_SPEC_FIELDS: Final = {"type", "nullable", "default", "description"}


def parse_specs(schema_json: Mapping[str, Any]) -> tuple[ColumnSpec, ...]:
    """Read ``schema_json``: column to type name, or to an object with ``type`` and its properties."""
    if len(schema_json) > MAX_COLUMNS:
        raise InvalidSchema(f"a table has at most {MAX_COLUMNS} columns", columns=len(schema_json))
    specs = tuple(_parse_spec(name, declared) for name, declared in schema_json.items())
    folded = [fold(spec.name) for spec in specs]
    for name in folded:
        if folded.count(name) > 1:
            raise InvalidSchema(f"column {name!r} is named twice (names are case-insensitive)", column=name)
    return specs


def _parse_spec(name: str, declared: Any) -> ColumnSpec:
    check_column_name(name)
    if isinstance(declared, str):
        declared = {"type": declared}
    if not isinstance(declared, Mapping) or not isinstance(declared.get("type"), str):
        raise InvalidSchema(f"column {name!r} needs a type: a name such as 'BIGINT', or {{'type': …}}", column=name)
    unknown = sorted(set(declared) - _SPEC_FIELDS)
    if unknown:
        raise InvalidSchema(f"column {name!r} has unknown properties {unknown}", column=name)
    nullable, description = declared.get("nullable", True), declared.get("description")
    if not isinstance(nullable, bool):
        raise InvalidSchema(f"column {name!r}: nullable must be true or false", column=name)
    if description is not None and not isinstance(description, str):
        raise InvalidSchema(f"column {name!r}: description must be a text", column=name)
    return ColumnSpec(
        name,
        parse_type(declared["type"]),
        nullable,
        declared.get("default") is not None,
        declared.get("default"),
        description,
    )


@frozen
class TableSchema:
    """One version of a table's columns. ``primary_key`` holds column ids, in key order."""

    version: int
    columns: tuple[Column, ...]
    primary_key: tuple[int, ...] = ()
    next_column_id: int = field(default=1)

    @property
    def keyed(self) -> bool:
        """Whether the table has a primary key."""
        return bool(self.primary_key)

    @property
    def key_columns(self) -> tuple[Column, ...]:
        """The columns of the primary key, in key order."""
        by_id = {column.column_id: column for column in self.columns}
        return tuple(by_id[column_id] for column_id in self.primary_key)

    def column(self, name: str) -> Column | None:
        """The column of that name, compared case-insensitively."""
        folded = fold(name)
        return next((column for column in self.columns if fold(column.name) == folded), None)


def first_schema(specs: Sequence[ColumnSpec], primary_key_cols: Sequence[str] = ()) -> TableSchema:
    """Version 1 of a table; key columns become non-null."""
    columns = tuple(spec.with_id(number) for number, spec in enumerate(specs, start=1))
    schema = TableSchema(1, columns, (), len(columns) + 1)
    key_ids: list[int] = []
    for name in primary_key_cols:
        column = schema.column(name)
        if column is None:
            raise InvalidSchema(f"primary key column {name!r} is not in the schema", column=name)
        if column.column_id in key_ids:
            raise InvalidSchema(f"primary key column {name!r} is named twice", column=name)
        _check_key_type(column)
        key_ids.append(column.column_id)
    columns = tuple(changed(c, nullable=False) if c.column_id in key_ids else c for c in columns)
    return changed(schema, columns=columns, primary_key=tuple(key_ids))


_INEXACT: Final = {Kind.DOUBLE, Kind.FLOAT, Kind.JSON}


def _check_key_type(column: Column) -> None:
    kind = column.type
    exact = isinstance(kind, Decimal) or (isinstance(kind, Scalar) and kind.kind not in _INEXACT)
    if not exact:
        raise InvalidSchema(
            f"column {column.name!r} of type {column.type} cannot be part of a primary key: "
            "equality is not exact there",
            column=column.name,
        )


def grown_schema(current: TableSchema, specs: Sequence[ColumnSpec], mode: CompatibilityMode) -> TableSchema:
    """The next version: ``specs`` is the whole new schema, and only adds to ``current``.

    Added columns are nullable or have a default, so that data of older versions stays readable under every
    mode. Raises `IncompatibleSchema` that lists each problem.
    """
    wanted = {fold(spec.name): spec for spec in specs}
    kept = {fold(column.name): column for column in current.columns}
    problems = [
        f"column {c.name!r} is missing; columns cannot be dropped yet" for n, c in kept.items() if n not in wanted
    ]
    problems += [p for n, spec in wanted.items() if n in kept for p in _differences(kept[n], spec, current)]
    added = [spec for name, spec in wanted.items() if name not in kept]
    problems += [
        f"column {spec.name!r} is new and must be nullable or have a default" for spec in added
        if not (spec.nullable or spec.has_default)
    ]  # fmt: skip
    if problems:
        raise IncompatibleSchema(
            f"the change is not compatible ({mode.value}): {'; '.join(problems)}",
            problems=problems,
            mode=mode.value,
        )
    new = tuple(spec.with_id(current.next_column_id + number) for number, spec in enumerate(added))
    described = tuple(changed(c, description=wanted[fold(c.name)].description) for c in current.columns)
    return TableSchema(current.version + 1, described + new, current.primary_key, current.next_column_id + len(new))


def _differences(column: Column, spec: ColumnSpec, schema: TableSchema) -> list[str]:
    problems = []
    if column.type != spec.type:
        problems.append(f"column {column.name!r} changes its type from {column.type} to {spec.type}")
    in_key = column.column_id in schema.primary_key
    if column.nullable != spec.nullable and not in_key:
        problems.append(f"column {column.name!r} changes whether it is nullable")
    if (column.has_default, column.default) != (spec.has_default, spec.default):
        problems.append(f"column {column.name!r} changes its default")
    return problems


def spec_json(column: Column) -> dict[str, Any] | str:
    """A column as ``schema_json`` shows it: the bare type where nothing else is said."""
    if column.nullable and not column.has_default and column.description is None:
        return str(column.type)
    shown: dict[str, Any] = {"type": str(column.type), "nullable": column.nullable}
    if column.has_default:
        shown["default"] = column.default
    if column.description is not None:
        shown["description"] = column.description
    return shown


def schema_json(schema: TableSchema) -> dict[str, Any]:
    """The schema in the form that a user sent it."""
    return {column.name: spec_json(column) for column in schema.columns}
