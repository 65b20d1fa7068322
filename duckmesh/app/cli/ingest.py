"""``duckmesh ingest``: a file into a table."""

from enum import Enum
from typing import Annotated

import typer

from duckmesh.app.cli.formats import FileFormat, format_of
from duckmesh.app.cli.output import console, print_json
from duckmesh.app.cli.session import Session, connected


class Op(Enum):
    """What is done with each row."""

    INSERT = "insert"
    UPSERT = "upsert"
    DELETE = "delete"


@connected
def ingest(
    session: Session,
    file: Annotated[str, typer.Argument(metavar="FILE|-", help="The file (also .gz), or - for stdin.")],
    table: Annotated[str, typer.Option("--table", "-t", help="The table to write to.")],
    form: Annotated[
        FileFormat | None, typer.Option("--format", "-f", help="The file's format.", show_default="by its suffix")
    ] = None,
    create: Annotated[
        bool, typer.Option("--create", help="Create the table, with the file's types, if it does not exist.")
    ] = False,
    primary_key: Annotated[
        list[str] | None, typer.Option("--primary-key", "-k", help="With --create: a key column, once for each.")
    ] = None,
    op: Annotated[Op, typer.Option("--op", help="upsert and delete need a table with a primary key.")] = Op.INSERT,
    batch_rows: Annotated[
        int, typer.Option("--batch-rows", min=1, help="Rows in a request; a request is stored as a whole or not.")
    ] = 10_000,
    wait: Annotated[bool, typer.Option("--wait", help="Return when queries see the rows.")] = False,
    timeout_ms: Annotated[
        int | None, typer.Option("--timeout-ms", min=0, help="How long --wait may take.", show_default="server's")
    ] = None,
    key_column: Annotated[
        str | None,
        typer.Option("--key-column", help="Send each row as a record of its own, with this column as its key."),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option("--workers", min=1, max=64, help="Requests at a time.",
                     show_default="4; 1 with a primary key"),
    ] = None,
    null: Annotated[
        list[str] | None,
        typer.Option("--null", help="CSV: unquoted text that means null, once for each.", show_default="empty"),
    ] = None,
    run: Annotated[
        str, typer.Option("--run", help="Give it a new name to store a file once more that was stored before.")
    ] = "",
) -> None:  # fmt: skip
    """Load a file into a table: NDJSON, CSV, Parquet or Arrow.

    Safe to repeat: every chunk has a key made from its content, its place and the table, so the same command after
    a crash stores what is missing and nothing twice (with the same --batch-rows). Use --run to mean it twice.

    - `duckmesh ingest events.parquet -t events --create`

    - `zcat log.csv.gz | duckmesh ingest - -t log -f csv --null NA --wait`
    """
    from duckmesh.app.cli import ingest_run as runner  # noqa: PLC0415 - pyarrow would slow down --help

    job = runner.Job(
        file=file,
        table=table,
        form=format_of(file, form),
        create=create,
        primary_key=tuple(primary_key or ()),
        op=op.value,
        batch_rows=batch_rows,
        wait=wait,
        timeout_ms=timeout_ms,
        key_column=key_column,
        workers=workers,
        null_values=tuple(null or ("",)),
        run=run,
    )
    with session.client(retry_seconds=runner.RETRY_SECONDS, connections=64) as client:
        summary = runner.load(client, job, show_progress=not session.json)
    if session.json:
        print_json(summary.document)
    else:
        console().print(summary.line, markup=False)


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(no_args_is_help=True)(ingest)
