"""The composition: the only file that names concrete adapters.

Connections are opened in one `AsyncExitStack` and handed on as plain objects; every provider is synchronous.
"""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from importlib.metadata import entry_points
from typing import Final

from attrs import frozen
from dependency_injector import containers, providers

from duckmesh.adapters.duckdb import DuckDbEngine
from duckmesh.adapters.memory import MemoryBus, MemoryCatalog
from duckmesh.adapters.objectstore import MemoryObjectStore, open_store
from duckmesh.adapters.postgres import open_catalog
from duckmesh.adapters.postgres.migrate import require_current
from duckmesh.app.access.service import AccessService
from duckmesh.app.coordinator.service import Coordinator, CoordinatorOptions
from duckmesh.app.coordinator.telemetry import CommitTelemetry
from duckmesh.app.ingest.committer import GroupCommitter
from duckmesh.app.ingest.defaults import default_scalar
from duckmesh.app.ingest.service import IngestOptions, IngestService
from duckmesh.app.query.barrier import VisibilityBarrier
from duckmesh.app.query.scope import Scopes
from duckmesh.app.query.service import QueryOptions, QueryService
from duckmesh.app.settings import MAX_CONSISTENCY_TIMEOUT_MS, Settings
from duckmesh.app.tables.known import KnownTables
from duckmesh.app.tables.service import TableService
from duckmesh.app.telemetry.metrics import Metrics
from duckmesh.domain.errors import ConfigurationError
from duckmesh.ports.bus import BusOptions, ClaimLimits, IngestBus, OpenBus
from duckmesh.ports.catalog import Catalog
from duckmesh.ports.engine import QueryEngine, QueryLimits
from duckmesh.ports.objectstore import ObjectStore, S3Access

BUS_GROUP: Final = "duckmesh.ingest_bus"


@frozen(eq=False)
class Adapters:
    """The four driven adapters of a process, open."""

    bus: IngestBus
    catalog: Catalog
    store: ObjectStore
    engine: QueryEngine


def _claim_limits(settings: Settings) -> ClaimLimits:
    return ClaimLimits(max_records=settings.coordinator.flush_max_records)


def _coordinator_options(settings: Settings) -> CoordinatorOptions:
    return CoordinatorOptions(
        _claim_limits(settings),
        settings.coordinator.flush_interval_ms / 1000,
        settings.coordinator.poll_interval_ms / 1000,
    )


def _ingest_options(settings: Settings) -> IngestOptions:
    return IngestOptions(
        settings.ingest.max_records_per_request,
        settings.ingest.max_pending_records,
        settings.query.consistency_timeout_ms / 1000,
        MAX_CONSISTENCY_TIMEOUT_MS / 1000,
    )


def _query_options(settings: Settings) -> QueryOptions:
    limits = QueryLimits(
        timeout_s=settings.query.timeout_ms / 1000,
        max_rows=settings.query.max_rows,
        memory_bytes=settings.query.memory_bytes,
        threads=settings.query.threads,
    )
    return QueryOptions(limits, settings.query.consistency_timeout_ms / 1000, MAX_CONSISTENCY_TIMEOUT_MS / 1000)


