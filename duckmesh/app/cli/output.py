"""How answers and errors are printed: tables for people, JSON for programs."""

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any, Final

from duckmesh.app.cli.exit_codes import CliError, ExitCode

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

NULL: Final = "NULL"
#: Columns of these types stand on the right, as numbers do.
_NUMERIC: Final = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "DOUBLE", "FLOAT", "DECIMAL")
_PLAIN_WIDTH: Final = 200


def console(stream: IO[str] | None = None) -> "Console":
    """A console on stdout, or on another stream; wide where nobody looks at it, so that nothing is cut."""
    from rich.console import Console  # noqa: PLC0415 - Rich would slow down --help

    file = stream or sys.stdout
    return Console(file=file, width=None if file.isatty() else _PLAIN_WIDTH, highlight=False)


def print_json(document: Any, stream: IO[str] | None = None) -> None:
    """A document on stdout: indented for a terminal, one line for a pipe."""
    file = stream or sys.stdout
    file.write(json.dumps(document, indent=2 if file.isatty() else None, ensure_ascii=False) + "\n")


def print_error(error: CliError, *, as_json: bool) -> None:
    """One line on stderr, or the error body."""
    if as_json:
        print_json(error.body, sys.stderr)
    else:
        sys.stderr.write("\n".join(filter(None, (error_line(error), error.detail))) + "\n")


def error_line(error: CliError) -> str:
    """``error: CODE: message (name=value, …)``; the code is left out for errors of the command line itself."""
    code = "" if error.error_code == "USAGE" else f"{error.error_code}: "
    message = " ".join(error.message.split())
    # What the message says already is not said twice.
    told = {name: value for name, value in error.context.items() if not _says(message, _short(value))}
    if error.exit_code == ExitCode.SERVER_ERROR and error.body["trace_id"]:
        told["trace_id"] = error.body["trace_id"]  # to be found in the server's log
    context = ", ".join(f"{name}={_short(value)}" for name, value in told.items())
    return f"error: {code}{message}" + (f" ({context})" if context else "")


def _says(message: str, value: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(value)}(?!\w)", message) is not None


def _short(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def result_table(
    columns: Sequence[str], types: Sequence[str], rows: Iterable[Sequence[Any]], title: str | None = None
) -> "Table":
    """A query's rows: types under the names, numbers on the right, NULL unlike the text 'NULL'."""
    from rich.table import Table  # noqa: PLC0415 - Rich would slow down --help
    from rich.text import Text  # noqa: PLC0415

    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for name, kind in zip(columns, types, strict=True):
        header = Text(name).append(f"\n{kind}", style="dim not bold")
        table.add_column(header, justify="right" if is_numeric(kind) else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(NULL, style="dim italic") if v is None else Text(cell_text(v)) for v in row))
    return table


def is_numeric(kind: str) -> bool:
    """Whether a DuckDB type is a number."""
    return kind.upper().removeprefix("U").startswith(_NUMERIC) and not kind.endswith("]")


def cell_text(value: Any) -> str:
    """A JSON value in a cell; control characters are escaped, since data must not steer the terminal."""
    if isinstance(value, str):
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in value)
    return json.dumps(value, ensure_ascii=False)


def print_pairs(pairs: Mapping[str, Any], title: str | None = None) -> None:
    """Names and values, one a line."""
    from rich.table import Table  # noqa: PLC0415 - Rich would slow down --help
    from rich.text import Text  # noqa: PLC0415

    table = Table(title=title, title_justify="left", title_style="bold", show_header=False, box=None)
    for name, value in pairs.items():
        table.add_row(Text(name, style="dim"), Text("-" if value is None else cell_text(value)))
    console().print(table)
