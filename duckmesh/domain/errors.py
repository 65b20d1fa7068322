"""The error tree: every failure that a caller can meet, with its stable code.

An error says what happened, where, and what to do next. ``context`` is structured so that a client can
retry without parsing the message. The source of the codes is section 3 and 4 of the contract.
"""

from collections.abc import Iterator, Mapping
from enum import Enum
from typing import Any, ClassVar


class ErrorKind(Enum):
    """What class of failure an error is; a transport maps it to its own status."""

    INVALID = "invalid"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    NOT_FOUND = "not_found"
    CONFLICT = "conflict"
    TOO_LARGE = "too_large"
    UNSUPPORTED_MEDIA = "unsupported_media"
    QUERY_TIMEOUT = "query_timeout"
    UNPROCESSABLE = "unprocessable"
    OVERLOADED = "overloaded"
    UNAVAILABLE = "unavailable"
    DEADLINE = "deadline"
    INTERNAL = "internal"


class DuckMeshError(Exception):
    """Base of all errors. ``code`` is stable, ``retryable`` says whether the same request may succeed later."""

    code: ClassVar[str] = "INTERNAL_ERROR"
    kind: ClassVar[ErrorKind] = ErrorKind.INTERNAL
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, **context: Any) -> None:
        super().__init__(message)
        self.message = message
        self.context: dict[str, Any] = context


# Requests that can never succeed as they are.


class InvalidRequest(DuckMeshError):
    """The request is malformed, or says two things at once."""

    code = "INVALID_REQUEST"
    kind = ErrorKind.INVALID


class InvalidName(InvalidRequest):
    """A name of a tenant, table or column is not allowed."""

    code = "INVALID_NAME"


class InvalidSchema(InvalidRequest):
    """A ``schema_json`` cannot be a table."""

    code = "INVALID_SCHEMA"


class ValidationFailed(InvalidRequest):
    """A payload does not fit the table's schema; context names ``record``, ``column`` and ``reason``."""

    code = "VALIDATION_FAILED"


class PrimaryKeyRequired(InvalidRequest):
    """``upsert`` or ``delete`` was sent to a table without a primary key."""

    code = "PRIMARY_KEY_REQUIRED"


class PayloadTooLarge(DuckMeshError):
    """The body, or a part of it, is over a limit; context names ``limit``."""

    code = "PAYLOAD_TOO_LARGE"
    kind = ErrorKind.TOO_LARGE


class UnsupportedMediaType(DuckMeshError):
    """The body's content type is none that this call reads."""

    code = "UNSUPPORTED_MEDIA_TYPE"
    kind = ErrorKind.UNSUPPORTED_MEDIA


class Unauthenticated(DuckMeshError):
    """No credential, or one that is not valid."""

    code = "UNAUTHENTICATED"
    kind = ErrorKind.UNAUTHENTICATED


class PermissionDenied(DuckMeshError):
    """The credential lacks the role; context names ``required_roles``."""

    code = "PERMISSION_DENIED"
    kind = ErrorKind.FORBIDDEN


class NotFound(DuckMeshError):
    """Nothing of that name."""

    code = "NOT_FOUND"
    kind = ErrorKind.NOT_FOUND


class TableNotFound(NotFound):
    """The tenant has no table of that name (now, or in that snapshot)."""

    code = "TABLE_NOT_FOUND"


class TenantNotFound(NotFound):
    """The deployment has no tenant of that name."""

    code = "TENANT_NOT_FOUND"


class SnapshotNotFound(NotFound):
    """The tenant has no such snapshot, or it has expired."""

    code = "SNAPSHOT_NOT_FOUND"


class TableExists(DuckMeshError):
    """A table of that name exists already."""

    code = "TABLE_EXISTS"
    kind = ErrorKind.CONFLICT


class TenantExists(DuckMeshError):
    """A tenant of that name exists already."""

    code = "TENANT_EXISTS"
    kind = ErrorKind.CONFLICT


class IncompatibleSchema(DuckMeshError):
    """A schema change is not allowed by the table's compatibility mode; context lists ``problems``."""

    code = "SCHEMA_INCOMPATIBLE"
    kind = ErrorKind.CONFLICT


class SchemaChanged(DuckMeshError):
    """The schema moved between validation and the log; the write must be validated again."""

    code = "SCHEMA_CHANGED"
    kind = ErrorKind.CONFLICT
    retryable = True


