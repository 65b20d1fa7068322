"""A directory as object store.

It works on the file system itself, not through fsspec's local one, which can neither create if absent nor wait for
the disk.
"""

import asyncio
import errno
import os
import stat
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from itertools import islice
from pathlib import Path
from uuid import uuid4

from duckmesh.adapters.objectstore.paths import RESERVED, checked_path, checked_prefix, contiguous
from duckmesh.domain.errors import DuckMeshError, InvalidRequest, ObjectExists, ObjectMissing, Unavailable
from duckmesh.ports.objectstore import LocationKind, ObjectLocation, StoredObject

PRIVATE_DIRECTORY = 0o700  # rows of tenants: nobody else on the machine reads them
PRIVATE_FILE = 0o600
LISTED_AT_ONCE = 1_000


class LocalObjectStore:
    """Objects are files under ``root``, readable by this user only.

    A put writes a temporary file beside the object, waits for the disk, and links it to its name, which fails when
    the name is taken. Each call takes one thread hop. Folders are made when they are first needed.
    """

    def __init__(self, root: Path) -> None:
        self._root = Path(os.path.abspath(root))  # noqa: PTH100 - resolve() would replace an operator's link
        self._durable_directories: set[Path] = set()

    async def put(self, path: str, data: bytes | memoryview) -> StoredObject:
        """Create the object, durable when this returns; raises `ObjectExists`."""
        target, view = self._file(path), contiguous(data)
        await asyncio.to_thread(self._create, path, target, view)
        return StoredObject(path, view.nbytes)

    async def get(self, path: str) -> bytes:
        """The whole object; raises `ObjectMissing`."""
        target = self._file(path)
        with _translated(path):
            return await asyncio.to_thread(target.read_bytes)

    async def stat(self, path: str) -> StoredObject | None:
        """The object's size, or None when it is not there."""
        target = self._file(path)
        try:
            with _translated(path):
                found = await asyncio.to_thread(target.stat)
        except (ObjectMissing, InvalidRequest):
            return None
        return StoredObject(path, found.st_size) if stat.S_ISREG(found.st_mode) else None

    async def delete(self, path: str) -> None:
        """Remove the object; one that is not there is fine."""
        target = self._file(path)
        with suppress(ObjectMissing, InvalidRequest), _translated(path):
            await asyncio.to_thread(target.unlink)

    async def list(self, prefix: str) -> AsyncIterator[StoredObject]:
        """All objects whose path starts with ``prefix``; one made or removed meanwhile may be in it or not."""
        folder, _, start = checked_prefix(prefix).rpartition("/")
        found = self._walk(folder, start)
        while batch := await asyncio.to_thread(_next_of, found, prefix):
            for stored in batch:
                yield stored

    def locate(self, path: str) -> ObjectLocation:
        """The file's absolute path."""
        return ObjectLocation(LocationKind.FILE, str(self._file(path)))

    async def remove_leftovers(self, older_than: timedelta) -> int:
        """Remove what writers left that died in a put, and say how many files that were."""
        return await asyncio.to_thread(self._remove_temporary_files, time.time() - older_than.total_seconds())

    def _file(self, path: str) -> Path:
        return self._root / checked_path(path)

    def _create(self, path: str, target: Path, data: memoryview) -> None:
        with _translated(path):
            try:
                self._create_in(target.parent, target, data)
            except FileNotFoundError:  # somebody removed a folder that was there before
                self._durable_directories.clear()
                self._create_in(target.parent, target, data)

    def _create_in(self, directory: Path, target: Path, data: memoryview) -> None:
        self._make_durable(directory)
        temporary = directory / f"{RESERVED}{uuid4().hex}"
        try:
            _write(temporary, data)
            os.link(temporary, target)
        finally:
            temporary.unlink(missing_ok=True)
        _sync_directory(directory)

    def _make_durable(self, directory: Path) -> None:
        """Make the folder and wait until the disk has its name.

        Waits also for a folder that another writer has just made: that one may not have waited yet.
        """
        if directory in self._durable_directories:
            return
        if directory == self._root:
            directory.mkdir(PRIVATE_DIRECTORY, parents=True, exist_ok=True)
            with suppress(PermissionError):  # the folder above the store may be closed to us
                _sync_directory(directory.parent)
        else:
            self._make_durable(directory.parent)
            _make_directory(directory)
            _sync_directory(directory.parent)
        self._durable_directories.add(directory)

    def _walk(self, folder: str, start: str = "") -> Iterator[StoredObject]:
        for entry in _entries(self._root / folder):
            path = f"{folder}/{entry.name}" if folder else entry.name
            if entry.name.startswith(RESERVED) or not entry.name.startswith(start):
                continue
            if entry.is_dir(follow_symlinks=False):
                yield from self._walk(path)
            elif entry.is_file(follow_symlinks=False):
                with suppress(FileNotFoundError):  # deleted meanwhile
                    yield StoredObject(path, entry.stat(follow_symlinks=False).st_size)

    def _remove_temporary_files(self, before: float) -> int:
        removed = 0
        for temporary in self._root.rglob(f"{RESERVED}*"):
            with suppress(FileNotFoundError):
                if temporary.stat().st_mtime < before:
                    temporary.unlink()
                    removed += 1
        return removed


def _next_of(found: Iterator[StoredObject], prefix: str) -> list[StoredObject]:
    with _translated(prefix):
        return list(islice(found, LISTED_AT_ONCE))


def _entries(directory: Path) -> Iterator[os.DirEntry[str]]:
    try:
        with os.scandir(directory) as entries:
            yield from entries
    except (FileNotFoundError, NotADirectoryError):
        return


def _make_directory(directory: Path) -> None:
    try:
        directory.mkdir(PRIVATE_DIRECTORY)
    except FileExistsError:
        if not directory.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR)) from None


def _write(temporary: Path, data: memoryview) -> None:
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, PRIVATE_FILE)
    try:
        while data.nbytes:
            data = data[os.write(descriptor, data) :]
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _sync(descriptor)
    finally:
        os.close(descriptor)


def _sync(descriptor: int) -> None:
    if sys.platform == "darwin":  # fsync() there leaves the bytes in the drive's cache
        import fcntl  # noqa: PLC0415 - used on this platform only

        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
    else:
        os.fsync(descriptor)


@contextmanager
def _translated(path: str) -> Iterator[None]:
    """The only place where errors of the operating system become ours."""
    try:
        yield
    except OSError as error:
        raise _meaning(error, path) from error


def _meaning(error: OSError, path: str) -> DuckMeshError:
    match error:
        case FileExistsError():
            return ObjectExists(f"the object {path!r} exists", path=path)
        case FileNotFoundError() | IsADirectoryError():
            return ObjectMissing(f"the object {path!r} is missing", path=path)
        case NotADirectoryError():
            return InvalidRequest(f"a folder of {path!r} is itself an object", path=path)
    reason = errno.errorcode.get(error.errno or 0, type(error).__name__)
    if reason in {"EPERM", "EOPNOTSUPP", "ENOTSUP", "EXDEV"}:
        reason += ", the file system may not support hard links"
    return Unavailable(f"the object store's disk refused {path!r}: {reason}", path=path, reason=reason)
