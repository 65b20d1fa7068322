"""`ObjectStore`: immutable objects by path."""

from collections.abc import AsyncIterator
from enum import Enum
from typing import Protocol, runtime_checkable

from attrs import field, frozen


class LocationKind(Enum):
    """How an engine reaches an object by itself."""

    FILE = "file"
    S3 = "s3"
    BYTES = "bytes"


@frozen
class ObjectLocation:
    """Where a native reader finds an object: a file's absolute path, an ``s3://`` URL, or only through `get`."""

    kind: LocationKind
    uri: str


@frozen
class S3Access:
    """What a native reader needs to reach the bucket; kept out of logs and errors."""

    endpoint: str | None
    region: str
    access_key_id: str | None = field(default=None, repr=False)
    secret_access_key: str | None = field(default=None, repr=False)
    session_token: str | None = field(default=None, repr=False)
    url_style: str = "path"


@frozen
class StoredObject:
    """An object that is there; ``size`` in bytes."""

    path: str
    size: int


@runtime_checkable
class ObjectStore(Protocol):
    """Objects are created once and never overwritten; paths are relative, with ``/`` between parts."""

    async def put(self, path: str, data: bytes | memoryview) -> StoredObject:
        """Create the object, durable when this returns; raises `ObjectExists` when the path is taken.

        Readers see all of it or nothing. Raises `Unavailable` when the store does not answer, after which the
        object may exist.
        """
        ...

    async def get(self, path: str) -> bytes:
        """The whole object; raises `ObjectMissing`."""
        ...

    async def stat(self, path: str) -> StoredObject | None:
        """The object's size, or None when it is not there."""
        ...

    async def delete(self, path: str) -> None:
        """Remove the object; one that is not there is fine."""
        ...

    def list(self, prefix: str) -> AsyncIterator[StoredObject]:
        """All objects whose path starts with ``prefix``, a folder or the start of a name."""
        ...

    def locate(self, path: str) -> ObjectLocation:
        """Where a native reader finds the object."""
        ...
