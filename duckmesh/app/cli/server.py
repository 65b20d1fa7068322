"""Commands that run servers: `up`, `serve`, `migrate`."""

import asyncio
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from duckmesh.app.cli.discovery import resolve_data_dir
from duckmesh.app.cli.operator import load_operator_settings, operator_dsn

DataDirOption = Annotated[
    Path | None,
    typer.Option("--data-dir", help="Where everything is kept. [env var: DUCKMESH_DATA_DIR]", show_default=False),
]
ConfigOption = Annotated[
    Path | None, typer.Option("--config", help="A TOML file of settings. [env var: DUCKMESH_CONFIG]", exists=False)
]
AuthOption = Annotated[
    str | None, typer.Option("--auth", help="'on' asks for API keys; 'off' is for this machine only.")
]
HostOption = Annotated[str | None, typer.Option("--host", help="The address to listen on.")]
PortOption = Annotated[int | None, typer.Option("--port", help="The port to listen on; 0 takes a free one.")]


def up(
    data_dir: DataDirOption = None,
    host: HostOption = None,
    port: PortOption = None,
    auth: AuthOption = None,
    config: ConfigOption = None,
) -> None:
    """Run the whole system on this machine: PostgreSQL, object store, API and coordinator.

    On first start it makes the tenant 'default' and an admin key, which the other commands find by themselves in the
    data directory. Parts that die are started again; Ctrl-C stops everything.
    """
    from duckmesh.app.server.process import run, stop_on_signals  # noqa: PLC0415 - slow to import
    from duckmesh.app.server.supervisor import Supervisor  # noqa: PLC0415

    folder = resolve_data_dir(data_dir).expanduser().absolute()
    settings = load_operator_settings(config, data_dir=folder, **_given(host=host, port=port, auth=auth))

    async def main() -> None:
        stop = stop_on_signals(asyncio.get_running_loop())
        await Supervisor(settings, folder).run(stop, lambda url: _announce(url, folder, auth=settings.server.auth))

    run(main())


def serve(
    role: Annotated[
        str | None, typer.Option("--role", help="Planes, with commas between: api, coordinator, maintenance.")
    ] = None,
    host: HostOption = None,
    port: PortOption = None,
    auth: AuthOption = None,
    config: ConfigOption = None,
) -> None:
    """Run some planes against the Postgres and the object store of the settings."""
    from duckmesh.app.server.process import run, stop_on_signals  # noqa: PLC0415 - slow to import
    from duckmesh.app.server.serve import serve as serve_planes  # noqa: PLC0415

    settings = load_operator_settings(config, **_given(host=host, port=port, auth=auth, roles=role))

    async def main() -> None:
        await serve_planes(settings, stop=stop_on_signals(asyncio.get_running_loop()))

    run(main())


migrate = typer.Typer(help="Bring the database's schema to this version, or back.", no_args_is_help=True)


@migrate.command("up")
def migrate_up(data_dir: DataDirOption = None, config: ConfigOption = None) -> None:
    """Bring the schema up to this version; safe to run twice."""
    _migrate("upgrade", data_dir, config)


@migrate.command("down")
def migrate_down(
    revision: Annotated[str, typer.Argument(help="A revision, or -1 for one step back.")] = "-1",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask: tables that the step made are dropped.")] = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Take the schema back; what the undone step stored is lost."""
    if not yes:
        typer.confirm("This drops what the newer schema stored. Go on?", abort=True)
    _migrate("downgrade", data_dir, config, revision)


@migrate.command("status")
def migrate_status(data_dir: DataDirOption = None, config: ConfigOption = None) -> None:
    """Show which revision the database has and which this version needs; exit status 1 when they differ."""
    from duckmesh.adapters.postgres import migrate as migrations  # noqa: PLC0415 - slow to import

    async def show() -> bool:
        async with operator_dsn(data_dir, config) as dsn:
            state = await migrations.status(dsn)
        typer.echo(f"database: {state.found or 'empty'}; this version: {state.needed}")
        return state.current

    if not asyncio.run(show()):
        raise typer.Exit(1)


def _migrate(direction: str, data_dir: Path | None, config: Path | None, *arguments: str) -> None:
    from duckmesh.adapters.postgres import migrate as migrations  # noqa: PLC0415 - slow to import

    async def go() -> None:
        async with operator_dsn(data_dir, config) as dsn:
            state = await getattr(migrations, direction)(dsn, *arguments)
        typer.echo(f"database: {state.found or 'empty'}; this version: {state.needed}")

    asyncio.run(go())


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command("up")(up)
    app.command("serve")(serve)
    app.add_typer(migrate, name="migrate")


def _given(**options: Any) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


def _announce(url: str, folder: Path, *, auth: bool) -> None:
    lines = [f"DuckMesh is ready at {url}", f"  data      {folder}", f"  API docs  {url}/v1/docs"]
    lines.append(f"  key       {folder / 'admin.key'}" if auth else "  no authentication: this machine only")
    lines.append("  try       duckmesh query 'SELECT 42'")
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
