"""The supervisor of `duckmesh up`: the embedded PostgreSQL and the planes as processes, restarted when they die.

The listening socket belongs to the supervisor, so that connections wait while the API restarts. Children read
their orders from standard input and end when it ends: nothing is left running, however the supervisor ends.
"""

import asyncio
import contextlib
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import structlog
from attrs import define, field

from duckmesh.adapters.postgres import migrate
from duckmesh.adapters.postgres.embedded import EmbeddedPostgres, EmbeddedPostgresError
from duckmesh.app.cli.discovery import (
    ServerInfo,
    forget_server,
    read_admin_key,
    write_admin_key,
    write_dsn,
    write_server,
)
from duckmesh.app.server.process import listen
from duckmesh.app.settings import Settings
from duckmesh.app.telemetry import logs
from duckmesh.domain.access import ALL_ROLES
from duckmesh.domain.errors import ConfigurationError

log = structlog.get_logger(__name__)

DEFAULT_TENANT: Final = "default"
_FIRST_BACKOFF_S: Final = 0.1
_LONGEST_BACKOFF_S: Final = 10.0
_STEADY_S: Final = 30.0
_STOP_S: Final = 15.0
#: What PostgreSQL calls an error and is none: questions while it starts, and how a statement of ours gives up on keys
#: that it finds known.
_EXPECTED: Final = ("is starting up", 'relation "duckmesh_version" does not exist', " error:  duckmesh: ")
#: Planes by process. One process for each, so that a death costs one plane.
_CHILDREN: Final = {"api": "api", "coordinator": "coordinator,maintenance"}


@define(eq=False)
class _Child:
    """A process that is started again until it is told to stop."""

    name: str
    roles: str
    process: asyncio.subprocess.Process | None = None
    ordered: bool = field(default=False)


class Supervisor:
    """Everything on one machine, from the data directory ``data_dir``."""

    def __init__(self, settings: Settings, data_dir: Path) -> None:
        self._settings = settings
        self._data_dir = data_dir
        self._postgres = EmbeddedPostgres(data_dir, on_log=_log_postgres)
        self._children = [_Child(name, roles) for name, roles in _CHILDREN.items()]
        self._stop = asyncio.Event()

    async def run(self, stop: asyncio.Event, on_ready: Callable[[str], None]) -> None:
        """Start everything, keep it running until ``stop``, stop it. ``on_ready`` hears the URL."""
        logs.configure(self._settings)
        self._stop = stop
        _prepare_folder(self._data_dir)
        listener = listen(self._settings)
        try:
            # The children load their libraries while the database starts.
            await asyncio.gather(*(self._spawn(child, listener) for child in self._children))
            await self._start_postgres()
            await self._prepare_database()
            await self._supervise(listener, on_ready)
        finally:
            await self._stop_all()
            listener.close()

    async def _start_postgres(self) -> None:
        try:
            await self._postgres.start()
        except EmbeddedPostgresError as error:
            raise ConfigurationError(str(error)) from error

    async def _prepare_database(self) -> None:
        """Bring the schema up to date, and make the first tenant with its key."""
        from duckmesh.adapters.postgres import open_catalog  # noqa: PLC0415 - loaded while the children start
        from duckmesh.app.access.service import AccessService  # noqa: PLC0415

        dsn = self._postgres.dsn
        await migrate.upgrade_if_empty(dsn)
        await migrate.require_current(dsn)
        write_dsn(self._data_dir, dsn)
        async with open_catalog(dsn, pool_size=2) as catalog:
            access = AccessService(catalog)
            await access.ensure_tenant(DEFAULT_TENANT)
            if read_admin_key(self._data_dir) is None:
                text, _ = await access.create_key(DEFAULT_TENANT, ALL_ROLES, "admin of the embedded server")
                write_admin_key(self._data_dir, text)

    async def _supervise(self, listener: socket.socket, on_ready: Callable[[str], None]) -> None:
        async with asyncio.TaskGroup() as tasks:
            keepers = [tasks.create_task(self._keep(child, listener)) for child in self._children]
            keepers.append(tasks.create_task(self._keep_postgres()))
            url = _url(listener)
            ready = tasks.create_task(self._announce(url, on_ready))
            await self._stop.wait()
            for task in (*keepers, ready):
                task.cancel()

    async def _announce(self, url: str, on_ready: Callable[[str], None]) -> None:
        await until_ready(url)
        write_server(self._data_dir, ServerInfo(url, self._settings.server.auth))
        on_ready(url)

    # Children.

    async def _keep(self, child: _Child, listener: socket.socket) -> None:
        await self._kept(child.name, lambda: self._run_child(child, listener))

    async def _keep_postgres(self) -> None:
        async def run() -> int:
            if self._postgres.pid is None:
                await self._start_postgres()
            return await self._postgres.wait()

        await self._kept("postgres", run)

    async def _kept(self, name: str, run: Callable[[], Awaitable[int]]) -> None:
        """Run it again whenever it ends, slower when it keeps ending soon."""
        backoff = _FIRST_BACKOFF_S
        while not self._stop.is_set():
            started = time.monotonic()
            status: object
            try:
                status = await run()
            except (ConfigurationError, OSError) as error:
                status = str(error)
            if self._stop.is_set():
                return
            backoff = _FIRST_BACKOFF_S if time.monotonic() - started > _STEADY_S else backoff
            log.error("process.died", process=name, exit_status=status, restart_in_s=backoff)
            await asyncio.sleep(backoff)
            backoff = min(backoff * 2, _LONGEST_BACKOFF_S)

    async def _run_child(self, child: _Child, listener: socket.socket) -> int:
        if child.process is None or child.process.returncode is not None:
            await self._spawn(child, listener)
        if not child.ordered:
            self._order(child, listener)
        assert child.process is not None  # noqa: S101 - spawned above
        return await child.process.wait()

    async def _spawn(self, child: _Child, listener: socket.socket) -> None:
        shared = (listener.fileno(),) if child.name == "api" else ()
        child.ordered = False
        child.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "duckmesh.app.server.supervised",
            *(("--api",) if child.name == "api" else ()),
            stdin=asyncio.subprocess.PIPE,
            pass_fds=shared,
            # Ctrl-C at a terminal reaches the whole group; the supervisor decides about the order.
            start_new_session=True,
        )

    def _order(self, child: _Child, listener: socket.socket) -> None:
        assert child.process is not None  # noqa: S101 - spawned by the caller
        assert child.process.stdin is not None  # noqa: S101 - asked for
        orders = {
            "environment": {
                "DUCKMESH_ROLES": child.roles,
                "DUCKMESH_POSTGRES_DSN": self._postgres.dsn,
                "DUCKMESH_DATA_DIR": str(self._data_dir),
                "DUCKMESH_SERVICE_NAME": f"duckmesh-{child.name}",
                **_inherited(self._settings),
            },
            "listener": listener.fileno() if child.name == "api" else None,
        }
        child.process.stdin.write(json.dumps(orders).encode() + b"\n")
        child.ordered = True

    async def _stop_all(self) -> None:
        if self._postgres.pid is not None:  # else another server may own the folder
            forget_server(self._data_dir)
        # The API first, so that nothing new is accepted; the coordinator needs nothing of it.
        for child in self._children:
            await _stopped(child)
        await self._postgres.stop()


