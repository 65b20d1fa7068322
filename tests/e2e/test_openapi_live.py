"""Schemathesis against the running server: whatever fits the document, or does not, gets an answer that fits it."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from duckmesh.app.rest.document import openapi_document

CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
OPERATIONS = {
    found.ok().label: found.ok() for found in schemathesis.openapi.from_dict(openapi_document()).get_all_operations()
}


@pytest.mark.timeout(300)
@pytest.mark.parametrize("mode", list(GenerationMode), ids=lambda mode: mode.value)
@pytest.mark.parametrize("label", sorted(OPERATIONS))
def test_every_call_answers_as_its_document_says(label: str, mode: GenerationMode, live_server: Any) -> None:
    @given(case=OPERATIONS[label].as_strategy(generation_mode=mode))
    @settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
    def answers(case: Any) -> None:
        headers = {"Authorization": f"Bearer {live_server.api_key}"}
        response = case.call(base_url=live_server.url, headers=headers, timeout=60)
        case.validate_response(response, checks=CHECKS)

    answers()
