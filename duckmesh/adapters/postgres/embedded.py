"""PostgreSQL in a child process: the catalog of a DuckMesh that has nothing installed beside its wheel."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import asyncpg

from duckmesh.adapters.postgres import embedded_launch
from duckmesh.adapters.postgres.embedded_binaries import (
    Binaries,
    EmbeddedPostgresError,
    child_environment,
    run_user,
    runnable_binaries,
)
from duckmesh.adapters.postgres.embedded_files import ROLE, ClusterFiles, server_settings
from duckmesh.adapters.postgres.embedded_leftovers import FileLock, take_over
from duckmesh.adapters.postgres.embedded_log import LogForwarder

__all__ = ["EmbeddedPostgres", "EmbeddedPostgresError"]

_SHUTDOWN: Final = ((signal.SIGINT, 30.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
"""Fast shutdown, immediate shutdown, kill; and how many seconds each may take."""

_START_SECONDS: Final = 60.0
"""How long a server may stay silent."""

_RECOVERY_SECONDS: Final = 900.0
"""How long it may say that it is starting up. Killing it would only begin the recovery anew."""

_FIRST_DELAY: Final = 0.005
_LONGEST_DELAY: Final = 0.1
_CONNECT_SECONDS: Final = 5.0
_LAST_LINES_SECONDS: Final = 1.0

_NOT_YET: Final = (
    OSError,
    asyncpg.PostgresConnectionError,
    # It is going down again; whether it has ended is asked before the next attempt.
    asyncpg.OperatorInterventionError,
    # Clients of the server before a crash were faster.
    asyncpg.TooManyConnectionsError,
)
"""How a connection fails while the server is starting."""


class EmbeddedPostgres:
    """One PostgreSQL cluster in a data directory, run as a child process.

    Everything is below ``<data_dir>/postgres``. There is no TCP: clients use `dsn`, a unix socket in a private
    folder and a random password. When DuckMesh runs as root the server runs as the owner of an existing cluster,
    else as the system user ``duckmesh`` if there is one, else as ``nobody``.

    On Linux the server shuts down when its supervisor dies, even by ``kill -9``. The kernel ties that to the
    *thread* that started it, so `start` must be awaited in the main thread's event loop. One task owns the
    object: its methods, `wait` excepted, are not for concurrent use.

    Args:
        data_dir: DuckMesh's data directory; made when missing.
        shared_buffers: memory for pages, in PostgreSQL's notation. The index that finds duplicate writes should
            fit.
        on_log: called with each line of the server's log, from a thread of its own. Lines that it is too slow for
            are counted and dropped; what it raises is ignored.

    """

    def __init__(
        self,
        data_dir: Path,
        *,
        shared_buffers: str = "256MB",
        on_log: Callable[[str], None] | None = None,
    ) -> None:
        self._root = data_dir.resolve() / "postgres"
        self._shared_buffers = shared_buffers
        self._on_log = on_log
        self._log = LogForwarder(on_log)
        self._supervising = FileLock(self._root / "supervisor.lock")
        self._running = FileLock(self._root / "cluster.lock")
        self._process: asyncio.subprocess.Process | None = None
        self._dsn: str | None = None

    @property
    def dsn(self) -> str:
        """DSN for asyncpg (and libpq), password inside: never log it.

        Raises:
            EmbeddedPostgresError: the server was never started.

        """
        if self._dsn is None:
            raise EmbeddedPostgresError(f"The PostgreSQL in {self._root} has no address before its first start.")
        return self._dsn

    @property
    def pid(self) -> int | None:
        """Pid of the postmaster while it runs."""
        running = self._process is not None and self._process.returncode is None
        return self._process.pid if self._process is not None and running else None

    async def start(self) -> None:
        """Start the server and return when it accepts connections; does nothing while it runs.

        Makes the cluster and the database on first use. After a crash of the server or of an earlier supervisor,
        stops what is left of it, and waits for recovery.

        Raises:
            EmbeddedPostgresError: it cannot be started; nothing is left running.

        """
        if self.pid is not None:
            return
        try:
            await self._start()
        except (OSError, subprocess.SubprocessError) as error:
            await self.stop()
            raise EmbeddedPostgresError(f"PostgreSQL in {self._root} could not be started: {error}") from error
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """Shut the server down within 40 s: first so that it checkpoints, at last by killing it."""
        process = self._process
        for number, seconds in _SHUTDOWN:
            if process is None or process.returncode is not None:
                break
            with suppress(ProcessLookupError):
                process.send_signal(number)
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await process.wait()
        await asyncio.to_thread(self._log.finish, _LAST_LINES_SECONDS)
        self._running.release()
        self._supervising.release()

    async def wait(self) -> int:
        """Wait until the server process ends; returns its exit code, negative for a signal.

        After that `start` may be called again.
        """
        if self._process is None:
            raise EmbeddedPostgresError(f"The PostgreSQL in {self._root} is not started.")
        return await self._process.wait()

    async def _start(self) -> None:
        files = await asyncio.to_thread(self._own_files)
        await take_over(files.data, self._running)
        binaries, socket_folder = await asyncio.to_thread(self._prepare, files)
        await self._spawn(files, binaries, socket_folder)
        await self._until_ready()

    def _own_files(self) -> ClusterFiles:
        files = ClusterFiles(self._root, run_user(self._root / "data"))
        files.prepare()
        if not self._supervising.acquire():
            raise EmbeddedPostgresError(
                f"Another DuckMesh process supervises the PostgreSQL in {self._root}. Stop it, or use another "
                "--data-dir."
            )
        return files

    def _prepare(self, files: ClusterFiles) -> tuple[Binaries, Path]:
        binaries = runnable_binaries(files.user)
        password = files.password()
        files.create_cluster(binaries, password, self._inherited())
        files.check_cluster(binaries)
        folder = files.socket_folder()
        # With nothing running, the lock file of the socket can only mislead, as the pid in it may be reused.
        (folder / ".s.PGSQL.5432.lock").unlink(missing_ok=True)
        self._dsn = f"postgresql://{ROLE}:{password}@/{ROLE}?host={quote(str(folder))}&port=5432"
        return binaries, folder

    def _inherited(self) -> tuple[int, ...]:
        """Descriptors for the server: as long as any of its processes lives, the lock is held."""
        return () if self._running.descriptor is None else (self._running.descriptor,)

    async def _spawn(self, files: ClusterFiles, binaries: Binaries, socket_folder: Path) -> None:
        settings = server_settings(socket_folder, self._shared_buffers, binaries)
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        drop = files.user.drop
        self._log = LogForwarder(self._on_log)
        log = self._log.open()
        try:
            self._process = await asyncio.create_subprocess_exec(
                sys.executable,
                "-I",
                "-S",
                embedded_launch.__file__,
                str(os.getpid()),
                str(files.user.uid if drop else embedded_launch.KEEP_USER),
                str(files.user.gid if drop else embedded_launch.KEEP_USER),
                str(binaries.program("postgres")),
                "-D",
                str(files.data),
                *options,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=self._inherited(),
                cwd="/",
                env=child_environment(),
                # Ctrl-C in a terminal is for the supervisor, which stops its clients before the server.
                start_new_session=True,
            )
        finally:
            os.close(log)
            self._running.release()  # from here on the server's processes hold it

    async def _until_ready(self) -> None:
        clock = asyncio.get_running_loop().time
        began = clock()
        silence_ends = began + _START_SECONDS
        delay = _FIRST_DELAY
        while clock() < min(silence_ends, began + _RECOVERY_SECONDS):
            await self._raise_if_ended()
            try:
                await self._ensure_database()
            except asyncpg.CannotConnectNowError:
                silence_ends = clock() + _START_SECONDS
            except asyncpg.InvalidPasswordError as error:
                raise EmbeddedPostgresError(
                    f"PostgreSQL refuses the password in {self._root / 'password'}. Restore the file that belongs "
                    "to the data."
                ) from error
            except _NOT_YET:
                pass
            else:
                return
            await asyncio.sleep(delay)
            delay = min(delay * 1.5, _LONGEST_DELAY)
        raise EmbeddedPostgresError(
            f"PostgreSQL in {self._root} did not accept connections in time. Its last log lines:\n{self._log.tail}"
        )

    async def _raise_if_ended(self) -> None:
        process = self._process
        if process is None or process.returncode is None:
            return
        await asyncio.to_thread(self._log.finish, _LAST_LINES_SECONDS)
        raise EmbeddedPostgresError(
            f"PostgreSQL in {self._root} ended with exit code {process.returncode} instead of starting. Its last "
            f"log lines:\n{self._log.tail}"
        )

    async def _ensure_database(self) -> None:
        """Connect once; makes the database when it is missing, also after a first start that was interrupted."""
        connection: Any = await asyncpg.connect(self.dsn, database="postgres", ssl=False, timeout=_CONNECT_SECONDS)
        try:
            if not await connection.fetchval("SELECT true FROM pg_database WHERE datname = $1", ROLE):
                await connection.execute(f'CREATE DATABASE "{ROLE}"')
        finally:
            await connection.close()