class Container(containers.DeclarativeContainer):
    """Use cases over open adapters."""

    settings = providers.Dependency(instance_of=Settings)
    adapters = providers.Dependency(instance_of=Adapters)

    bus = adapters.provided.bus
    catalog = adapters.provided.catalog
    store = adapters.provided.store
    engine = adapters.provided.engine

    metrics = providers.Singleton(Metrics, settings.provided.telemetry.metrics_max_tenants)
    barrier = providers.Singleton(VisibilityBarrier, catalog)
    scopes = providers.Singleton(Scopes, bus)
    committer = providers.Singleton(GroupCommitter, bus)
    known_tables = providers.Singleton(KnownTables, catalog)
    access = providers.Singleton(AccessService, catalog)
    tables = providers.Singleton(TableService, catalog, committer, known_tables, barrier)
    ingest = providers.Singleton(
        IngestService,
        bus,
        catalog,
        committer,
        known_tables,
        tables,
        barrier,
        scopes,
        providers.Factory(_ingest_options, settings),
    )
    queries = providers.Singleton(
        QueryService,
        bus,
        catalog,
        store,
        engine,
        barrier,
        scopes,
        providers.Factory(_query_options, settings),
    )
    commit_telemetry = providers.Singleton(CommitTelemetry, metrics)
    coordinator = providers.Singleton(
        Coordinator,
        bus,
        catalog,
        store,
        default_of=providers.Object(default_scalar),
        options=providers.Factory(_coordinator_options, settings),
        on_commit=commit_telemetry.provided.committed,
        on_failure=commit_telemetry.provided.failed,
    )


def compose(settings: Settings, adapters: Adapters) -> Container:
    """A container over these adapters."""
    return Container(settings=providers.Object(settings), adapters=providers.Object(adapters))


@asynccontextmanager
async def open_adapters(settings: Settings) -> AsyncIterator[Adapters]:
    """The adapters that the settings name; raises `ConfigurationError` for what they cannot work with."""
    dsn = _dsn(settings)
    listen = settings.postgres.listen_dsn.get_secret_value() if settings.postgres.listen_dsn else dsn
    await require_current(dsn)
    access = s3_access(settings)
    async with AsyncExitStack() as stack:
        postgres = settings.postgres
        catalog = await stack.enter_async_context(
            open_catalog(dsn, listen_dsn=listen, pool_size=postgres.pool_size, prepared=postgres.prepared_statements)
        )
        options = BusOptions(
            dsn, listen, settings.coordinator.lease_ttl_s, postgres.pool_size, postgres.prepared_statements, catalog,
            dict(os.environ),
        )  # fmt: skip
        bus = await stack.enter_async_context(bus_opener(settings.ingest.bus)(options))
        store = await stack.enter_async_context(open_store(settings.object_store_url, access))
        engine = _engine(settings, store, access)
        if "api" in settings.roles:  # nobody else queries, and its instances take time and memory
            await stack.enter_async_context(engine)
        yield Adapters(bus, catalog, store, engine)


@asynccontextmanager
async def memory_adapters(settings: Settings) -> AsyncIterator[Adapters]:
    """Adapters that keep everything in memory, for tests and for trying out."""
    store = MemoryObjectStore()
    async with _engine(settings, store, None) as engine:
        yield Adapters(MemoryBus(), MemoryCatalog(), store, engine)


def _engine(settings: Settings, store: ObjectStore, access: S3Access | None) -> DuckDbEngine:
    on_s3 = settings.object_store_url.startswith("s3://")
    return DuckDbEngine(max_concurrency=settings.query.concurrency, fetch=store.get, s3=access if on_s3 else None)


def _dsn(settings: Settings) -> str:
    if settings.postgres.dsn is None:
        raise ConfigurationError("DUCKMESH_POSTGRES_DSN is missing: name the Postgres database, or use `duckmesh up`")
    return str(settings.postgres.dsn.get_secret_value())


def s3_access(settings: Settings) -> S3Access:
    """How S3 is reached."""
    store = settings.object_store
    secret = store.s3_secret_access_key
    return S3Access(
        store.s3_endpoint, store.s3_region, store.s3_access_key_id, secret.get_secret_value() if secret else None
    )


def bus_opener(name: str) -> OpenBus:
    """The function that opens the bus of that name, from the entry points of all installed packages."""
    found = entry_points(group=BUS_GROUP)
    if name not in found.names:
        known = ", ".join(sorted(found.names)) or "none"
        raise ConfigurationError(f"DUCKMESH_INGEST_BUS: no installed package brings the bus {name!r}; known: {known}")
    opener: OpenBus = found[name].load()
    return opener
