"""Where the server is: what ``duckmesh up`` leaves in its data directory, and how other commands find it.

``<data_dir>/server.json`` holds the address, ``<data_dir>/admin.key`` the key of the first tenant (readable by
its owner only).
"""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from duckmesh.app.cli.exit_codes import UsageProblem

SERVER_FILE: Final = "server.json"
KEY_FILE: Final = "admin.key"
DSN_FILE: Final = "postgres.dsn"
#: Where a server listens when nothing else is said.
DEFAULT_URL: Final = "http://127.0.0.1:8080"
URL_VARIABLE: Final = "DUCKMESH_URL"
KEY_VARIABLE: Final = "DUCKMESH_API_KEY"
DATA_DIR_VARIABLE: Final = "DUCKMESH_DATA_DIR"
TENANT_VARIABLE: Final = "DUCKMESH_TENANT"

_SYSTEM_DATA_DIR: Final = Path("/var/lib/duckmesh")


@frozen
class ServerInfo:
    """What a running server says about itself."""

    url: str
    auth: bool = True


@frozen
class Target:
    """The server to talk to, and the credential for it."""

    url: str
    api_key: str | None = None


def default_data_dir(environ: Mapping[str, str] = os.environ) -> Path:
    """``/var/lib/duckmesh`` for root, else ``duckmesh`` in the user's data directory (XDG_DATA_HOME)."""
    if hasattr(os, "geteuid") and os.geteuid() == 0:
        return _SYSTEM_DATA_DIR
    base = environ.get("XDG_DATA_HOME", "")
    # The XDG specification says that a relative path is invalid and must be ignored.
    root = Path(base) if Path(base).is_absolute() else Path.home() / ".local" / "share"
    return root / "duckmesh"


def resolve_data_dir(given: Path | None, environ: Mapping[str, str] = os.environ) -> Path:
    """The data directory: the one given, else DUCKMESH_DATA_DIR, else the default."""
    named = environ.get(DATA_DIR_VARIABLE)
    return given or (Path(named) if named else default_data_dir(environ))


def write_server(data_dir: Path, info: ServerInfo) -> None:
    """Leave the server's address for other commands; replaces the file as a whole."""
    text = json.dumps({"url": info.url, "auth": "on" if info.auth else "off"}) + "\n"
    _replace(data_dir / SERVER_FILE, text, mode=0o644)


def write_admin_key(data_dir: Path, key: str) -> None:
    """Leave the key for the owner's other commands; nobody else can read it."""
    _replace(data_dir / KEY_FILE, key + "\n", mode=0o600)


def write_dsn(data_dir: Path, dsn: str) -> None:
    """Leave the address of the embedded database, with its password, for the owner's administrative commands."""
    _replace(data_dir / DSN_FILE, dsn + "\n", mode=0o600)


def read_dsn(data_dir: Path) -> str | None:
    """The address that the server left, or None when none runs there."""
    text = _read(data_dir / DSN_FILE)
    return text.strip() if text is not None else None


def forget_server(data_dir: Path) -> None:
    """Take the addresses back, when the server stops."""
    (data_dir / SERVER_FILE).unlink(missing_ok=True)
    (data_dir / DSN_FILE).unlink(missing_ok=True)


def read_server(data_dir: Path) -> ServerInfo | None:
    """The address that the server left, or None when there is none; raises `UsageProblem` for nonsense."""
    path = data_dir / SERVER_FILE
    text = _read(path)
    if text is None:
        return None
    try:
        document: Any = json.loads(text)
        return ServerInfo(str(document["url"]), document.get("auth", "on") != "off")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageProblem(f'{path} is not {{"url": …}}; start the server again, or give --url') from error


def read_admin_key(data_dir: Path) -> str | None:
    """The key that the server left, or None when there is none."""
    text = _read(data_dir / KEY_FILE)
    return (text or "").strip() or None


def find_target(
    url: str | None, api_key: str | None, data_dir: Path | None, environ: Mapping[str, str] = os.environ
) -> Target:
    """The server and the credential, from options, environment and data directory, in this order.

    The key of the data directory is sent to the server of that directory only, never to another address.
    """
    directory = resolve_data_dir(data_dir, environ)
    # A data directory named on the command line is nearer than the environment.
    wanted = (url or (environ.get(URL_VARIABLE) if data_dir is None else None) or "").rstrip("/")
    key = api_key or environ.get(KEY_VARIABLE)
    if wanted:
        _check_url(wanted)
        return Target(wanted, key or _key_for(wanted, directory))
    local = read_server(directory)
    if local is None:
        raise UsageProblem(
            f"no server found: {directory / SERVER_FILE} does not exist; start one with 'duckmesh up', "
            f"or give --url or {URL_VARIABLE}",
            data_dir=str(directory),
        )
    _check_url(local.url)
    return Target(local.url.rstrip("/"), key or (read_admin_key(directory) if local.auth else None))


def _key_for(url: str, directory: Path) -> str | None:
    """The key of the directory, if it is that server's; a directory that cannot be read has none."""
    with contextlib.suppress(UsageProblem):
        local = read_server(directory)
        if local is not None and local.auth and local.url.rstrip("/") == url:
            return read_admin_key(directory)
    return None


def _check_url(url: str) -> None:
    if not url.startswith(("http://", "https://")):
        raise UsageProblem(f"the server's URL must start with http:// or https://, not {url!r}", url=url)


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise UsageProblem(f"cannot read {path}: {error}; give --url and {KEY_VARIABLE} instead") from error


def _replace(path: Path, text: str, mode: int) -> None:
    """Write a file that is never seen half written, nor with wider rights than ``mode``."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        os.fchmod(file.fileno(), mode)  # an umask, or a file left by a crash, must not decide
        file.write(text)
    beside.replace(path)
