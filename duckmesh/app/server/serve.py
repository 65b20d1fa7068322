"""One process that serves the planes it is told to: the API, the coordinator, maintenance."""

import asyncio
import contextlib
import gc
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, Final

import structlog
import uvicorn
from prometheus_client import start_http_server

from duckmesh.app.container import Adapters, Container, compose, open_adapters
from duckmesh.app.server.process import listen
from duckmesh.app.settings import Settings
from duckmesh.app.telemetry import logs, tracing
from duckmesh.domain.errors import ConfigurationError, DuckMeshError
from duckmesh.ports.bus import IngestBus

if TYPE_CHECKING:
    from duckmesh.app.rest.app import RestServices

log = structlog.get_logger(__name__)

_REQUEUE_S: Final = 5.0
_DRAIN_S: Final = 10
_KEEP_ALIVE_S: Final = 75
_COLLECT_AFTER: Final = 50_000


class _Server(uvicorn.Server):
    """uvicorn without its signal handlers: the process has other planes to stop as well."""

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


async def serve(settings: Settings, *, listener: socket.socket | None = None, stop: asyncio.Event) -> None:
    """Serve the planes in ``settings.roles`` until ``stop`` is set; raises `ConfigurationError` before serving.

    ``listener`` is a socket that already listens, so that connections wait while a new process starts.
    """
    logs.configure(settings)
    tracing.configure(settings.telemetry)
    try:
        async with open_adapters(settings) as adapters:
            container = compose(settings, adapters)
            await _run_planes(settings, container, adapters, listener, stop)
    finally:
        tracing.shutdown()


async def _run_planes(
    settings: Settings,
    container: Container,
    adapters: Adapters,
    listener: socket.socket | None,
    stop: asyncio.Event,
) -> None:
    async with AsyncExitStack() as stack:
        planes: list[asyncio.Task[None]] = []
        if "coordinator" in settings.roles:
            planes.append(asyncio.create_task(container.coordinator().run(), name="coordinator"))
        if "maintenance" in settings.roles:
            planes.append(asyncio.create_task(_maintain(adapters.bus), name="maintenance"))
        for plane in planes:
            stack.push_async_callback(_cancelled, plane)
        if "api" not in settings.roles and settings.telemetry.metrics_port:
            stack.push_async_callback(_closed, *_show_metrics(settings, container))
        if "api" in settings.roles:
            await stack.enter_async_context(container.barrier().open())
            server = await stack.enter_async_context(_api(settings, container, adapters, listener))
            planes.append(server)
        _calm_collector()
        log.info("server.ready", roles=list(settings.roles))
        await _until_stopped(planes, stop)


def _calm_collector() -> None:
    """Let the garbage collector pass over what lives for ever, and run when a lot has gathered.

    A request allocates hundreds of small values that die by their reference count; with the default threshold the
    collector walked the whole heap for every few requests.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 20, 50)


async def _until_stopped(planes: list[asyncio.Task[None]], stop: asyncio.Event) -> None:
    """Return when told to stop; a plane that ended by itself takes the process with it, to be started anew."""
    stopping = asyncio.create_task(stop.wait())
    done, _ = await asyncio.wait([stopping, *planes], return_when=asyncio.FIRST_COMPLETED)
    stopping.cancel()
    for task in done - {stopping}:
        task.result()
        if not stop.is_set():
            raise RuntimeError(f"{task.get_name()} ended by itself")


def _show_metrics(settings: Settings, container: Container) -> tuple[Any, Any]:
    """Serve the metrics of a process without the API from a thread of their own."""
    port, host = settings.telemetry.metrics_port, settings.server.host
    try:
        return start_http_server(port, host, container.metrics().registry)
    except OSError as error:
        raise ConfigurationError(f"DUCKMESH_METRICS_PORT: cannot listen on {host}:{port} ({error.strerror})") from error


async def _closed(server: Any, thread: Any) -> None:
    server.shutdown()
    server.server_close()
    thread.join()


async def _cancelled(task: "asyncio.Task[None]") -> None:
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError, Exception):
        await task


@asynccontextmanager
async def _api(
    settings: Settings, container: Container, adapters: Adapters, listener: socket.socket | None
) -> AsyncIterator["asyncio.Task[None]"]:
    """The HTTP server, drained when the context ends."""
    server = _Server(_uvicorn_config(settings, rest_services(container, adapters)))
    sockets = [listener or listen(settings)]
    task = asyncio.create_task(server.serve(sockets=sockets), name="api")
    try:
        yield task
    finally:
        server.should_exit = True
        with contextlib.suppress(Exception):
            await task


def _uvicorn_config(settings: Settings, services: "RestServices") -> uvicorn.Config:
    from duckmesh.app.rest.app import RestOptions, create_app  # noqa: PLC0415 - for the API only

    server = settings.server
    options = RestOptions(server.auth, server.host_names, server.max_body_bytes)
    return uvicorn.Config(
        create_app(services, options),
        loop="none",
        http="httptools",
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,  # nothing here goes by a forwarded address
        timeout_keep_alive=_KEEP_ALIVE_S,
        timeout_graceful_shutdown=_DRAIN_S,
    )


def rest_services(container: Container, adapters: Adapters) -> "RestServices":
    """What the API is made of."""
    from duckmesh.app.rest.app import RestServices  # noqa: PLC0415 - for the API only

    async def log_answers() -> object:
        return await adapters.bus.head("default")

    async def catalog_answers() -> object:
        return await adapters.catalog.tenants()

    async def objects_answer() -> object:
        return await adapters.store.stat("duckmesh/ready")

    return RestServices(
        bus=adapters.bus,
        catalog=adapters.catalog,
        access=container.access(),
        ingest=container.ingest(),
        queries=container.queries(),
        tables=container.tables(),
        metrics=container.metrics(),
        checks={"log": log_answers, "catalog": catalog_answers, "object_store": objects_answer},
    )


async def _maintain(bus: IngestBus) -> None:
    """Give back what silent coordinators hold."""
    while True:
        await asyncio.sleep(_REQUEUE_S)
        try:
            given_back = await bus.requeue_expired()
        except DuckMeshError as error:
            log.warning("maintenance.failed", error_code=error.code, reason=error.message)
        else:
            if given_back:
                log.info("lease.expired", tenants=given_back)
