"""Schemathesis against the running server: whatever fits the document, or does not, gets an answer that fits it."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from duckmesh.app.rest.document import openapi_document


@pytest.fixture(scope="session")
def api_schema(live_server: Any) -> Any:
    schema = schemathesis.openapi.from_dict(openapi_document())
    schema.config.update(base_url=live_server.url)
    return schema


schema = schemathesis.pytest.from_fixture("api_schema")


@pytest.mark.timeout(300)
@schema.parametrize()
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
def test_every_call_answers_as_its_document_says(case: Any, live_server: Any) -> None:
    response = case.call(headers={"Authorization": f"Bearer {live_server.api_key}"}, timeout=60)
    case.validate_response(
        response,
        checks=[
            not_a_server_error,
            status_code_conformance,
            content_type_conformance,
            response_schema_conformance,
        ],
    )
