import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from duckmesh.domain.errors import ConfigurationError
from duckmesh.ports import faults

PASSES_FIVE_TIMES = """
from duckmesh.ports.faults import crash_point
for passage in range(1, 6):
    crash_point("coordinator.after_claim")
    print(passage, flush=True)
    crash_point("coordinator.after_upload")
"""


def run(crash_at: str | None) -> "subprocess.CompletedProcess[str]":
    env = {name: value for name, value in os.environ.items() if name != faults.VARIABLE}
    if crash_at is not None:
        env[faults.VARIABLE] = crash_at
    return subprocess.run(
        [sys.executable, "-c", PASSES_FIVE_TIMES], env=env, capture_output=True, text=True, check=False
    )


@pytest.fixture(autouse=True)
def nothing_planned() -> Iterator[None]:
    yield
    faults.configure(None)


def test_the_process_is_killed_where_it_was_asked_for_with_nothing_cleaned_up() -> None:
    ran = run("coordinator.after_upload")
    assert ran.returncode == -signal.SIGKILL
    assert ran.stdout.split() == ["1"]
    assert not ran.stderr


def test_the_process_is_killed_on_the_passage_that_was_asked_for() -> None:
    ran = run("coordinator.after_claim:4")
    assert ran.returncode == -signal.SIGKILL
    assert ran.stdout.split() == ["1", "2", "3"]


@pytest.mark.parametrize("crash_at", [None, "", "api.after_log_commit", "coordinator.after_claim:6", "nowhere"])
def test_the_process_lives_when_nothing_that_it_passes_was_asked_for(crash_at: str | None) -> None:
    ran = run(crash_at)
    assert ran.returncode == 0
    assert ran.stdout.split() == ["1", "2", "3", "4", "5"]


@pytest.mark.parametrize(
    "text", ["nowhere", "api", "api.after_log_commit:", "api.after_log_commit:0", "api.after_log_commit:-1", ":2"]
)
def test_an_unknown_place_is_a_configuration_error_that_lists_the_known_ones(text: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        faults.parse_crash_at(text)
    assert caught.value.message.startswith("DUCKMESH_CRASH_AT: ")
    assert "\n" not in caught.value.message
    assert all(name in caught.value.message for name in faults.CRASH_POINTS)


def test_a_place_and_a_passage_are_read() -> None:
    assert faults.parse_crash_at("coordinator.during_write:3") == faults.PlannedCrash("coordinator.during_write", 3)
    assert faults.parse_crash_at("api.before_log_commit") == faults.PlannedCrash("api.before_log_commit", 1)
    assert faults.parse_crash_at(None) is faults.parse_crash_at("") is None


def test_a_crash_can_be_planned_in_code_and_taken_back() -> None:
    faults.configure("api.before_log_commit:1000")
    faults.crash_point("api.before_log_commit")
    faults.configure(None)
    faults.crash_point("api.before_log_commit")


def test_every_known_place_is_passed_by_name_only() -> None:
    """A name that is written in the package and not known would never fire."""
    package = Path(faults.__file__).parents[1]
    written = {
        part.split('"')[1]
        for path in package.rglob("*.py")
        for part in path.read_text(encoding="utf-8").split("crash_point(")[1:]
        if part.startswith('"')
    }
    assert written <= set(faults.CRASH_POINTS)
