"""What a path may be: the same rules in every store, so that objects can be copied from one to another."""

from duckmesh.domain.errors import InvalidRequest

RESERVED = ".tmp-"  # names of files that are being written
MAX_PATH_BYTES = 900  # S3 allows 1,024 with the prefix
MAX_PART_BYTES = 240  # file systems allow 255


def checked_path(path: str) -> str:
    """The path itself; raises `InvalidRequest` unless it names an object inside the store."""
    _refuse_odd_characters(path)
    for part in path.split("/"):
        _check_part(path, part)
    return path


def checked_prefix(prefix: str) -> str:
    """The prefix itself: empty, a folder with its slash, or the start of a path."""
    _refuse_odd_characters(prefix)
    *folders, start = prefix.split("/")
    for part in folders:
        _check_part(prefix, part)
    if start == "..":
        raise InvalidRequest(f"a prefix stays inside the store: {prefix!r}")
    return prefix


def contiguous(data: bytes | memoryview) -> memoryview:
    """The bytes of a buffer whatever its item type, without a copy where it can be."""
    view = memoryview(data)
    if not view.nbytes:
        return memoryview(b"")
    return view.cast("B") if view.c_contiguous else memoryview(view.tobytes())


def _check_part(path: str, part: str) -> None:
    if part in {"", ".", ".."}:
        raise InvalidRequest(f"a path is relative, without empty parts, '.' and '..': {path!r}")
    if part.startswith(RESERVED):
        raise InvalidRequest(f"names that start with {RESERVED!r} are reserved: {path!r}")
    if len(part.encode()) > MAX_PART_BYTES:
        raise InvalidRequest(f"a part of a path has at most {MAX_PART_BYTES} bytes: {path!r}")


def _refuse_odd_characters(path: str) -> None:
    # Unpaired surrogates are not printable either. Some S3 servers read a backslash as a slash.
    if not path.isprintable() or "\\" in path:
        raise InvalidRequest(f"a path has printable characters only, and no backslash: {path!r}")
    if len(path.encode()) > MAX_PATH_BYTES:
        raise InvalidRequest(f"a path has at most {MAX_PATH_BYTES} bytes: {path[:MAX_PATH_BYTES]!r}")
