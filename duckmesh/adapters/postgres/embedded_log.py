"""Forward the log of a child process line by line without ever making the child wait."""

import os
import queue
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress

_LINE_BYTES = 8192
"""Longer lines arrive in pieces, so that memory stays bounded."""

_WAITING_LINES = 2000
"""Lines kept for a slow reader; what comes beyond is counted and dropped."""

_TAIL_LINES = 40
"""Lines kept to explain why a server ended."""


class LogForwarder:
    """Reads one pipe in a thread, and hands the lines to ``on_log`` in another.

    Two threads, because a server whose stderr pipe is full stops at its next log line: the reading thread never
    waits for ``on_log``. ``on_log`` is therefore called outside of the event loop. Both threads end when the last
    process that holds the pipe has ended.
    """

    def __init__(self, on_log: Callable[[str], None] | None) -> None:
        self._on_log = on_log
        self._tail: deque[str] = deque(maxlen=_TAIL_LINES)
        self._waiting: queue.Queue[str | None] = queue.Queue(_WAITING_LINES)
        self._dropped = 0
        self._threads: list[threading.Thread] = []

    def open(self) -> int:
        """Start the threads; returns the descriptor to write to, which the caller must close after the spawn."""
        reading, writing = os.pipe()
        for target, arguments in ((self._read, (reading,)), (self._forward, ())):
            thread = threading.Thread(target=target, args=arguments, name="postgres-log", daemon=True)
            thread.start()
            self._threads.append(thread)
        return writing

    def finish(self, seconds: float) -> None:
        """Wait for the last lines, at most ``seconds`` for each of the two threads."""
        for thread in self._threads:
            thread.join(seconds)

    @property
    def tail(self) -> str:
        """The last lines, joined."""
        return "\n".join(self._tail.copy())

    def _read(self, descriptor: int) -> None:
        with os.fdopen(descriptor, "rb") as pipe:
            while raw := pipe.readline(_LINE_BYTES):
                line = raw.decode("utf-8", "replace").rstrip("\n")
                self._tail.append(line)
                self._keep(line)
        self._waiting.put(None)

    def _keep(self, line: str) -> None:
        try:
            self._waiting.put_nowait(line)
        except queue.Full:
            self._dropped += 1

    def _forward(self) -> None:
        told = 0
        while (line := self._waiting.get()) is not None:
            dropped = self._dropped
            if dropped > told:
                self._tell(f"{dropped - told} lines of the PostgreSQL log were dropped: they came too fast")
                told = dropped
            self._tell(line)

    def _tell(self, line: str) -> None:
        if self._on_log is None:
            return
        # A failing log sink must stop neither the server nor the forwarding of later lines.
        with suppress(Exception):
            self._on_log(line)
