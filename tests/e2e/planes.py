"""Real processes for the tests in this folder: `duckmesh up`, and planes that run apart from each other."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

import httpx
from attrs import define, field
from caller import Caller
from s3_server import free_ports

from duckmesh.app.cli.discovery import read_admin_key, read_server

START_S = 90.0
STOP_S = 60.0
Found = TypeVar("Found")


def until(look: Callable[[], Found | None], seconds: float, what: str, log: Path | None = None) -> Found:
    """The first true thing that ``look`` gives; fails with ``what`` when it gives none in time."""
    deadline = time.monotonic() + seconds
    while not (found := look()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {seconds} s: {what}{_tail(log)}")
        time.sleep(0.02)
    return found


def _tail(log: Path | None) -> str:
    return f"; its log ends with\n{log.read_text()[-4000:]}" if log is not None else ""


def clean_environment(**more: str) -> dict[str, str]:
    """The environment without what DuckMesh would read from it, and ``more``."""
    return {name: value for name, value in os.environ.items() if not name.startswith("DUCKMESH_")} | more


@contextmanager
def open_folder() -> Iterator[Path]:
    """A new folder that an unprivileged user can enter, as PostgreSQL is one when the tests run as root."""
    folder = Path(tempfile.mkdtemp(prefix="duckmesh-e2e-", dir="/tmp"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def processes() -> dict[int, tuple[int, str]]:
    """Parent and command of every living process."""
    listed = subprocess.run(["ps", "-axwwo", "pid=,ppid=,stat=,command="], capture_output=True, text=True, check=True)
    found = {}
    for line in listed.stdout.splitlines():
        pid, parent, state, command = line.split(None, 3)
        if not state.startswith("Z"):
            found[int(pid)] = (int(parent), command)
    return found


def family(pid: int) -> dict[int, str]:
    """The commands of a process and of all its descendants."""
    listed = processes()
    members = {pid}
    while more := {child for child, (parent, _) in listed.items() if parent in members} - members:
        members |= more
    return {member: listed[member][1] for member in members if member in listed}


def still_running(members: dict[int, str]) -> dict[int, str]:
    """Those of the processes that live."""
    listed = processes()
    return {pid: command for pid, command in members.items() if pid in listed and listed[pid][1] == command}


def kill_all(members: dict[int, str], number: signal.Signals = signal.SIGKILL) -> None:
    """Send all of them a signal, whoever is still there."""
    for pid in still_running(members):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


@define(eq=False)
class Running:
    """A process of DuckMesh with its log."""

    process: "subprocess.Popen[bytes]"
    log: Path
    url: str = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def text(self) -> str:
        """What it said until now."""
        return self.log.read_text()

    def kill(self) -> None:
        """SIGKILL, and wait for its end."""
        self.process.kill()
        self.process.wait(STOP_S)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop it as a user would; its exit status."""
        with contextlib.suppress(ProcessLookupError):
            self.process.send_signal(signal.SIGCONT)
            self.process.send_signal(number)
        try:
            return self.process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            kill_all(family(self.pid))
            self.process.wait()
            raise AssertionError(f"it did not stop{_tail(self.log)}") from None

    def until_dead(self, seconds: float = 30) -> int:
        """Its exit status, once it has ended by itself."""
        return self.process.wait(seconds)

    def until_said(self, words: str, seconds: float = START_S) -> None:
        """Return when the log has the words."""
        until(lambda: words in self.text or self.process.poll() is not None, seconds, f"{words!r} was said", self.log)
        assert words in self.text, self.text[-4000:]


@define(eq=False)
class UpServer(Running):
    """A running `duckmesh up`."""

    data_dir: Path = Path()
    auth: bool = True

    @property
    def api_key(self) -> str | None:
        """The admin key of the tenant `default`; None when none is needed."""
        return read_admin_key(self.data_dir) if self.auth else None

    def caller(self, tenant: str | None = None) -> Caller:
        """A client with the admin key, or of a tenant when there is no authentication."""
        return Caller(self.url, self.api_key, tenant)

    def children(self) -> dict[str, int]:
        """Pids of `api`, `coordinator` and `postgres`; those that run now."""
        direct = {pid: command for pid, (parent, command) in processes().items() if parent == self.pid}
        found = {}
        for pid, command in direct.items():
            if "/postgres" in command:
                found["postgres"] = pid
            elif "supervised" in command:
                found["api" if _holds_listener(pid, self.pid) else "coordinator"] = pid
        return found


