"""``duckmesh tables``: list, show, create and drop."""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Final
from urllib.parse import quote

import typer

from duckmesh.app.cli.exit_codes import UsageProblem
from duckmesh.app.cli.output import console, print_json, print_pairs
from duckmesh.app.cli.session import Session, connected

_tables = typer.Typer(help="Create, show and drop tables.", no_args_is_help=True)
_PATH: Final = "/v1/tables"
_NOT_NULL: Final = " NOT NULL"


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(_tables, name="tables")


def table_path(name: str) -> str:
    """The path of one table."""
    return f"{_PATH}/{quote(name, safe='')}"


@_tables.command("list")
@connected
def list_tables(session: Session) -> None:
    """List the tables with their version, columns and key."""
    with session.client() as client:
        found = _all_pages(client.get)
    if session.json:
        print_json({"tables": found})
        return
    from rich.table import Table  # noqa: PLC0415 - Rich would slow down --help

    shown = Table("table", "version", "columns", "primary key", "schema mode", header_style="bold")
    for info in found:
        key = ", ".join(info.get("primary_key_cols") or []) or "-"
        columns = ", ".join(info["schema_json"])
        shown.add_row(info["table_name"], str(info["schema_version"]), columns, key, info.get("schema_mode", "-"))
    console().print(shown if found else "no tables yet: duckmesh tables create, or duckmesh ingest --create")


@_tables.command("show")
@connected
def show_table(session: Session, name: Annotated[str, typer.Argument(help="The table.")]) -> None:
    """Show a table's columns, types and settings."""
    with session.client() as client:
        info = client.get(table_path(name))
    if session.json:
        print_json(info)
    else:
        print_table_info(info)


@_tables.command("create", no_args_is_help=True)
@connected
def create_table(
    session: Session,
    name: Annotated[str, typer.Argument(help="The new table.")],
    column: Annotated[
        list[str] | None,
        typer.Option("--column", "-c", help="'NAME TYPE' or 'NAME TYPE NOT NULL', once for each column."),
    ] = None,
    primary_key: Annotated[
        list[str] | None,
        typer.Option("--primary-key", "-k", help="A key column, once for each; allows upsert and delete."),
    ] = None,
    schema: Annotated[
        Path | None,
        typer.Option("--schema", help="JSON instead of --column: {column: type}, or the body of POST /v1/tables."),
    ] = None,
    mode: Annotated[
        str | None, typer.Option("--schema-mode", help="'auto' infers the columns from the first write.")
    ] = None,
    compatibility: Annotated[
        str | None,
        typer.Option("--compatibility", help="Which changes are allowed: none, backward, forward, full."),
    ] = None,
) -> None:
    """Create a table.

    Example: `duckmesh tables create orders -c 'id BIGINT' -c 'amount DECIMAL(18,2)' -c 'at TIMESTAMPTZ' -k id`
    """
    body: dict[str, Any] = {"schema_json": {}} | (_read_schema(schema) if schema else {})
    body["schema_json"] = body["schema_json"] | parse_columns(column or [])
    body |= {"table_name": name}
    for field, value in (
        ("primary_key_cols", primary_key), ("schema_mode", mode), ("compatibility_mode", compatibility)
    ):  # fmt: skip
        if value:
            body[field] = value
    if not body["schema_json"] and body.get("schema_mode") != "auto":
        raise UsageProblem("a table needs columns: --column 'id BIGINT', --schema FILE or --schema-mode auto")
    with session.client() as client:
        info = client.post(_PATH, body)
    if session.json:
        print_json(info)
    else:
        print_table_info(info)


@_tables.command("drop")
@connected
def drop_table(
    session: Session,
    name: Annotated[str, typer.Argument(help="The table.")],
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
) -> None:
    """Drop a table: it is hidden from now on, older snapshots still show it until they expire."""
    if not yes:
        _confirm(name)
    with session.client() as client:
        answer = client.delete(table_path(name))
    if session.json:
        print_json(answer)
    else:
        console().print(f"dropped {name}", markup=False)


def print_table_info(info: Mapping[str, Any]) -> None:
    """A table's settings and columns."""
    from rich.table import Table  # noqa: PLC0415 - Rich would slow down --help
    from rich.text import Text  # noqa: PLC0415

    names = ("table_name", "table_id", "schema_version", "schema_mode", "compatibility_mode")
    print_pairs({name.replace("_", " "): info[name] for name in names if name in info})
    key = [name.lower() for name in info.get("primary_key_cols") or []]
    shown = Table("column", "type", "null", "default", "key", header_style="bold")
    for name, declared in info["schema_json"].items():
        spec = declared if isinstance(declared, Mapping) else {"type": declared}
        nullable = spec.get("nullable", True) and name.lower() not in key
        default = json.dumps(spec["default"]) if spec.get("default") is not None else ""
        place = str(key.index(name.lower()) + 1) if name.lower() in key else ""
        shown.add_row(*map(Text, (name, spec["type"], "yes" if nullable else "no", default, place)))
    console().print(shown)


def parse_columns(declared: Sequence[str]) -> dict[str, Any]:
    """``'id BIGINT NOT NULL'`` and the like as ``schema_json``; the server checks the types."""
    columns: dict[str, Any] = {}
    for text in declared:
        name, _, kind = text.strip().partition(" ")
        kind = kind.strip()
        if not name or not kind:
            raise UsageProblem(f"--column takes 'NAME TYPE', such as 'id BIGINT', not {text!r}")
        if name in columns:
            raise UsageProblem(f"column {name!r} is given twice")
        required = kind.upper().endswith(_NOT_NULL)
        bare = kind[: -len(_NOT_NULL)].strip() if required else kind
        columns[name] = {"type": bare, "nullable": False} if required else bare
    return columns


def _read_schema(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UsageProblem(f"cannot read {path}: {error}") from error
    if not isinstance(document, dict):
        raise UsageProblem(f"{path} must hold an object: {{column: type}}")
    return document if isinstance(document.get("schema_json"), dict) else {"schema_json": document}


def _all_pages(get: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor: str | None = None
    while True:
        page = get(_PATH, cursor=cursor)
        found += page["tables"]
        cursor = page.get("next_cursor")
        if not cursor:
            return found


def _confirm(name: str) -> None:
    if not sys.stdin.isatty():
        raise UsageProblem(f"dropping {name!r} needs --yes where nobody can be asked")
    typer.confirm(f"Drop table {name!r}?", abort=True)
