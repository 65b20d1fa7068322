"""Laws that an adapter need not keep, when it says so in its capabilities."""

import functools
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from duckmesh.testing.laws import FAILURES

AsyncLaw = Callable[..., Awaitable[None]]


def needs(capability: str, reason: str) -> Callable[[AsyncLaw], AsyncLaw]:
    """Ask the law only of buses with the capability; written under ``@law``.

    A bus without it runs the law all the same and is skipped, with ``reason``, when it breaks it. One that keeps
    it has a stale exemption, and that is a failure: a capability that nobody declares is one that nobody uses.
    """

    def declare(test: AsyncLaw) -> AsyncLaw:
        @functools.wraps(test)
        async def checked(self: Any, bus: Any) -> None:
            if getattr(bus.capabilities, capability):
                await test(self, bus)
                return
            try:
                await test(self, bus)
            except FAILURES:
                pytest.skip(f"not promised ({capability}): {reason}")
            pytest.fail(f"stale exemption: the bus keeps this law but does not declare {capability}")

        return checked

    return declare
