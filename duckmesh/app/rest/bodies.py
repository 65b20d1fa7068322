"""Raw bodies within a limit, and how they are described in the OpenAPI document."""

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, Final

import msgspec
from litestar import Request, Response
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody, Schema

from duckmesh.app.rest.errors import ErrorBody
from duckmesh.domain.errors import InvalidRequest, PayloadTooLarge


async def body_of(request: Request[Any, Any, Any], limit: int) -> bytes:
    """The whole body; refused as soon as it is over ``limit`` bytes, whatever its header says."""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > limit:
        raise _too_large(limit)
    chunks: list[bytes] = []
    received = 0
    async for chunk in request.stream():
        received += len(chunk)
        if received > limit:
            raise _too_large(limit)
        chunks.append(chunk)
    return b"".join(chunks)


def json_answer(body: object, status: int = 200) -> Response[bytes]:
    """A value as the JSON body of an answer."""
    return Response(msgspec.json.encode(body), media_type="application/json", status_code=status)


def answer(body: type, description: str, media_type: str = "application/json") -> ResponseSpec:
    """One answer of a call, for the OpenAPI document."""
    return ResponseSpec(body, generate_examples=False, description=description, media_type=media_type)


def _too_large(limit: int) -> PayloadTooLarge:
    return PayloadTooLarge(f"the body is over the limit of {limit} bytes; send it in parts", limit=limit)


def optional_flag(name: str, value: str | None) -> bool:
    """A boolean query parameter; raises `InvalidRequest`."""
    if value is None or value.lower() in {"false", "0"}:
        return False
    if value.lower() in {"true", "1", ""}:
        return True
    raise InvalidRequest(f"{name} must be true or false")


_RECORD: Final = {
    "type": "object",
    "required": ["idempotency_key", "payload"],
    "additionalProperties": False,
    "properties": {
        "idempotency_key": {"type": "string", "minLength": 1, "maxLength": 255},
        "op": {"type": "string", "enum": ["insert", "upsert", "delete"]},
        "payload": {"type": "object", "description": "The row: column name to value."},
        "event_time": {"type": "string", "format": "date-time"},
    },
}
_RECORDS: Final = {"type": "array", "minItems": 1, "items": _RECORD}
_WAIT: Final = {
    "wait_for_visibility": {"type": "boolean"},
    "visibility_timeout_ms": {"type": "integer", "minimum": 0, "maximum": 300_000},
}
_BODIES: Final[Mapping[str, Mapping[str, Any]]] = {
    "records": {
        "application/json": {
            "type": "object",
            "required": ["records"],
            "additionalProperties": False,
            "properties": {"records": _RECORDS, **_WAIT},
        },
        "application/vnd.apache.arrow.stream": {"type": "string", "format": "binary"},
    },
    "tables": {
        "application/json": {
            "type": "object",
            "required": ["tables"],
            "additionalProperties": False,
            "properties": {
                "tables": {
                    "type": "object",
                    "minProperties": 1,
                    "additionalProperties": {
                        "type": "object",
                        "required": ["records"],
                        "additionalProperties": False,
                        "properties": {"records": _RECORDS},
                    },
                },
                **_WAIT,
            },
        }
    },
}


def schema_of(raw: Mapping[str, Any]) -> Schema:
    """A JSON schema as Litestar's value."""
    names = {
        "additionalProperties": "additional_properties", "minLength": "min_length", "maxLength": "max_length",
        "minItems": "min_items", "minProperties": "min_properties",
    }  # fmt: skip
    values: dict[str, Any] = {names.get(key, key): deepcopy(value) for key, value in raw.items()}
    if isinstance(values.get("properties"), Mapping):
        values["properties"] = {name: schema_of(inner) for name, inner in values["properties"].items()}
    for key in ("items", "additional_properties"):
        if isinstance(values.get(key), Mapping):
            values[key] = schema_of(values[key])
    return Schema(**values)


class _Documented:
    """Makes the operation class of a handler that reads its body raw."""

    def __call__(self, body: str) -> type[Operation]:
        content = {kind: OpenAPIMediaType(schema=schema_of(schema)) for kind, schema in _BODIES[body].items()}

        @dataclass
        class RawBodyOperation(Operation):
            def __post_init__(self) -> None:
                self.request_body = RequestBody(content=content, required=True)

        return RawBodyOperation

    @staticmethod
    def receipts(body: type) -> dict[int, ResponseSpec]:
        """The answers of an ingest call."""
        return {200: answer(body, "Durable; visible when it waited."), **error_specs(
            400, 401, 403, 404, 409, 413, 415, 429, 503, 504
        )}  # fmt: skip


documented = _Documented()

_MEANINGS: Final = {
    400: "The request is wrong; the message says where.",
    401: "No valid credential.",
    403: "The credential may not do this.",
    404: "Nothing of that name.",
    405: "Not with this method.",
    408: "The query ran past its time limit.",
    409: "In conflict with what is there.",
    413: "Over a size limit.",
    415: "A content type that is not read here.",
    422: "The query wanted more than it may have.",
    429: "Too much at once; see Retry-After.",
    503: "A dependency is away; see Retry-After.",
    504: "Not visible in time; the write is durable.",
}


def error_specs(*statuses: int) -> dict[int, ResponseSpec]:
    """The error answers of a call, for the OpenAPI document."""
    return {status: answer(ErrorBody, _MEANINGS[status]) for status in statuses}
