"""The parts of a JSON body around the payloads."""

from typing import Annotated, Any, Final, Literal, TypeAlias

import msgspec
from msgspec import UNSET, Meta, Raw, UnsetType

from duckmesh.app.ingest.careful import refuse_repeated_tables
from duckmesh.app.ingest.problems import malformed
from duckmesh.app.ingest.values import INSTANT_WIRE
from duckmesh.domain.errors import InvalidRequest
from duckmesh.domain.idempotency import MAX_KEY_LENGTH

_Key: TypeAlias = Annotated[str, Meta(min_length=1, max_length=MAX_KEY_LENGTH)]
_Timeout: TypeAlias = Annotated[int, Meta(ge=0, le=2**31 - 1)]


def record_struct(payload: Any) -> Any:
    """One record around a payload of that type."""
    fields: list[Any] = [
        ("idempotency_key", _Key),
        ("payload", payload),
        ("op", Literal["insert", "upsert", "delete"] | UnsetType, UNSET),
        ("event_time", INSTANT_WIRE | None | UnsetType, UNSET),
    ]
    return msgspec.defstruct("Record", fields, forbid_unknown_fields=True, gc=False)


def request_struct(record: Any) -> Any:
    """A whole request of records of that type."""
    fields: list[Any] = [
        ("records", list[record]),
        ("wait_for_visibility", bool | UnsetType, UNSET),
        ("visibility_timeout_ms", _Timeout | None | UnsetType, UNSET),
    ]
    return msgspec.defstruct("Request", fields, forbid_unknown_fields=True, gc=False)


def records_struct(record: Any) -> Any:
    """The records of one table within a request for several."""
    return msgspec.defstruct("Records", [("records", list[record])], forbid_unknown_fields=True, gc=False)


class _TablesBody(msgspec.Struct, forbid_unknown_fields=True):
    tables: dict[str, Raw]
    wait_for_visibility: bool = False
    visibility_timeout_ms: _Timeout | None = None


_TABLES: Final = msgspec.json.Decoder(_TablesBody)


def split_tables(body: bytes) -> tuple[dict[str, Raw], bool, int | None]:
    """Take a body for several tables apart: records by table as JSON, whether to wait, and for how many ms.

    The records are for `RecordDecoder.decode_records`. Raises `InvalidRequest`.
    """
    try:
        found = _TABLES.decode(body)
    except msgspec.ValidationError as error:
        reason = str(error).replace("`", "")
        raise InvalidRequest(f"the body is not as expected: {reason}", reason=reason) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise malformed(error) from error
    if body.count(b'"records"') != len(found.tables):
        refuse_repeated_tables(body)
    return found.tables, found.wait_for_visibility, found.visibility_timeout_ms
