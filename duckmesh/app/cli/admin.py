"""Commands of the operator: tenants and API keys, straight in the catalog."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from duckmesh.app.cli.exit_codes import UsageProblem
from duckmesh.app.cli.operator import operator_dsn
from duckmesh.app.cli.server import ConfigOption, DataDirOption

if TYPE_CHECKING:
    from duckmesh.app.access.service import AccessService

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
TenantOption = Annotated[str, typer.Option("--tenant", help="The tenant that the key belongs to.")]

tenants = typer.Typer(help="Tenants of the deployment.", no_args_is_help=True)
keys = typer.Typer(help="API keys of a tenant.", no_args_is_help=True)


@tenants.command("create")
def create_tenant(
    name: Annotated[str, typer.Argument(help="Letters a-z, digits, '_' and '-'.")],
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Make a tenant."""
    _run(data_dir, config, lambda access: access.create_tenant(name))
    typer.echo(json.dumps({"tenant": name}) if as_json else f"tenant {name} is there")


@tenants.command("list")
def list_tenants(as_json: JsonOption = False, data_dir: DataDirOption = None, config: ConfigOption = None) -> None:
    """List all tenants."""
    names = list(_run(data_dir, config, lambda access: access.tenants()))
    typer.echo(json.dumps({"tenants": names}) if as_json else "\n".join(names))


@keys.command("create")
def create_key(
    tenant: TenantOption = "default",
    role: Annotated[
        list[str] | None,
        typer.Option("--role", help="ingest_writer, query_reader, table_admin, ops_admin; may be given again."),
    ] = None,
    name: Annotated[str, typer.Option("--name", help="What the key is for.")] = "",
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Make an API key. It is shown this once and stored as a hash."""
    from duckmesh.domain.access import parse_roles  # noqa: PLC0415 - keeps --help quick

    try:
        roles = parse_roles([part for given in role or () for part in given.split(",")])
    except ValueError as error:
        raise UsageProblem(str(error)) from error
    if not roles:
        raise UsageProblem("name at least one --role: ingest_writer, query_reader, table_admin or ops_admin")
    text, key = _run(data_dir, config, lambda access: access.create_key(tenant, roles, name))
    if as_json:
        shown = {"key": text, "key_id": key.key_id, "tenant": tenant, "roles": sorted(r.value for r in roles)}
        typer.echo(json.dumps(shown))
    else:
        typer.echo(text)


@keys.command("list")
def list_keys(
    tenant: TenantOption = "default",
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """List the keys of a tenant, without their secrets."""
    found = _run(data_dir, config, lambda access: access.keys(tenant))
    rows = [
        {
            "key_id": key.key_id,
            "roles": sorted(role.value for role in key.roles),
            "name": key.name,
            "created_at": key.created_at.isoformat(),
            "revoked_at": key.revoked_at.isoformat() if key.revoked_at else None,
        }
        for key in found
    ]
    if as_json:
        typer.echo(json.dumps({"keys": rows}))
        return
    for row in rows:
        state = "revoked" if row["revoked_at"] else "active"
        typer.echo(f"{row['key_id']}  {state:8}  {','.join(row['roles'])}  {row['name']}")


@keys.command("revoke")
def revoke_key(
    key_id: Annotated[str, typer.Argument(help="The id, as `keys list` shows it.")],
    tenant: TenantOption = "default",
    as_json: JsonOption = False,
    data_dir: DataDirOption = None,
    config: ConfigOption = None,
) -> None:
    """Revoke a key; it stops working within seconds."""
    _run(data_dir, config, lambda access: access.revoke(tenant, key_id))
    typer.echo(json.dumps({"revoked": key_id}) if as_json else f"key {key_id} is revoked")


def postgres_dsn(data_dir: DataDirOption = None, config: ConfigOption = None) -> None:
    """Print the address of the embedded database, with its password, for psql and pg_dump."""

    async def show() -> None:
        async with operator_dsn(data_dir, config) as dsn:
            typer.echo(dsn)

    asyncio.run(show())


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(tenants, name="tenants")
    app.add_typer(keys, name="keys")
    app.command("postgres-dsn")(postgres_dsn)


def _run(data_dir: Path | None, config: Path | None, act: Callable[["AccessService"], Awaitable[Any]]) -> Any:
    async def go() -> Any:
        from duckmesh.adapters.postgres import migrate, open_catalog  # noqa: PLC0415 - slow to import
        from duckmesh.app.access.service import AccessService  # noqa: PLC0415

        async with operator_dsn(data_dir, config) as dsn:
            await migrate.require_current(dsn)
            async with open_catalog(dsn, pool_size=2) as catalog:
                return await act(AccessService(catalog))

    return asyncio.run(go())
