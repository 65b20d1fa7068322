"""``duckmesh snapshots``: the published states, to run queries on."""

from collections.abc import Mapping
from typing import Annotated, Any, Final

import typer

from duckmesh.app.cli.output import cell_text, console, print_json, print_pairs
from duckmesh.app.cli.session import Session, connected

_snapshots = typer.Typer(help="List and show published snapshots.", no_args_is_help=True)
_PATH: Final = "/v1/snapshots"
_COLUMNS: Final = ("snapshot_id", "parent_id", "watermark", "published_at", "author")


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(_snapshots, name="snapshots")


@_snapshots.command("list")
@connected
def list_snapshots(
    session: Session,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=1000, help="At most this many.")] = 20,
    cursor: Annotated[str | None, typer.Option("--cursor", help="Go on where another page ended.")] = None,
) -> None:
    """List snapshots with their watermark: every write up to that token is inside."""
    with session.client() as client:
        page = client.get(_PATH, limit=limit, cursor=cursor)
    if session.json:
        print_json(page)
        return
    from rich.table import Table  # noqa: PLC0415 - Rich would slow down --help

    shown = Table(*(name.replace("_", " ") for name in _COLUMNS), header_style="bold")
    for entry in page["snapshots"]:
        shown.add_row(*("-" if entry.get(name) is None else cell_text(entry[name]) for name in _COLUMNS))
    console().print(shown)
    if page.get("next_cursor"):
        console().print(f"more: duckmesh snapshots list --cursor {page['next_cursor']}", style="dim", markup=False)


@_snapshots.command("show")
@connected
def show_snapshot(session: Session, snapshot: Annotated[int, typer.Argument(help="The snapshot's id.")]) -> None:
    """Show a snapshot: parent, author, watermark, and the watermark of each table."""
    with session.client() as client:
        answer = client.get(f"{_PATH}/{snapshot}")
    if session.json:
        print_json(answer)
    else:
        print_pairs(_flat(answer))


def _flat(document: Mapping[str, Any], before: str = "") -> dict[str, Any]:
    """Nested names joined by dots, so that every fact has one line."""
    lines: dict[str, Any] = {}
    for name, value in document.items():
        if isinstance(value, Mapping):
            lines |= _flat(value, f"{before}{name}.")
        else:
            lines[f"{before}{name}"] = value
    return lines