async def _stopped(child: _Child) -> None:
    process = child.process
    if process is None or process.returncode is not None:
        return
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
        if process.stdin is not None:
            process.stdin.close()
    try:
        async with asyncio.timeout(_STOP_S):
            await process.wait()
    except TimeoutError:
        log.warning("process.killed", process=child.name, after_s=_STOP_S)
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()


def _inherited(settings: Settings) -> dict[str, str]:
    """What was said on the command line and not in the environment."""
    telemetry = settings.telemetry
    return {
        "DUCKMESH_AUTH": "on" if settings.server.auth else "off",
        "DUCKMESH_HOST": settings.server.host,
        "DUCKMESH_PORT": str(settings.server.port),
        "DUCKMESH_LOG_LEVEL": telemetry.log_level,
        "DUCKMESH_LOG_FORMAT": telemetry.log_format,
    }


def _prepare_folder(data_dir: Path) -> None:
    try:
        data_dir.mkdir(parents=True, exist_ok=True)
        if not os.access(data_dir, os.W_OK):
            raise PermissionError(13, "not writable", str(data_dir))
    except OSError as error:
        raise ConfigurationError(
            f"the data directory {data_dir} cannot be used ({error.strerror}); choose another with --data-dir"
        ) from error


def _url(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    host = {"0.0.0.0": "127.0.0.1", "::": "[::1]", "::1": "[::1]"}.get(host, host)  # noqa: S104 - compared, not bound
    return f"http://{host}:{port}"


async def until_ready(url: str) -> None:
    """Return when the server says that it is ready."""
    import httpx  # noqa: PLC0415 - loaded while the children start

    async with httpx.AsyncClient(timeout=2) as client:
        while True:
            with contextlib.suppress(httpx.HTTPError):
                if (await client.get(f"{url}/v1/ready")).status_code == 200:  # noqa: PLR2004
                    return
            await asyncio.sleep(0.02)


def _log_postgres(line: str) -> None:
    logger: Any = structlog.get_logger("postgres")
    lowered = line.lower()
    expected = any(words in lowered for words in _EXPECTED)
    severe = not expected and any(word in lowered for word in (" error:", " fatal:", " panic:"))
    (logger.warning if severe else logger.debug)(line.strip())
