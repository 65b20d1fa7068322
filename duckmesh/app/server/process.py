"""What any process of the server needs before it loads the rest: its loop, its signals, its socket."""

import asyncio
import signal
import socket
from typing import Any, Final

from duckmesh.app.settings import Settings
from duckmesh.domain.errors import ConfigurationError

_BACKLOG: Final = 2048


def listen(settings: Settings) -> socket.socket:
    """A listening socket for the API; raises `ConfigurationError` when the address is taken or not ours."""
    host, port = settings.server.host, settings.server.port
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(_BACKLOG)
    except OSError as error:
        listener.close()
        raise ConfigurationError(
            f"cannot listen on {host}:{port} ({error.strerror}); choose another with --host and --port"
        ) from error
    return listener


def stop_on_signals(loop: asyncio.AbstractEventLoop) -> asyncio.Event:
    """An event that SIGINT and SIGTERM set."""
    stop = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return stop


def run(main: Any) -> Any:
    """Run a coroutine on uvloop where that is installed."""
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return asyncio.run(main)
    return uvloop.run(main)
