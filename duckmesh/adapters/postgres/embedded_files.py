"""The files of an embedded cluster: folders, password, socket directory, ``initdb``; and the server's settings."""

import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs

from duckmesh.adapters.postgres.embedded_binaries import (
    SYSTEM_FOLDER,
    Binaries,
    EmbeddedPostgresError,
    RunUser,
)

ROLE: Final = "duckmesh"
"""Name of the superuser role, and of the database."""

_SOCKET_NAME: Final = "/.s.PGSQL.5432"

_SOCKET_PATH_BYTES: Final = 103
"""What ``sockaddr_un`` holds with its terminating zero: 108 bytes on Linux, 104 on macOS."""

_PLAIN_PATH: Final = re.compile(r"[\w/.@+~-]+", re.ASCII)
"""Paths that need no quoting in a DSN: drivers disagree on commas, spaces, and colons."""

_SMALL_SHARED_MEMORY_BYTES: Final = 64 * 1024 * 1024

_INITDB_OPTIONS: Final = (
    f"--username={ROLE}",
    "--auth=scram-sha-256",
    "--encoding=UTF8",
    # Provided by the server itself: results and indexes do not change with the C library of the machine.
    "--locale=C",
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--data-checksums",
    "--no-instructions",
)


@attrs.frozen
class ClusterFiles:
    """Where things are: everything is below ``root``, which is ``<data_dir>/postgres``."""

    root: Path
    user: RunUser

    @property
    def data(self) -> Path:
        """PGDATA, private to the run user."""
        return self.root / "data"

    @property
    def password_file(self) -> Path:
        """Password of the role; owned by whoever runs DuckMesh, who need not be the run user."""
        return self.root / "password"

    def prepare(self) -> None:
        """Make ``root`` if it is missing.

        Raises:
            EmbeddedPostgresError: the run user cannot reach it. No existing directory is ever opened up.

        """
        if barrier := self.user.barrier(self.root):
            raise EmbeddedPostgresError(
                f"PostgreSQL cannot run as root, so it runs as the user {self.user.name!r}, who cannot enter "
                f"{barrier} (mode {stat.S_IMODE(barrier.stat().st_mode):04o}) on the way to {self.root}. Use a "
                f"data directory that every user may pass, such as --data-dir {SYSTEM_FOLDER}, or start DuckMesh "
                "as a normal user."
            )
        missing = [part for part in (*reversed(self.root.parents), self.root) if not part.exists()]
        for part in missing:
            part.mkdir()
            # With the umask in the way, mkdir alone would not do. Passable is not listable.
            part.chmod(0o711 if self.user.drop else 0o700)

    def password(self) -> str:
        """The password of the role, made at random before the first start."""
        try:
            return self.password_file.read_text(encoding="ascii").strip()
        except FileNotFoundError:
            if self.data.exists():
                raise EmbeddedPostgresError(
                    f"{self.data} holds a cluster but its password is missing. Restore {self.password_file} from "
                    "where the data came from."
                ) from None
        password = secrets.token_hex(24)
        write_private(self.password_file, password)
        return password

    def create_cluster(self, binaries: Binaries, password: str, keep: Sequence[int]) -> None:
        """Run ``initdb`` unless there is a cluster; it appears complete and synced to disk, or not at all.

        Plain ``initdb`` syncs each file: measured, that costs 0.05 s more than ``--no-sync`` and one later
        ``--sync-only``, and nothing can go wrong between the two.
        """
        if self.data.exists():
            return
        for leftover in self.root.glob("initdb-*"):
            shutil.rmtree(leftover, ignore_errors=True)
        staging = self.root / f"initdb-{secrets.token_hex(4)}"
        _make_private(staging, self.user)
        try:
            self._initdb(binaries, staging, password, keep)
            (staging / "data").rename(self.data)
            _sync_folder(self.root)
        finally:
            shutil.rmtree(staging, ignore_errors=True)

    def _initdb(self, binaries: Binaries, staging: Path, password: str, keep: Sequence[int]) -> None:
        password_copy = staging / "password"
        write_private(password_copy, password)
        self.user.own(password_copy)
        answer = self.user.run(
            [
                binaries.program("initdb"),
                *_INITDB_OPTIONS,
                f"--pwfile={password_copy}",
                f"--pgdata={staging / 'data'}",
            ],
            cwd=staging,
            keep=keep,
        )
        if answer.returncode != 0:
            raise EmbeddedPostgresError(
                f"initdb could not create a PostgreSQL cluster in {self.root}: "
                f"{answer.stderr.strip() or answer.stdout.strip() or f'exit code {answer.returncode}'}"
            )

    def check_cluster(self, binaries: Binaries) -> None:
        """Refuse a data directory that these binaries cannot run.

        Raises:
            EmbeddedPostgresError: it is no cluster, of another major version, or of another user.

        """
        try:
            major = (self.data / "PG_VERSION").read_text(encoding="ascii").strip()
        except OSError as error:
            raise EmbeddedPostgresError(
                f"{self.data} is not a PostgreSQL data directory that the user {self.user.name!r} can read "
                f"({error.strerror}). Move it away, or use another --data-dir."
            ) from error
        if major != binaries.major:
            raise EmbeddedPostgresError(
                f"The cluster in {self.data} is of PostgreSQL {major}, the installed binaries are "
                f"{binaries.version}. Install binaries of version {major}, or restore a backup into a new "
                "--data-dir."
            )

    def socket_folder(self) -> Path:
        """A private folder whose socket path fits into what the operating system allows.

        It is ``run`` below the root, or, where that path is too long or needs quoting, a temporary folder that is
        remembered for later starts.
        """
        usual = self.root / "run"
        if _fits(usual):
            if not usual.exists():
                _make_private(usual, self.user)
            return usual
        memory = self.root / "socket_folder"
        if memory.exists() and self._is_ours(remembered := Path(memory.read_text(encoding="utf-8"))):
            return remembered
        folder = _temporary_folder(self.user)
        write_private(memory, str(folder))
        return folder

    def _is_ours(self, folder: Path) -> bool:
        """Others may write where temporary folders are made, so nothing is believed about a remembered one."""
        try:
            status = folder.lstat()
        except OSError:
            return False
        return stat.S_ISDIR(status.st_mode) and (status.st_uid, stat.S_IMODE(status.st_mode)) == (
            self.user.uid,
            0o700,
        )