def _holds_listener(pid: int, parent: int) -> bool:
    """Whether the process inherited a socket of its parent: only the API gets one."""
    return bool(_sockets(pid) & _sockets(parent))


def _sockets(pid: int) -> set[str]:
    found = set()
    with contextlib.suppress(OSError):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                target = str(entry.readlink())
                if target.startswith("socket:"):
                    found.add(target)
    return found


def run_up(data_dir: Path, *arguments: str, **environment: str) -> UpServer:
    """Start `duckmesh up` and return at once."""
    log = data_dir.with_name(f"{data_dir.name}.log")
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "duckmesh", "up", "--data-dir", str(data_dir), *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=clean_environment(**environment),
            cwd="/",
            start_new_session=True,
        )
    return UpServer(process, log, data_dir=data_dir, auth="off" not in arguments)


def start_up(data_dir: Path, *arguments: str, **environment: str) -> UpServer:
    """Start `duckmesh up` on a free port and return when it says that it is ready."""
    with contextlib.suppress(FileNotFoundError):
        (data_dir / "server.json").unlink()  # left by a server that was killed
    log = data_dir.with_name(f"{data_dir.name}.log")
    said = len(log.read_text()) if log.exists() else 0
    server = run_up(data_dir, "--port", "0", *arguments, **environment)

    def ready() -> bool:
        return "is ready at" in server.text[said:] or server.process.poll() is not None

    try:
        until(ready, START_S, "`duckmesh up` was ready", server.log)
        assert server.process.poll() is None, server.text[-4000:]
    except BaseException:
        kill_all(family(server.pid))
        server.process.wait()
        raise
    found = read_server(data_dir)
    assert found is not None
    server.url = found.url
    return server


@contextmanager
def up(*arguments: str, **environment: str) -> Iterator[UpServer]:
    """A server in a folder of its own, stopped and removed at the end."""
    with open_folder() as folder:
        server = start_up(folder / "data", *arguments, **environment)
        try:
            yield server
        finally:
            server.stop()


@define
class Planes:
    """API and coordinator processes over one database and one object store."""

    folder: Path
    environment: dict[str, str]
    running: list[Running] = field(factory=list)

    def api(self, **environment: str) -> Running:
        """Start an API; it answers when this returns."""
        [port] = free_ports(1)
        plane = self._start("api", "--port", str(port), **environment)
        plane.url = f"http://127.0.0.1:{port}"
        with httpx.Client(timeout=5) as http:

            def ready() -> bool:
                with contextlib.suppress(httpx.TransportError):
                    return http.get(f"{plane.url}/v1/ready").status_code == 200
                return plane.process.poll() is not None

            until(ready, START_S, "the API was ready", plane.log)
        assert plane.process.poll() is None, plane.text
        return plane

    def coordinator(self, **environment: str) -> Running:
        """Start a coordinator; it works, or has died already, when this returns."""
        plane = self._start("coordinator", **environment)
        until(
            lambda: "server.ready" in plane.text or plane.process.poll() is not None,
            START_S, "the coordinator was ready", plane.log,
        )  # fmt: skip
        return plane

    def caller(self, api: Running, tenant: str = "default") -> Caller:
        """A client of that API."""
        return Caller(api.url, None, tenant)

    def _start(self, role: str, *arguments: str, **environment: str) -> Running:
        log = self.folder / f"{role}-{len(self.running)}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-m", "duckmesh", "serve", "--role", role, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=clean_environment(**{**self.environment, **environment}),
                cwd="/",
            )
        plane = Running(process, log)
        self.running.append(plane)
        return plane

    def stop(self) -> None:
        """End all of them."""
        for plane in self.running:
            if plane.process.poll() is None:
                plane.kill()
