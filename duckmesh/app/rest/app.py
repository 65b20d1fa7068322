"""The Litestar application: routes, the gate in front of them, and errors as answers."""

from collections.abc import Mapping

from attrs import frozen
from litestar import Litestar
from litestar.exceptions import HTTPException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, ScalarRenderPlugin
from litestar.openapi.spec import Components, License, SecurityScheme

import duckmesh
from duckmesh.app.access.service import AccessService
from duckmesh.app.ingest.service import IngestService
from duckmesh.app.query.service import QueryService
from duckmesh.app.rest.context import gate
from duckmesh.app.rest.errors import on_bug, on_domain_error, on_http_error
from duckmesh.app.rest.ingest import ingest_routes
from duckmesh.app.rest.keys import key_routes
from duckmesh.app.rest.operations import Check, operations_routes
from duckmesh.app.rest.query import query_routes
from duckmesh.app.rest.snapshots import snapshot_routes
from duckmesh.app.rest.tables import table_routes
from duckmesh.app.tables.service import TableService
from duckmesh.app.telemetry.metrics import Metrics
from duckmesh.domain.errors import DuckMeshError
from duckmesh.ports.bus import IngestBus
from duckmesh.ports.catalog import Catalog


@frozen
class RestOptions:
    """``host_names`` are the hosts that are answered; None for any."""

    auth: bool = True
    host_names: frozenset[str] | None = None
    max_body_bytes: int = 64 * 1024 * 1024


@frozen
class RestServices:
    """The use cases that the API offers."""

    bus: IngestBus
    catalog: Catalog
    access: AccessService
    ingest: IngestService
    queries: QueryService
    tables: TableService
    metrics: Metrics
    checks: Mapping[str, Check]


def create_app(services: RestServices, options: RestOptions) -> Litestar:
    """The ASGI application. Services are open already; it opens nothing itself."""
    return Litestar(
        route_handlers=[
            *ingest_routes(services.ingest, services.metrics, options.max_body_bytes),
            *query_routes(services.queries, services.metrics),
            *table_routes(services.tables),
            *snapshot_routes(services.catalog, services.queries),
            *key_routes(services.access),
            *operations_routes(services.bus, services.catalog, services.metrics, services.checks),
        ],
        before_request=gate(services.access, auth=options.auth, host_names=options.host_names),
        exception_handlers={DuckMeshError: on_domain_error, HTTPException: on_http_error, Exception: on_bug},
        openapi_config=openapi_config(),
        # Bodies are bounded where they are read, with an answer in our own form.
        request_max_body_size=None,
        logging_config=None,
    )


def openapi_config() -> OpenAPIConfig:
    """What the OpenAPI document says of the API as a whole."""
    return OpenAPIConfig(
        title="DuckMesh",
        version=duckmesh.__version__,
        summary="Many writers, consistent snapshots and strict read-your-writes around DuckDB.",
        license=License(name="Apache-2.0", identifier="Apache-2.0"),
        path="/v1/docs",
        render_plugins=[ScalarRenderPlugin(), JsonRenderPlugin(path="/openapi.json")],
        components=Components(
            security_schemes={
                "bearer": SecurityScheme(type="http", scheme="bearer", description="An API key."),
                "key": SecurityScheme(type="apiKey", name="X-API-Key", security_scheme_in="header"),
            }
        ),
        security=[{"bearer": []}, {"key": []}],
        use_handler_docstrings=True,
    )