class IdempotencyConflict(DuckMeshError):
    """The same idempotency key came with other content; context names table, record and key."""

    code = "IDEMPOTENCY_CONFLICT"
    kind = ErrorKind.CONFLICT


# Consistency (contract, section 3).


class VisibilityTokenInvalid(InvalidRequest):
    """A token that is not positive or lies beyond the head: waiting can never reach it."""

    code = "VISIBILITY_TOKEN_INVALID"


class TokenScopeMismatch(DuckMeshError):
    """A token or scope of another tenant or of another incarnation of the log."""

    code = "TOKEN_SCOPE_MISMATCH"
    kind = ErrorKind.CONFLICT


class ConsistencyTimeout(DuckMeshError):
    """The watermark did not reach the required token in time; the write is durable all the same."""

    code = "CONSISTENCY_TIMEOUT"
    kind = ErrorKind.DEADLINE
    retryable = True


class WriteParked(DuckMeshError):
    """Writes that the query requires could not be materialised; context names them."""

    code = "WRITE_PARKED"
    kind = ErrorKind.CONFLICT


# Queries.


class SqlInvalid(InvalidRequest):
    """The SQL does not parse, or names something that is not there."""

    code = "SQL_INVALID"


class SqlNotAllowed(InvalidRequest):
    """The SQL is not one SELECT, or reaches for something outside the snapshot."""

    code = "SQL_NOT_ALLOWED"


class SqlExecutionFailed(InvalidRequest):
    """The SQL is sound but failed on the data: a cast, an overflow, a division."""

    code = "SQL_EXECUTION_FAILED"


class QueryTimeout(DuckMeshError):
    """The query ran past its time limit."""

    code = "QUERY_TIMEOUT"
    kind = ErrorKind.QUERY_TIMEOUT


class QueryResourceExceeded(DuckMeshError):
    """The query wanted more memory, disk or result than it may have."""

    code = "QUERY_RESOURCE_EXCEEDED"
    kind = ErrorKind.UNPROCESSABLE


# Infrastructure.


class Overloaded(DuckMeshError):
    """Shed early; try again after ``retry_after_s``."""

    code = "OVERLOADED"
    kind = ErrorKind.OVERLOADED
    retryable = True


class Unavailable(DuckMeshError):
    """A dependency does not answer; the same request may succeed later."""

    code = "UNAVAILABLE"
    kind = ErrorKind.UNAVAILABLE
    retryable = True


class OutcomeUnknown(Unavailable):
    """The connection broke while a commit was under way; a retry with the same keys is safe."""

    code = "OUTCOME_UNKNOWN"


class ObjectMissing(Unavailable):
    """An object that the catalog names is not in the object store."""

    code = "OBJECT_MISSING"


class ObjectExists(DuckMeshError):
    """Create-if-absent found an object of that path."""

    code = "OBJECT_EXISTS"
    kind = ErrorKind.CONFLICT


class DataCorrupt(DuckMeshError):
    """An object or a log entry does not match its checksum or cannot be decoded."""

    code = "DATA_CORRUPT"
    kind = ErrorKind.UNAVAILABLE


# Coordination: never sent to a caller, decided by the coordinator.


class StaleEpoch(DuckMeshError):
    """A higher fencing epoch has been recorded: another coordinator took over."""

    code = "STALE_EPOCH"
    kind = ErrorKind.CONFLICT


class PublicationConflict(DuckMeshError):
    """The catalog moved since the publication was planned; plan again."""

    code = "PUBLICATION_CONFLICT"
    kind = ErrorKind.CONFLICT
    retryable = True


class LeaseLost(DuckMeshError):
    """The lease ran out or was taken by another holder."""

    code = "LEASE_LOST"
    kind = ErrorKind.CONFLICT


class ConfigurationError(DuckMeshError):
    """A setting is missing or wrong; the message is one line and says which."""

    code = "CONFIGURATION_ERROR"
    kind = ErrorKind.INVALID


def all_errors(base: type[DuckMeshError] = DuckMeshError) -> Iterator[type[DuckMeshError]]:
    """Every error class of the tree, the base first."""
    yield base
    for child in base.__subclasses__():
        yield from all_errors(child)


def error_of(code: str, message: str, context: Mapping[str, Any]) -> DuckMeshError:
    """The error of that code, as it was stored or sent by another process."""
    kind = next((kind for kind in all_errors() if kind.code == code), DuckMeshError)
    return kind(message, **context)
