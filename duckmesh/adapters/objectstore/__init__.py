"""Object stores: a local directory, memory, and S3 through fsspec's s3fs.

Importing this package is cheap: s3fs and what it brings are imported when the first S3 store is made.
"""

from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path
from urllib.parse import SplitResult, unquote, urlsplit

from duckmesh.adapters.objectstore.local import LocalObjectStore
from duckmesh.adapters.objectstore.memory import MemoryObjectStore
from duckmesh.domain.errors import ConfigurationError
from duckmesh.ports.objectstore import ObjectStore, S3Access

__all__ = ["LocalObjectStore", "MemoryObjectStore", "open_store"]


def open_store(url: str, access: S3Access | None = None) -> AbstractAsyncContextManager[ObjectStore]:
    """The store that ``url`` names: a path, ``file:///path``, ``memory://`` or ``s3://bucket/prefix``.

    Raises `ConfigurationError` at once when the URL names none. Entering an S3 store opens its connections and
    asks the server nothing.
    """
    if "://" not in url:
        return nullcontext(LocalObjectStore(Path(url).expanduser()))
    parts = _split(url)
    match parts.scheme:
        case "file":
            return nullcontext(LocalObjectStore(_local_path(parts)))
        case "memory":
            return nullcontext(MemoryObjectStore())
        case "s3":
            return _s3(parts, access)
        case scheme:
            raise ConfigurationError(f"no object store is called {scheme!r}: use a path, file://, memory:// or s3://")


def _split(url: str) -> SplitResult:
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise ConfigurationError("credentials do not belong in the object store's URL: set them as secrets")
    if parts.query or parts.fragment:
        raise ConfigurationError("the object store's URL takes no '?' and no '#'")
    return parts


def _local_path(parts: SplitResult) -> Path:
    if parts.netloc not in {"", "localhost"} or not parts.path:
        raise ConfigurationError("a file URL has three slashes and an absolute path: file:///var/lib/duckmesh")
    return Path(unquote(parts.path))


def _s3(parts: SplitResult, access: S3Access | None) -> AbstractAsyncContextManager[ObjectStore]:
    if not parts.netloc:
        raise ConfigurationError("an S3 URL names a bucket: s3://bucket/prefix")
    if access is None:
        raise ConfigurationError(f"the bucket {parts.netloc!r} needs at least a region to be reached")
    from duckmesh.adapters.objectstore.s3 import S3ObjectStore  # noqa: PLC0415 - takes as long as all the rest

    return S3ObjectStore(parts.netloc, unquote(parts.path).strip("/"), access)
