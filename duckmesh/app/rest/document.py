"""The OpenAPI document, made from the handlers: ``python -m duckmesh.app.rest.document > docs/openapi.json``."""

import json
import sys
from typing import Any, cast

from duckmesh.app.rest.app import RestOptions, RestServices, create_app
from duckmesh.app.telemetry.metrics import Metrics


def openapi_document() -> dict[str, Any]:
    """The document as JSON values. The handlers are made, never called, so no service stands behind them."""
    absent = cast(Any, None)
    services = RestServices(absent, absent, absent, absent, absent, absent, Metrics(), {})
    app = create_app(services, RestOptions())
    document: dict[str, Any] = json.loads(json.dumps(app.openapi_schema.to_schema()))
    return document


if __name__ == "__main__":
    sys.stdout.write(json.dumps(openapi_document(), indent=2, sort_keys=True) + "\n")
