"""The four ports: what DuckMesh asks of a log, a catalog, an object store and a query engine."""

from duckmesh.ports.bus import BusCapabilities, BusOptions, ClaimLimits, IngestBus, OpenBus
from duckmesh.ports.catalog import Catalog, CatalogEvent, SnapshotPublished, VisibilityDemanded
from duckmesh.ports.engine import EngineQuery, EngineResult, QueryEngine, QueryLimits, Relation, RelationFile
from duckmesh.ports.objectstore import LocationKind, ObjectLocation, ObjectStore, S3Access, StoredObject

__all__ = [
    "BusCapabilities",
    "BusOptions",
    "Catalog",
    "CatalogEvent",
    "ClaimLimits",
    "EngineQuery",
    "EngineResult",
    "IngestBus",
    "LocationKind",
    "ObjectLocation",
    "ObjectStore",
    "OpenBus",
    "QueryEngine",
    "QueryLimits",
    "Relation",
    "RelationFile",
    "S3Access",
    "SnapshotPublished",
    "StoredObject",
    "VisibilityDemanded",
]
