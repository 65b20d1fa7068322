"""``duckmesh demo``: the whole system in a minute, on real data."""

from pathlib import Path
from typing import Annotated

import typer

from duckmesh.app.cli.output import print_json
from duckmesh.app.cli.session import JsonOption


def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Keep the data, and say how to start it again.")] = False,
    rows: Annotated[
        int | None, typer.Option("--rows", min=100, help="Load this many flights only.", show_default="336,776")
    ] = None,
    port: Annotated[
        int | None, typer.Option("--port", min=1, max=65535, help="The server's port.", show_default="a free one")
    ] = None,
    data_dir: Annotated[
        Path | None,
        typer.Option("--data-dir", help="An empty folder to work in.", show_default="a new one in /tmp"),
    ] = None,
    json: JsonOption = False,
) -> None:
    """See it work: a year of flights, many writers, strict reads and time travel.

    Starts a server of its own in a fresh folder, loads the flights that left New York in 2013 (and weather, planes,
    airports, airlines), reads its own writes, goes back in time, measures, and removes everything.
    Ctrl-C stops it at any time and cleans up as well. Needs `pip install 'duckmesh[demo]'` for the data.
    """
    from duckmesh.app.cli import demo_run as runner  # noqa: PLC0415 - pyarrow would slow down --help

    measured = runner.run_demo(runner.Options(keep=keep, rows=rows, port=port, data_dir=data_dir, quiet=json))
    if json:
        print_json(measured)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)
