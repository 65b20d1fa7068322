"""The OpenAPI description of bodies that a handler reads raw and decodes by a msgspec struct."""

from dataclasses import dataclass
from typing import Any

import msgspec
from litestar.openapi.spec import OpenAPIMediaType, Operation, RequestBody

from duckmesh.app.rest.bodies import schema_of


def described_body(struct: type[msgspec.Struct]) -> type[Operation]:
    """The operation class of a handler whose JSON body is ``struct``."""
    (schema,), components = msgspec.json.schema_components([struct], ref_template="#/components/schemas/{name}")
    whole: dict[str, Any] = components[struct.__name__] if "$ref" in schema else schema
    content = {"application/json": OpenAPIMediaType(schema=schema_of(_documentable(whole)))}

    @dataclass
    class StructOperation(Operation):
        def __post_init__(self) -> None:
            self.request_body = RequestBody(content=content, required=True)

    return StructOperation


def _documentable(schema: dict[str, Any]) -> dict[str, Any]:
    """JSON schema without what OpenAPI's values do not carry."""
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if key in {"default", "title"}:
            continue
        if key == "anyOf":
            kept["any_of"] = [_as_schema(item) for item in value]
        elif key == "properties":
            kept[key] = {name: _documentable(inner) for name, inner in value.items()}
        else:
            kept[key] = value
    return kept


def _as_schema(item: dict[str, Any]) -> Any:
    return schema_of(_documentable(item))
