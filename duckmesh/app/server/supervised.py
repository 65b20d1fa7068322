"""A process of the supervisor: reads its orders from standard input, and ends when that ends.

Started as ``python -m duckmesh.app.server.supervised [--api]``. The first line of standard input is a JSON object
with the environment to add and the number of the listening socket. Reading it after the imports lets a process load
while the database starts, keeps secrets out of argument lists, and the end of the input tells that the supervisor died.
"""

import asyncio
import json
import os
import socket
import sys
from typing import Any, Final

from duckmesh.app.server.process import run, stop_on_signals
from duckmesh.app.server.serve import serve
from duckmesh.app.settings import load_settings
from duckmesh.domain.errors import ConfigurationError, DuckMeshError

EXIT_UNAVAILABLE = 1
EXIT_CONFIGURATION = 2
EXIT_UNSTOPPABLE = 70
_LONGEST_STOP_S: Final = 20.0


async def _main(orders: dict[str, Any]) -> None:
    loop = asyncio.get_running_loop()
    stop = stop_on_signals(loop)
    settings = load_settings(env={**os.environ, **orders["environment"]})
    listener = socket.socket(fileno=orders["listener"]) if orders.get("listener") is not None else None
    loop.add_reader(sys.stdin.fileno(), _until_end_of_input, loop, stop)
    await serve(settings, listener=listener, stop=stop)


def _until_end_of_input(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    if not os.read(sys.stdin.fileno(), 4096):
        loop.remove_reader(sys.stdin.fileno())
        stop.set()
        # The supervisor is gone, so nobody else would end a process that hangs while it stops.
        loop.call_later(_LONGEST_STOP_S, os._exit, EXIT_UNSTOPPABLE)


def _first_line() -> str:
    """The orders, byte by byte: nothing behind them may be swallowed by a buffer."""
    line = bytearray()
    while (byte := os.read(sys.stdin.fileno(), 1)) not in {b"", b"\n"}:
        line += byte
    return line.decode()


def main() -> int:
    """Serve as ordered; the exit status."""
    if "--api" in sys.argv:
        import duckmesh.app.rest.app  # noqa: F401, PLC0415 - loaded before the orders come
    line = _first_line()
    if not line:
        return 0  # the supervisor ended before it had anything to order
    try:
        run(_main(json.loads(line)))
    except DuckMeshError as error:  # the supervisor starts it again; a database that is away is no bug to trace
        sys.stderr.write(f"error: {error.message}\n")
        return EXIT_CONFIGURATION if isinstance(error, ConfigurationError) else EXIT_UNAVAILABLE
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
