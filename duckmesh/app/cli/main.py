"""The entry point: the tree of commands, and the one place where an error becomes an exit code."""

import os
import sys
import traceback
from typing import Annotated, Any, Final, NoReturn

import typer

import duckmesh
from duckmesh.app.cli import admin, demo, ingest, query, server, snapshots, status, tables
from duckmesh.app.cli.exit_codes import MEANINGS, CliError, ExitCode, UsageProblem, of_domain_error
from duckmesh.app.cli.output import print_error
from duckmesh.domain.errors import DuckMeshError

_EPILOG = "Exit status: " + "; ".join(f"{code.value} {text}" for code, text in MEANINGS.items()) + "."

#: The base of Typer's errors of usage; it has no public name in every version.
_USAGE_ERROR: Final[type] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="duckmesh",
    help=(
        "Many writers, consistent snapshots and strict read-your-writes around DuckDB.\n\n"
        "Start with `duckmesh demo`, or `duckmesh up` and then `duckmesh ingest` and `duckmesh query`."
    ),
    epilog=_EPILOG,
    no_args_is_help=True,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"duckmesh {duckmesh.__version__}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Everything is below the commands."""


server.register(app)
demo.register(app)
ingest.register(app)
query.register(app)
tables.register(app)
snapshots.register(app)
status.register(app)
admin.register(app)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit with one of `ExitCode`."""
    given = sys.argv[1:] if arguments is None else arguments
    code = run(given)
    _flush()
    if code == ExitCode.INTERRUPTED:
        os._exit(code)  # whoever pressed Ctrl-C does not wait for a worker's request to end
    raise SystemExit(code)


def run(arguments: list[str]) -> int:
    """Run a command; whatever it raises becomes a line on stderr and an exit code."""
    try:
        # Without standalone mode the exit code of `typer.Exit` is what the call returns.
        returned = app(arguments, prog_name="duckmesh", standalone_mode=False)
    except (KeyboardInterrupt, typer.Abort):
        sys.stderr.write("interrupted\n")
        return ExitCode.INTERRUPTED
    except BrokenPipeError:
        return ExitCode.OK  # the reader of a pipe has seen enough
    except Exception as error:  # noqa: BLE001 - the last resort: a bug must not look like a refusal
        return _report(error, as_json="--json" in arguments)
    if returned == ExitCode.INTERRUPTED:
        sys.stderr.write("interrupted\n")
    return returned if isinstance(returned, int) else ExitCode.OK


def _report(error: Exception, *, as_json: bool) -> int:
    if _help_was_shown(error):
        return ExitCode.USAGE
    problem = _as_cli_error(error)
    if problem is None:
        traceback.print_exception(error)
        return ExitCode.BUG
    print_error(problem, as_json=as_json)
    return problem.exit_code


def _as_cli_error(error: Any) -> CliError | None:
    """What a user can be told, or None for a bug."""
    if isinstance(error, CliError):
        return error
    if isinstance(error, DuckMeshError):
        return _from_domain(error)
    return _usage_problem(error) if isinstance(error, _USAGE_ERROR) else None


def _usage_problem(error: Any) -> CliError:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "duckmesh"
    return UsageProblem(f"{error.format_message().strip()} (see '{path} --help')")


def _help_was_shown(error: Exception) -> bool:
    """Whether a command without arguments printed its help instead of doing anything."""
    return isinstance(error, _USAGE_ERROR) and not str(getattr(error, "message", "")).strip()


def _from_domain(error: DuckMeshError) -> CliError:
    problem = CliError(error.message, **error.context)
    problem.exit_code = of_domain_error(error)
    problem.error_code, problem.retryable = error.code, error.retryable
    return problem


def _flush() -> None:
    """Flush stdout; a closed pipe is replaced, so that the interpreter does not complain at its exit."""
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
