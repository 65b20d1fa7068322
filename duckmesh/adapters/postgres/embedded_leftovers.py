"""What a killed supervisor or a killed server leaves behind: processes and lock files.

PostgreSQL trusts the pid in ``postmaster.pid``: when any living process of the same user has it, as happens after
every restart of a container, it refuses to start. Two file locks tell the truth instead. The kernel drops them with
their last holder, across pid namespaces too.
"""

import asyncio
import fcntl
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from duckmesh.adapters.postgres.embedded_binaries import EmbeddedPostgresError

_ESCALATION: Final = ((signal.SIGINT, 20.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
"""Fast shutdown, immediate shutdown, kill; and how many seconds each may take."""

_ORPHAN_SECONDS: Final = 2.0
"""Patience with backends without postmaster: they end on their own unless they compute."""


class FileLock:
    """An advisory lock on a file: held while any process has the descriptor."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock if it is free; true when it is held by this object afterwards."""
        if self.descriptor is not None:
            return True
        descriptor = os.open(self._path, os.O_RDONLY | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self.descriptor = descriptor
        return True

    def release(self) -> None:
        """Close our descriptor; the lock stays held by processes that inherited it."""
        if self.descriptor is not None:
            os.close(self.descriptor)
            self.descriptor = None


def server_processes(data: Path) -> list[int]:
    """Pids of the living PostgreSQL processes whose data directory is ``data``; zombies do not count."""
    if sys.platform == "linux":
        return [int(entry.name) for entry in Path("/proc").iterdir() if _works_in(entry, data)]
    postmaster = _recorded_postmaster(data)
    return [postmaster] if postmaster is not None and _command_names(postmaster, data) else []


def _works_in(process: Path, data: Path) -> bool:
    """Whether the ``/proc`` entry is a PostgreSQL process: all of them work in their data directory."""
    if not process.name.isdecimal():
        return False
    with suppress(OSError):
        program = (process / "exe").readlink().name  # "postgres (deleted)" after an upgrade
        return program.startswith("postgres") and (process / "cwd").samefile(data)
    return False


def _command_names(pid: int, data: Path) -> bool:
    """The same without ``/proc``: the command line names the program and the directory."""
    answer = subprocess.run(  # noqa: S603  # a fixed program and a number
        ["/bin/ps", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
    )
    return "postgres" in answer.stdout and f"-D {data}" in answer.stdout


def _recorded_postmaster(data: Path) -> int | None:
    with suppress(OSError, ValueError, IndexError):
        return int((data / "postmaster.pid").read_text().splitlines()[0])
    return None


async def take_over(data: Path, lock: FileLock) -> None:
    """Stop whatever still runs on ``data``, remove its stale lock file, and hold ``lock``.

    The caller must be the only supervisor of ``data``: a server found here has lost its own.

    Raises:
        EmbeddedPostgresError: processes on ``data`` neither end nor can be stopped.

    """
    for number, patience in _ESCALATION:
        if _is_free(data, lock):
            break
        led = _signal_all(data, number)
        await _until_free(data, lock, patience if led else _ORPHAN_SECONDS)
    if not _is_free(data, lock):
        raise EmbeddedPostgresError(
            f"Another process still uses the PostgreSQL data in {data} (pids seen: {server_processes(data)}). "
            "Stop it; it may run in another container that shares the directory."
        )
    # Nothing lives here, so a recorded pid can only mislead.
    (data / "postmaster.pid").unlink(missing_ok=True)


def _signal_all(data: Path, number: signal.Signals) -> bool:
    """Signal the postmaster, or all processes when there is none or they are to be killed; true if there is one."""
    alive = server_processes(data)
    leading = [pid for pid in alive if pid == _recorded_postmaster(data)]
    for pid in alive if number is signal.SIGKILL else leading or alive:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            continue
        except PermissionError as error:
            raise EmbeddedPostgresError(
                f"The process {pid} of another user runs PostgreSQL on {data}. Stop it, or start DuckMesh as "
                "the user that owns it."
            ) from error
    return bool(leading)


def _is_free(data: Path, lock: FileLock) -> bool:
    """Take ``lock``; true if nothing runs. A server that somebody started by hand does not hold the lock."""
    if not lock.acquire():
        return False
    return _recorded_postmaster(data) is None or not server_processes(data)


async def _until_free(data: Path, lock: FileLock, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline and not _is_free(data, lock):  # other processes tell nobody
        await asyncio.sleep(0.02)
