"""Waiting for work without a timer."""

import asyncio
from collections.abc import Callable


class Wakeup:
    """Wakes those that wait for work."""

    def __init__(self) -> None:
        self._waiting: set[asyncio.Event] = set()

    def wake(self) -> None:
        """Let everybody look again."""
        for event in self._waiting:
            event.set()

    async def wait(self, ready: Callable[[], bool], timeout_s: float) -> None:
        """Return when ``ready``, or after ``timeout_s`` seconds."""
        event = asyncio.Event()
        self._waiting.add(event)
        try:
            async with asyncio.timeout(timeout_s):
                while not ready():
                    await event.wait()
                    event.clear()
        except TimeoutError:
            return
        finally:
            self._waiting.discard(event)
