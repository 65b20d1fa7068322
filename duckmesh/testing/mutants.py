"""Mutants: adapters that are broken on purpose, to prove that a suite notices.

`broken_laws` runs every law of a suite without pytest and returns the ids of those that failed. Each law gets new
fixtures, made by the callables that are passed under the fixtures' names::

    from duckmesh.testing.mutants import broken_laws

    class TestMyBus(BusSuite): ...                  # the back doors of the suite are taken from this class

    async def test_a_bus_that_reuses_tokens_breaks_its_law() -> None:
        assert await broken_laws(TestMyBus, bus=lambda: ReusesTokens()) == {"BUS-1"}

A callable may return the object itself, an awaitable of it, or an async context manager that yields it (a class
whose ``__aenter__`` returns itself counts). A law that skips counts as kept; one that takes longer than
``timeout_s`` counts as broken. An error in making a fixture is not a broken law: it is raised.
"""

import asyncio
import inspect
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from typing import Any

import pytest

from duckmesh.testing.laws import FAILURES, LawSuite, laws_of

Factory = Callable[[], Any]


async def broken_laws(suite: type[LawSuite], timeout_s: float = 30.0, **fixtures: Factory) -> set[str]:
    """The ids of the laws that the adapter breaks."""
    laws = laws_of(suite)
    if not laws:
        raise ValueError(f"{suite.__name__} has no laws")
    return {
        law_id for law_id, method in laws.items() if await _is_broken(getattr(suite(), method), timeout_s, fixtures)
    }


async def _is_broken(law: Callable[..., Any], timeout_s: float, fixtures: dict[str, Factory]) -> bool:
    async with AsyncExitStack() as stack:
        arguments = {name: await _made(_factory(name, fixtures), stack) for name in inspect.signature(law).parameters}
        try:
            async with asyncio.timeout(timeout_s):
                outcome = law(**arguments)
                if inspect.isawaitable(outcome):
                    await outcome
        except pytest.skip.Exception:
            return False
        except FAILURES:
            return True
        return False


def _factory(name: str, fixtures: dict[str, Factory]) -> Factory:
    if name not in fixtures:
        raise TypeError(f"a law takes the fixture {name!r}; pass {name}=<a callable that makes it>")
    return fixtures[name]


async def _made(factory: Factory, stack: AsyncExitStack) -> Any:
    made = factory()
    if inspect.isawaitable(made):
        made = await made
    if isinstance(made, AbstractAsyncContextManager):
        return await stack.enter_async_context(made)
    return made
