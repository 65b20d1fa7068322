"""A server of the demo's own: ``duckmesh up`` in a fresh folder, as a child that never outlives the demo."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO, Final

from attrs import frozen

from duckmesh.app.cli.client import ApiClient
from duckmesh.app.cli.discovery import SERVER_FILE, Target, find_target
from duckmesh.app.cli.exit_codes import CliError, ExitCode, ServerFailed, ServerUnreachable, UsageProblem
from duckmesh.app.cli.output import cell_text

_READY_SECONDS: Final = 60.0
_STOP_SECONDS: Final = 20.0
_POLL_SECONDS: Final = 0.05
_TAIL_LINES: Final = 15
_TAIL_BYTES: Final = 16_384
_OK: Final = 200


@frozen
class DemoServer:
    """A running child and where its log goes."""

    process: subprocess.Popen[bytes]
    data_dir: Path
    log: IO[bytes]

    def wait_ready(self) -> Target:
        """Wait until it answers; raises `ServerFailed` with the end of its log if it does not."""
        deadline = time.monotonic() + _READY_SECONDS
        while time.monotonic() < deadline:
            self.check_alive()
            target = self._answering()
            if target is not None:
                return target
            time.sleep(_POLL_SECONDS)
        raise self._failure(f"the server was not ready after {_READY_SECONDS:.0f} s")

    def check_alive(self) -> None:
        """Raise `ServerFailed` if the server has ended."""
        status = self.process.poll()
        if status is not None:
            failure = self._failure(f"the server ended with status {status}")
            if status == ExitCode.USAGE:
                failure.exit_code = ExitCode.USAGE  # it was told something impossible, and so was the demo
            raise failure

    def tail(self) -> str:
        """The last lines of the log."""
        size = os.fstat(self.log.fileno()).st_size
        text = os.pread(self.log.fileno(), _TAIL_BYTES, max(0, size - _TAIL_BYTES))
        lines = text.decode("utf-8", "replace").splitlines()[-_TAIL_LINES:]
        return "\n".join(f"  {cell_text(line)}" for line in lines) or "  (it is empty)"

    def stop(self) -> None:
        """Ask it to stop, then insist; nothing of it is left running."""
        if self.process.poll() is None:
            self.process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, signal.SIGKILL)  # a session of its own, so the group is the child's
        self.process.wait()
        _end_postgres(self.data_dir)

    def _failure(self, message: str) -> ServerFailed:
        failure = ServerFailed(f"{message}; its log ends as below")
        failure.detail = self.tail()
        return failure

    def _answering(self) -> Target | None:
        if not (self.data_dir / SERVER_FILE).exists():
            return None
        target = find_target(None, None, self.data_dir, environ={})
        try:
            with ApiClient(target) as client:
                status, _ = client.probe("/v1/ready")
        except ServerUnreachable:
            return None
        return target if status == _OK else None


@contextmanager
def running_server(data_dir: Path, port: int) -> Iterator[DemoServer]:
    """Start ``duckmesh up`` and stop it at the end, however the end comes. Port 0 takes a free one."""
    command = [sys.executable, "-m", "duckmesh", "up", "--data-dir", str(data_dir), "--port", str(port)]
    # The demo's server is not configured by what happens to be set for another one.
    environment = {name: value for name, value in os.environ.items() if not name.startswith("DUCKMESH_")}
    with tempfile.TemporaryFile() as log:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter and our own module
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment, start_new_session=True
        )
        server = DemoServer(process, data_dir, log)
        try:
            yield server
        except CliError:
            server.check_alive()  # if it died, its log says more than the error that followed
            raise
        finally:
            server.stop()


@contextmanager
def workspace(given: Path | None, *, keep: bool) -> Iterator[Path]:
    """A fresh folder for the data, removed at the end unless it is to be kept."""
    existed = given is not None and given.exists()
    folder = _fresh(given)
    try:
        yield folder
    finally:
        if not keep:
            _remove(folder, itself=not existed)


def _fresh(given: Path | None) -> Path:
    if given is None:
        base = "/tmp" if Path("/tmp").is_dir() else None  # noqa: S108 - mkdtemp makes a name of its own there
        folder = Path(tempfile.mkdtemp(prefix="duckmesh-demo-", dir=base))
    else:
        folder = given.absolute()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            occupied = any(folder.iterdir())
        except OSError as error:
            raise UsageProblem(f"cannot use {folder}: {error.strerror}") from error
        if occupied:
            raise UsageProblem(f"{folder} is not empty; the demo starts in an empty folder")
    if os.geteuid() == 0:
        folder.chmod(0o755)  # PostgreSQL does not run as root: the user that it drops to must get in
    return folder


def _remove(folder: Path, *, itself: bool) -> None:
    if itself:
        shutil.rmtree(folder, ignore_errors=True)
        return
    for entry in folder.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry, ignore_errors=True)
        else:
            entry.unlink(missing_ok=True)


def _end_postgres(data_dir: Path) -> None:
    """End a PostgreSQL of this folder that a killed server left behind."""
    for pid_file in data_dir.glob("**/postmaster.pid"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            pid, directory = pid_file.read_text(encoding="utf-8").splitlines()[:2]
            if Path(directory).resolve() == pid_file.parent.resolve() and _is_postgres(int(pid)):
                os.kill(int(pid), signal.SIGQUIT)


def _is_postgres(pid: int) -> bool:
    command = Path(f"/proc/{pid}/cmdline")
    # Without /proc, the file that names its own folder has to be enough.
    return b"postgres" in command.read_bytes() if Path("/proc/self").exists() else True


@contextmanager
def interruptible() -> Iterator[None]:
    """Let a polite kill or a closed terminal end the demo as Ctrl-C does: with everything cleaned up."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        # Once is enough: what follows is the cleaning, which must not be cut short.
        for number in numbers:
            signal.signal(number, signal.SIG_IGN)
        raise KeyboardInterrupt

    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = {number: signal.signal(number, interrupt) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
