"""``duckmesh query``: SQL in, rows out."""

import json
import sys
import time
from collections.abc import Sequence
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from duckmesh.app.cli.exit_codes import UsageProblem
from duckmesh.app.cli.output import console, print_json, result_table
from duckmesh.app.cli.session import Session, connected

if TYPE_CHECKING:
    from duckmesh.app.cli.client import ApiClient

#: More rows than this are not laid out as a table: a pager of its own is a better place for them.
_SHOWN_ROWS: Final = 1000
_PATH: Final = "/v1/query"
_TRUNCATED: Final = "there are more rows than the limit; raise --row-limit to see them"


class ResultFormat(Enum):
    """The forms in which rows are printed."""

    TABLE = "table"
    CSV = "csv"
    JSON = "json"
    NDJSON = "ndjson"


_STREAMED: Final = {ResultFormat.CSV: "text/csv", ResultFormat.NDJSON: "application/x-ndjson"}


@connected
def query(
    session: Session,
    sql: Annotated[str, typer.Argument(metavar="SQL|-", help="One SELECT, or - to read it from stdin.")],
    form: Annotated[
        ResultFormat | None,
        typer.Option("--format", "-f", help="How to print the rows.", show_default="table for a terminal, else csv"),
    ] = None,
    min_token: Annotated[
        int | None,
        typer.Option("--min-token", help="See every write up to this visibility token: it waits, or it fails."),
    ] = None,
    snapshot: Annotated[int | None, typer.Option("--snapshot", help="Run on this snapshot, of any age.")] = None,
    as_of: Annotated[
        str | None, typer.Option("--as-of", help="Run on the last snapshot at or before this ISO 8601 time.")
    ] = None,
    param: Annotated[
        list[str] | None,
        typer.Option("--param", "-p", help="NAME=VALUE for $NAME in the SQL; a value that is JSON is taken as such."),
    ] = None,
    row_limit: Annotated[
        int | None, typer.Option("--row-limit", min=1, help="At most this many rows.", show_default="the server's")
    ] = None,
    timeout_ms: Annotated[
        int | None,
        typer.Option(
            "--timeout-ms",
            min=0,
            help="How long the query may run, and --min-token may wait.",
            show_default="the server's",
        ),
    ] = None,
    allow_parked: Annotated[
        bool, typer.Option("--allow-parked", help="Run even if writes that are asked for are parked.")
    ] = False,
) -> None:
    """Run a SELECT on a consistent snapshot.

    A query sees the latest snapshot; with --min-token it sees at least that write (the token is in the receipt of
    every ingest), with --snapshot or --as-of an older state.

    - `duckmesh query "SELECT count(*) FROM flights"`

    - `duckmesh query 'SELECT * FROM flights WHERE origin = $o' -p o=JFK --format csv > jfk.csv`

    - `duckmesh query - --min-token 42 < report.sql`
    """
    request = {
        "sql": _sql(sql),
        "params": parse_params(param or []) or None,
        "min_visibility_token": min_token,
        "snapshot_id": snapshot,
        "snapshot_time": as_of,
        "row_limit": row_limit,
        "timeout_ms": timeout_ms,
        "consistency_timeout_ms": timeout_ms,
        "allow_parked": allow_parked or None,
    }
    with session.client() as client:
        _run(client, request, _chosen(form, session))


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command(no_args_is_help=True)(query)


def _chosen(form: ResultFormat | None, session: Session) -> ResultFormat:
    if session.json:
        return ResultFormat.JSON
    return form or (ResultFormat.TABLE if sys.stdout.isatty() else ResultFormat.CSV)


def _run(client: "ApiClient", request: dict[str, Any], form: ResultFormat) -> None:
    if form in _STREAMED:
        _copy(client, request, _STREAMED[form])
        return
    started = time.monotonic()
    answer = client.post(_PATH, request, repeatable=True)
    if form is ResultFormat.JSON:
        print_json(answer)
    else:
        print_result(answer, time.monotonic() - started)


def _copy(client: "ApiClient", request: dict[str, Any], accept: str) -> None:
    out = sys.stdout.buffer
    with client.streamed(_PATH, request, accept) as answer:
        for piece in answer.iter_bytes():
            out.write(piece)
        out.flush()
        if answer.headers.get("X-Truncated") == "true":
            sys.stderr.write(f"warning: {_TRUNCATED}\n")


def print_result(answer: dict[str, Any], seconds: float) -> None:
    """The rows as a table, and below it what they were read from."""
    rows: Sequence[Sequence[Any]] = answer["rows"]
    screen = console()
    screen.print(result_table(answer["columns"], answer["column_types"], rows[:_SHOWN_ROWS]))
    if len(rows) > _SHOWN_ROWS:
        screen.print(f"… {len(rows) - _SHOWN_ROWS} more rows; use --format csv to get them", style="yellow")
    if answer.get("stats", {}).get("truncated"):
        screen.print(_TRUNCATED, style="yellow")
    screen.print(footer(answer, seconds), style="dim")


def footer(answer: dict[str, Any], seconds: float) -> str:
    """Rows, time in the server and in total, snapshot and token."""
    count = len(answer["rows"])
    server_ms = answer.get("stats", {}).get("duration_ms")
    inside = f" ({server_ms:.1f} ms in the server)" if isinstance(server_ms, int | float) else ""
    return (
        f"{count} row{'' if count == 1 else 's'} in {seconds * 1000:.1f} ms{inside}, "
        f"snapshot {answer['snapshot_id']}, token {answer['max_visibility_token']}"
    )


def parse_params(pairs: Sequence[str]) -> dict[str, Any]:
    """``NAME=VALUE`` as parameters: 5, 1.5, true, null, [1, 2] and "text" as JSON, everything else as text."""
    params: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise UsageProblem(f"--param takes NAME=VALUE, not {pair!r}")
        params[name] = _value(value)
    return params


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _sql(argument: str) -> str:
    text = sys.stdin.read() if argument == "-" else argument
    if not text.strip():
        raise UsageProblem("there is no SQL; give a SELECT, or - with one on stdin")
    return text
