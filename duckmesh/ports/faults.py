"""Named places where a process can be made to die, so that recovery is tested against real deaths.

``DUCKMESH_CRASH_AT=name`` kills the process with SIGKILL when it first passes that place, ``name:N`` when it
passes it for the N-th time. Without the variable a crash point costs one comparison. This lives with the ports
because adapters and use cases both have such places, and adapters know nothing of the application above them.
"""

import os
import re
import signal
from typing import Final, Literal, get_args

from attrs import define

from duckmesh.domain.errors import ConfigurationError

VARIABLE: Final = "DUCKMESH_CRASH_AT"

CrashPoint = Literal[
    "api.before_log_commit",
    "api.after_log_commit",
    "coordinator.after_claim",
    "coordinator.during_write",
    "coordinator.after_upload",
    "coordinator.inside_publication",
    "coordinator.after_publication",
]

CRASH_POINTS: Final[tuple[str, ...]] = get_args(CrashPoint)


@define
class PlannedCrash:
    """A crash to come: where, and how many passages are left until it happens."""

    name: str
    passages_left: int = 1


def parse_crash_at(text: str | None) -> PlannedCrash | None:
    """The crash that the variable asks for; None when it is unset or empty.

    Raises `ConfigurationError` in one line when the place is unknown or the count is not a positive number.
    """
    if not text:
        return None
    name, _, count = text.partition(":")
    counted = re.fullmatch(r"[1-9]\d{0,8}", count, re.ASCII)
    if name not in CRASH_POINTS or (":" in text and not counted):
        allowed = f"one of {', '.join(CRASH_POINTS)}, with :N for the N-th passage"
        raise ConfigurationError(f"{VARIABLE}: {text[:60]!r} is not known; allowed: {allowed}", setting=VARIABLE)
    return PlannedCrash(name, int(count) if count else 1)


def configure(text: str | None) -> None:
    """Plan the crash that ``text`` asks for, or none. Raises as `parse_crash_at`."""
    global _planned  # noqa: PLW0603 - one process has one death
    _planned = parse_crash_at(text)


def crash_point(name: CrashPoint) -> None:
    """Die here, now, without a word, if that was asked for."""
    if _planned is None or _planned.name != name:
        return
    _planned.passages_left -= 1
    if _planned.passages_left == 0:
        os.kill(os.getpid(), signal.SIGKILL)


def _from_environment() -> PlannedCrash | None:
    """What the environment asks for. A wrong value is refused by the settings, in their one line, not on import."""
    try:
        return parse_crash_at(os.environ.get(VARIABLE))
    except ConfigurationError:
        return None


_planned: PlannedCrash | None = _from_environment()
