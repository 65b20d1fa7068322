"""A store in memory: the reference model, for tests and experiments.

It is a dictionary and not fsspec's memory file system: that one keeps all files of a process in one class
attribute, so stores would share a name space and nothing would ever be freed.
"""

from collections.abc import AsyncIterator
from datetime import timedelta

from duckmesh.adapters.objectstore.paths import checked_path, checked_prefix
from duckmesh.domain.errors import ObjectExists, ObjectMissing
from duckmesh.ports.objectstore import LocationKind, ObjectLocation, StoredObject


class MemoryObjectStore:
    """Objects that live as long as the store does; every store is a world of its own."""

    def __init__(self) -> None:
        self._objects: dict[str, bytes] = {}

    async def put(self, path: str, data: bytes | memoryview) -> StoredObject:
        """Create the object; raises `ObjectExists`."""
        if checked_path(path) in self._objects:
            raise ObjectExists(f"the object {path!r} exists", path=path)
        self._objects[path] = bytes(data)
        return StoredObject(path, len(self._objects[path]))

    async def get(self, path: str) -> bytes:
        """The whole object; raises `ObjectMissing`."""
        try:
            return self._objects[checked_path(path)]
        except KeyError as error:
            raise ObjectMissing(f"the object {path!r} is missing", path=path) from error

    async def stat(self, path: str) -> StoredObject | None:
        """The object's size, or None when it is not there."""
        data = self._objects.get(checked_path(path))
        return None if data is None else StoredObject(path, len(data))

    async def delete(self, path: str) -> None:
        """Remove the object; one that is not there is fine."""
        self._objects.pop(checked_path(path), None)

    async def list(self, prefix: str) -> AsyncIterator[StoredObject]:
        """All objects whose path starts with ``prefix``, as they were when the listing began."""
        start = checked_prefix(prefix)
        for path, data in tuple(self._objects.items()):
            if path.startswith(start):
                yield StoredObject(path, len(data))

    def locate(self, path: str) -> ObjectLocation:
        """Only through `get`."""
        return ObjectLocation(LocationKind.BYTES, f"memory://{checked_path(path)}")

    async def remove_leftovers(self, older_than: timedelta) -> int:  # noqa: ARG002 - the same call on every store
        """Nothing can be left over here."""
        return 0