def write_private(path: Path, text: str) -> None:
    """Write a file of mode 0600 that is complete and on disk once it has its name."""
    draft = path.with_name(f".{path.name}-{secrets.token_hex(4)}")
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
    _sync_folder(path.parent)


def server_settings(socket_folder: Path, shared_buffers: str, binaries: Binaries) -> dict[str, str]:
    """Settings given on the command line, where neither a file nor ``ALTER SYSTEM`` can change them."""
    quoted = str(socket_folder).replace('"', '""')
    return {
        # Reachable through the private folder only.
        "listen_addresses": "",
        "port": "5432",
        "unix_socket_directories": f'"{quoted}"',
        "unix_socket_permissions": "0700",
        # An acknowledged write is on disk.
        "fsync": "on",
        "synchronous_commit": "on",
        "full_page_writes": "on",
        # pglz costs more time than the bytes it saves.
        "wal_compression": "lz4" if binaries.lz4 else "off",
        "max_wal_size": "4GB",
        "checkpoint_timeout": "15min",
        "max_connections": "200",
        "shared_buffers": shared_buffers,
        "dynamic_shared_memory_type": _dynamic_shared_memory(),
        # Short statements: compiling them costs more than it saves.
        "jit": "off",
        # The bus and the ledgers are appended to and trimmed all day.
        "autovacuum_naptime": "15s",
        "autovacuum_vacuum_scale_factor": "0.05",
        "autovacuum_vacuum_insert_scale_factor": "0.1",
        "autovacuum_analyze_scale_factor": "0.05",
        "timezone": "UTC",
        "log_timezone": "UTC",
        "log_destination": "stderr",
        "logging_collector": "off",
        "log_line_prefix": "%m [%p] %b: ",
        "log_min_messages": "warning",
        "log_min_error_statement": "error",
        # Values of parameters are user data, and stay out of the log.
        "log_parameter_max_length_on_error": "0",
    }


def _dynamic_shared_memory() -> str:
    """``mmap`` where /dev/shm is missing or tiny, as in containers; a full one fails queries with SIGBUS."""
    if sys.platform != "linux":
        return "posix"
    try:
        sizes = os.statvfs("/dev/shm")  # noqa: S108  # asked for its size only
    except OSError:
        return "mmap"
    return "mmap" if sizes.f_blocks * sizes.f_frsize < _SMALL_SHARED_MEMORY_BYTES else "posix"


def _make_private(folder: Path, user: RunUser) -> None:
    folder.mkdir(mode=0o700)
    user.own(folder)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _fits(folder: Path) -> bool:
    path = f"{folder}{_SOCKET_NAME}"
    return len(os.fsencode(path)) <= _SOCKET_PATH_BYTES and _PLAIN_PATH.fullmatch(path) is not None


def _temporary_folder(user: RunUser) -> Path:
    """A new private folder with a short path; root avoids its XDG_RUNTIME_DIR, which others cannot enter."""
    candidates = [Path("/tmp")]  # noqa: S108  # mkdtemp makes a private folder in it
    if not user.drop and (runtime := os.environ.get("XDG_RUNTIME_DIR")):
        candidates.insert(0, Path(runtime))
    for parent in candidates:
        if parent.is_dir() and os.access(parent, os.W_OK) and _fits(parent / "duckmesh-01234567"):
            folder = Path(tempfile.mkdtemp(prefix="duckmesh-", dir=parent))
            user.own(folder)
            return folder
    raise EmbeddedPostgresError(
        "There is no place with a short path for PostgreSQL's socket: /tmp cannot be written. Use a shorter --data-dir."
    )
