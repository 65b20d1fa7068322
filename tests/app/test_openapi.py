"""The committed OpenAPI document is the one that the handlers make."""

import json
from pathlib import Path

from duckmesh.app.rest.document import openapi_document

DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.json"


def test_the_committed_document_is_current() -> None:
    committed = json.loads(DOCUMENT.read_text())
    assert committed == openapi_document(), "run `python -m duckmesh.app.rest.document > docs/openapi.json`"


def test_every_call_says_how_it_fails() -> None:
    for path, calls in openapi_document()["paths"].items():
        for method, call in calls.items():
            if path in {"/v1/health", "/v1/ready", "/v1/metrics"}:
                continue
            assert {"401", "403", "503"} <= set(call["responses"]), f"{method} {path}"
            for status, answer in call["responses"].items():
                if int(status) >= 400:
                    schema = answer["content"]["application/json"]["schema"]
                    assert schema == {"$ref": "#/components/schemas/ErrorBody"}


def test_bodies_that_are_read_raw_are_described() -> None:
    paths = openapi_document()["paths"]
    body = paths["/v1/ingest/{table}"]["post"]["requestBody"]["content"]
    assert {"application/json", "application/vnd.apache.arrow.stream"} <= set(body)
    assert "sql" in paths["/v1/query"]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]
