"""Tables and bodies for the tests of decoding."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pytest

from duckmesh.app.ingest.decoder import DecodedRecords, RecordDecoder
from duckmesh.domain.errors import DuckMeshError
from duckmesh.domain.schema import SchemaMode, first_schema, parse_specs
from duckmesh.domain.tables import TableDefinition

NOW = datetime(2024, 6, 1, 12, tzinfo=UTC)


def table(
    schema_json: Mapping[str, Any], key: Sequence[str] = (), mode: SchemaMode = SchemaMode.STRICT
) -> TableDefinition:
    return TableDefinition("t1", "events", first_schema(parse_specs(schema_json), key), schema_mode=mode)


def decoder_of(
    schema_json: Mapping[str, Any], key: Sequence[str] = (), mode: SchemaMode = SchemaMode.STRICT
) -> RecordDecoder:
    return RecordDecoder(table(schema_json, key, mode), "acme")


def body_of(*payloads: str, **record: Any) -> bytes:
    """A body with payloads as JSON text; ``record`` adds members to every record."""
    extra = "".join(f",{json.dumps(name)}:{json.dumps(value)}" for name, value in record.items())
    records = [f'{{"idempotency_key":"k{n}","payload":{text}{extra}}}' for n, text in enumerate(payloads)]
    return f'{{"records":[{",".join(records)}]}}'.encode()


def decoded(schema_json: Mapping[str, Any], *payloads: str, **record: Any) -> DecodedRecords:
    return decoder_of(schema_json).decode(body_of(*payloads, **record)).records


def stored(type_text: str, value: str) -> Any:
    """What a column of that type holds after a JSON value came in, as Arrow gives it back."""
    decoder = decoder_of({"c": type_text})
    records = decoder.decode(body_of(f'{{"c":{value}}}')).records
    batch = decoder.batch([records], NOW)
    batch.validate(full=True)
    return batch.column(0)[0].as_py()


def content(type_text: str, value: str) -> bytes:
    return decoded({"c": type_text}, f'{{"c":{value}}}').content_ids[0]


def refusal(decode: Any, *arguments: Any, **named: Any) -> DuckMeshError:
    """The error that the call raises."""
    with pytest.raises(DuckMeshError) as caught:
        decode(*arguments, **named)
    return caught.value
