"""What the exit status of ``duckmesh`` says, and the errors that carry it.

Scripts rely on these numbers: they only ever get additions.
"""

from collections.abc import Mapping
from enum import IntEnum
from typing import Any, Final

from duckmesh.domain.errors import DuckMeshError, ErrorKind


class ExitCode(IntEnum):
    """The exit status, documented in ``duckmesh --help``."""

    OK = 0
    REFUSED = 1
    USAGE = 2
    UNREACHABLE = 3
    TIMEOUT = 4
    PERMISSION = 5
    SERVER_ERROR = 6
    BUG = 70
    INTERRUPTED = 130


MEANINGS: Final[Mapping[ExitCode, str]] = {
    ExitCode.OK: "done",
    ExitCode.REFUSED: "the server refused the request (4xx)",
    ExitCode.USAGE: "wrong usage, configuration or input file",
    ExitCode.UNREACHABLE: "the server cannot be reached",
    ExitCode.TIMEOUT: "a consistency or query timeout: the same command may succeed later",
    ExitCode.PERMISSION: "no valid credential, or one without the role",
    ExitCode.SERVER_ERROR: "the server failed or is not ready (5xx)",
    ExitCode.BUG: "a bug in duckmesh: please report the traceback",
    ExitCode.INTERRUPTED: "interrupted (Ctrl-C)",
}

_FORBIDDEN: Final = frozenset({401, 403})
_TIMEOUTS: Final = frozenset({408, 504})
_FIRST_SERVER_ERROR: Final = 500


class CliError(Exception):
    """An error that a user can do something about: one line, an exit code, and a body for ``--json``.

    ``detail`` is printed below the line: the end of a log, say.
    """

    exit_code = ExitCode.USAGE
    error_code = "USAGE"
    retryable = False
    detail = ""

    def __init__(self, message: str, **context: Any) -> None:
        super().__init__(message)
        self.message = message
        self.context: dict[str, Any] = context

    @property
    def body(self) -> dict[str, Any]:
        """The error in the form of the API's error bodies."""
        return {
            "error_code": self.error_code,
            "message": self.message,
            "retryable": self.retryable,
            "context": self.context | ({"detail": self.detail} if self.detail else {}),
            "trace_id": None,
        }


class UsageProblem(CliError):
    """The command line, the configuration or an input file is wrong."""


class ServerUnreachable(CliError):
    """Nobody answers at the server's address."""

    exit_code = ExitCode.UNREACHABLE
    error_code = "UNREACHABLE"
    retryable = True


class ServerFailed(CliError):
    """The server answered what it never should, or is not ready."""

    exit_code = ExitCode.SERVER_ERROR
    error_code = "SERVER_ERROR"


class ServerAnswered(CliError):
    """The server's own error, with its status and body."""

    def __init__(self, status: int, body: Mapping[str, Any]) -> None:
        super().__init__(str(body.get("message", f"HTTP status {status}")), **dict(body.get("context") or {}))
        self.status = status
        self.error_code = str(body.get("error_code", f"HTTP_{status}"))
        self.retryable = bool(body.get("retryable", False))
        self.exit_code = of_status(status)
        self.trace_id = body.get("trace_id")

    @property
    def body(self) -> dict[str, Any]:
        """The server's body, with what the command added to the context."""
        return super().body | {"trace_id": self.trace_id}


def of_status(status: int) -> ExitCode:
    """The exit code for an HTTP status that is not a success."""
    if status in _FORBIDDEN:
        return ExitCode.PERMISSION
    if status in _TIMEOUTS:
        return ExitCode.TIMEOUT
    return ExitCode.SERVER_ERROR if status >= _FIRST_SERVER_ERROR else ExitCode.REFUSED


_OF_KIND: Final[Mapping[ErrorKind, ExitCode]] = {
    ErrorKind.UNAUTHENTICATED: ExitCode.PERMISSION,
    ErrorKind.FORBIDDEN: ExitCode.PERMISSION,
    ErrorKind.QUERY_TIMEOUT: ExitCode.TIMEOUT,
    ErrorKind.DEADLINE: ExitCode.TIMEOUT,
    ErrorKind.UNAVAILABLE: ExitCode.SERVER_ERROR,
    ErrorKind.INTERNAL: ExitCode.SERVER_ERROR,
}


def of_domain_error(error: DuckMeshError) -> ExitCode:
    """The exit code for an error raised in this process, by the commands that run the server."""
    if error.code == "CONFIGURATION_ERROR":
        return ExitCode.USAGE
    return _OF_KIND.get(error.kind, ExitCode.REFUSED)
