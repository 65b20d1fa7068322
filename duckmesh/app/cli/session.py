"""What every command that talks to a server has in common: its options, its client, its errors.

Nothing heavy is imported before a command runs, so that ``--help`` is quick.
"""

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Concatenate, ParamSpec

import typer
from attrs import frozen

from duckmesh.app.cli.discovery import (
    DATA_DIR_VARIABLE,
    KEY_VARIABLE,
    TENANT_VARIABLE,
    URL_VARIABLE,
    find_target,
)

if TYPE_CHECKING:
    from duckmesh.app.cli.client import ApiClient

P = ParamSpec("P")
_PANEL = "Which server"

# No `envvar=` for URL and key: `find_target` reads the environment itself, since a data directory that is named on
# the command line comes before it.
UrlOption = Annotated[
    str | None,
    typer.Option("--url", help=f"The server, such as http://127.0.0.1:8080. [env var: {URL_VARIABLE}]",
                 rich_help_panel=_PANEL, show_default="from the data directory"),
]  # fmt: skip
ApiKeyOption = Annotated[
    str | None,
    typer.Option("--api-key", help=f"The API key; better in the environment. [env var: {KEY_VARIABLE}]",
                 rich_help_panel=_PANEL, show_default="from the data directory"),
]  # fmt: skip
DataDirOption = Annotated[
    Path | None,
    typer.Option("--data-dir", help=f"The folder of a server on this machine. [env var: {DATA_DIR_VARIABLE}]",
                 rich_help_panel=_PANEL, show_default="/var/lib/duckmesh or ~/.local/share/duckmesh"),
]  # fmt: skip
TenantOption = Annotated[
    str | None,
    typer.Option("--tenant", envvar=TENANT_VARIABLE, rich_help_panel=_PANEL, show_default="the key's",
                 help="The tenant that is meant; refused when the key is of another."),
]  # fmt: skip
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, errors too (on stderr).")]


@frozen
class Session:
    """Where one command works, and in which form it answers."""

    url: str | None
    api_key: str | None
    data_dir: Path | None
    tenant: str | None
    json: bool

    def client(self, **settings: Any) -> "ApiClient":
        """A client of the server; to be closed."""
        from duckmesh.app.cli.client import ApiClient  # noqa: PLC0415 - httpx would slow down --help

        return ApiClient(find_target(self.url, self.api_key, self.data_dir), self.tenant, **settings)


def connected(command: Callable[Concatenate[Session, P], None]) -> Callable[..., None]:
    """Give a command the options of `Session`, and the session that they make as its first argument."""

    @functools.wraps(command, assigned=("__module__", "__name__", "__qualname__", "__doc__"))
    def run(
        *args: Any,
        url: UrlOption = None,
        api_key: ApiKeyOption = None,
        data_dir: DataDirOption = None,
        tenant: TenantOption = None,
        json: JsonOption = False,
        **kwargs: Any,
    ) -> None:
        command(Session(url, api_key, data_dir, tenant, json), *args, **kwargs)

    own = list(inspect.signature(command).parameters.values())[1:]
    common = [p for p in inspect.signature(run, follow_wrapped=False).parameters.values() if p.kind is p.KEYWORD_ONLY]
    ordered = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own] + common
    run.__signature__ = inspect.Signature(ordered)  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in ordered}
    del run.__wrapped__  # the signature is this one, not the command's
    return run
