"""What the S3 driver's errors mean: the only place that knows them."""

import aiohttp
from botocore.exceptions import (  # type: ignore[import-untyped]  # it ships no type information
    BotoCoreError,
    ClientError,
    FlexibleChecksumError,
    HTTPClientError,
)
from botocore.parsers import ResponseParserError  # type: ignore[import-untyped]

from duckmesh.domain.errors import DuckMeshError, ObjectExists, ObjectMissing, Unavailable

DRIVER_ERRORS = (ClientError, BotoCoreError, ResponseParserError, aiohttp.ClientError, OSError)

ChecksumMismatch = FlexibleChecksumError

# Answers that may differ the next time although their status does not say so.
_TRANSIENT_CODES = frozenset(
    {
        "BadDigest",  # damaged on the way
        "XAmzContentSHA256Mismatch",
        "ConditionalRequestConflict",  # two creators at the same moment
        "OperationAborted",
        "RequestTimeout",
        "SlowDown",
    }
)
_TRANSIENT_STATUS = frozenset({408, 425, 429, 500, 502, 503, 504})
_TRANSIENT_ERRORS = (HTTPClientError, FlexibleChecksumError, ResponseParserError, aiohttp.ClientError, OSError)

_REFUSED = frozenset(
    {
        "PreconditionFailed",
        "412",
        "NoSuchUpload",  # completed by a request whose answer was lost, or cleaned away
    }
)


def is_transient(error: Exception) -> bool:
    """Whether the same request may succeed later."""
    if isinstance(error, ClientError):
        return code_of(error) in _TRANSIENT_CODES or _status_of(error) in _TRANSIENT_STATUS
    return isinstance(error, _TRANSIENT_ERRORS)


def translated(error: Exception, path: str) -> DuckMeshError:
    """The error of ours that a driver's error means."""
    code = code_of(error)
    if code in _REFUSED:
        return ObjectExists(f"the object {path!r} exists", path=path)
    if code in {"NoSuchKey", "404"}:
        return ObjectMissing(f"the object {path!r} is missing", path=path)
    return Unavailable(f"the object store failed for {path!r}: {code}", path=path, reason=code)


def code_of(error: Exception) -> str:
    """The server's code, or the name of the driver's error; never its text, which may hold request headers."""
    if isinstance(error, ClientError):
        return str(error.response.get("Error", {}).get("Code", "unknown"))
    return type(error).__name__


def _status_of(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
