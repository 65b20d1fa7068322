"""Laws: the promises of a port, each a test that carries its id, its text and a link to its documentation.

A contract suite is a class of laws. It takes the adapter as an argument named as the pytest fixture that makes it::

    from duckmesh.testing.laws import LawSuite, law, missing_hook, unsupported

    class BusSuite(LawSuite):
        @pytest_asyncio.fixture
        async def bus(self) -> AsyncIterator[IngestBus]:      # a required hook
            missing_hook(self, "bus", "yield a new, empty IngestBus")
            yield                                             # keeps it a generator; never reached

        async def lose_lease(self, bus: IngestBus) -> None:   # an optional back door
            unsupported("this adapter shows no way to lose a lease")

        @law("BUS-1", "Tokens grow in commit order")
        async def test_tokens_grow_in_commit_order(self, bus: IngestBus) -> None:
            assert ...

A third party runs it by subclassing; the class's name must start with ``Test`` for pytest to collect it::

    class TestMyBus(BusSuite):
        @pytest_asyncio.fixture
        async def bus(self):
            async with open_my_bus() as bus:
                yield bus

Rules for suites: a law's id is unique among all suites; a law is not parametrised (loop inside it) and takes
nothing but fixtures of the suite, so that `duckmesh.testing.mutants.broken_laws` can call it without pytest; an
async law needs no mark, `law` brings ``pytest.mark.asyncio``. Where fixtures live longer than a test, choose the
loop with pytest-asyncio's option ``asyncio_default_test_loop_scope``.

A law that fails says so in a note under the failure::

    Law BUS-1 is broken: Tokens grow in commit order
    See docs/laws.md#bus-1

`LAWS` holds every law of the suites that have been imported, so a test can check that the documentation lists them.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, NoReturn, ParamSpec, TypeVar

import pytest
from attrs import frozen

P = ParamSpec("P")
R = TypeVar("R")

# What a failing test raises: `pytest.fail` and `pytest.raises` step around Exception.
FAILURES: tuple[type[BaseException], ...] = (Exception, pytest.fail.Exception)


@frozen
class Law:
    """A promise: its stable id, as ``OBJ-1``, and what it says in one sentence without a full stop."""

    id: str
    text: str

    @property
    def link(self) -> str:
        """Where the law is explained."""
        return f"docs/laws.md#{self.id.lower()}"


LAWS: dict[str, Law] = {}


class MissingHook(NotImplementedError):
    """A suite was subclassed without a hook that it requires."""


class LawSuite:
    """Base of the contract suites."""


def law(law_id: str, text: str) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Make a test method, async or not, the law ``law_id``."""
    declared = Law(law_id, text)
    if LAWS.setdefault(law_id, declared) != declared:
        raise ValueError(f"law {law_id} is already declared as {LAWS[law_id].text!r}")

    def declare(test: Callable[P, R]) -> Callable[P, R]:
        wrapper: Callable[P, R]
        if inspect.iscoroutinefunction(test):
            wrapper = pytest.mark.asyncio(_noting_async(declared, test))
        else:
            wrapper = _noting(declared, test)
        wrapper.__dict__["law"] = declared
        return wrapper

    return declare


def laws_of(suite: type) -> dict[str, str]:
    """The ids of a suite's laws, with the names of their methods, in the order in which they were written."""
    found: dict[str, str] = {}
    for part in reversed(suite.__mro__):
        for name in vars(part):
            declared = getattr(getattr(suite, name, None), "law", None)
            if isinstance(declared, Law):
                found[declared.id] = name
    return found


def missing_hook(suite: object, hook: str, purpose: str) -> NoReturn:
    """Fail because a subclass of the suite does not define a required hook."""
    name = type(suite).__name__
    raise MissingHook(f"{name} must define the fixture `{hook}`: {purpose}")


def unsupported(reason: str) -> NoReturn:
    """Skip the law: the adapter cannot be put in the situation that it speaks of, for the reason given."""
    pytest.skip(reason)


def _noting(declared: Law, test: Callable[P, R]) -> Callable[P, R]:
    @functools.wraps(test)
    def checked(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            return test(*args, **kwargs)
        except FAILURES as failure:
            _note(declared, failure)
            raise

    return checked


def _noting_async(declared: Law, test: Callable[P, Any]) -> Callable[P, Any]:
    @functools.wraps(test)
    async def checked(*args: P.args, **kwargs: P.kwargs) -> Any:
        try:
            return await test(*args, **kwargs)
        except FAILURES as failure:
            _note(declared, failure)
            raise

    return checked


def _note(declared: Law, failure: BaseException) -> None:
    failure.add_note(f"\nLaw {declared.id} is broken: {declared.text}\nSee {declared.link}")
