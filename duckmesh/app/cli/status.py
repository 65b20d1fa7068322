"""``duckmesh lag`` and ``duckmesh health``: is it up, and does it keep up."""

from typing import Any

import typer

from duckmesh.app.cli.exit_codes import ServerFailed
from duckmesh.app.cli.output import console, print_json, print_pairs
from duckmesh.app.cli.session import Session, connected

_OK = 200


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.command()(lag)
    app.command()(health)


@connected
def lag(session: Session) -> None:
    """Show how far the visible data is behind what was accepted."""
    with session.client() as client:
        answer = client.get("/v1/lag")
    if session.json:
        print_json(answer)
    else:
        print_pairs({name.replace("_", " "): value for name, value in answer.items()})


@connected
def health(session: Session) -> None:
    """Check that the server lives and is ready; the exit status says so too (0 ready, 6 not, 3 no answer)."""
    with session.client() as client:
        url = client.target.url
        live_status, live = client.probe("/v1/health")
        ready_status, ready = client.probe("/v1/ready")
    report: dict[str, Any] = {"url": url, "health": live, "ready": ready}
    ok = live_status == _OK and ready_status == _OK
    if not ok:
        raise ServerFailed(f"{url} is not ready", **report)
    if session.json:
        print_json(report)
        return
    print_pairs({"url": url, "health": live.get("status"), "ready": ready.get("status")})
    for name, check in ready.get("checks", {}).items():
        console().print(f"  {name}: {check}", markup=False)
