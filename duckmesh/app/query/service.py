"""From a question to rows of exactly one snapshot.

A query is fresh enough or fails: with a token it runs on a snapshot whose watermark covers the token, and never
on less (contract, promises 1 and 7).
"""

import time
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from attrs import evolve as changed
from attrs import field, frozen

from duckmesh.app.query.barrier import VisibilityBarrier
from duckmesh.app.query.scope import Scopes
from duckmesh.domain.errors import InvalidRequest, TokenScopeMismatch, WriteParked
from duckmesh.domain.names import fold
from duckmesh.domain.snapshots import Manifest, Snapshot
from duckmesh.domain.tokens import check_requirement
from duckmesh.ports.bus import IngestBus
from duckmesh.ports.catalog import Catalog
from duckmesh.ports.engine import EngineQuery, EngineResult, QueryEngine, QueryLimits, Relation, RelationFile
from duckmesh.ports.objectstore import ObjectStore

_MAX_MANIFESTS: Final = 256


@frozen
class Freshness:
    """Which snapshot a query asks for: at most one of the three selectors; none is the latest."""

    snapshot_id: int | None = None
    snapshot_time: datetime | None = None
    min_visibility_token: int | None = None
    visibility_scope: str | None = None
    timeout_s: float | None = None
    allow_parked: bool = False

    def check(self) -> None:
        """Refuse contradictions; raises `InvalidRequest`."""
        named = {
            "snapshot_id": self.snapshot_id,
            "snapshot_time": self.snapshot_time,
            "min_visibility_token": self.min_visibility_token,
        }
        given = [name for name, value in named.items() if value is not None]
        if len(given) > 1:
            raise InvalidRequest(f"{' and '.join(given)} contradict each other; give at most one", selectors=given)
        if self.snapshot_time is not None and self.snapshot_time.tzinfo is None:
            raise InvalidRequest("snapshot_time needs a time zone, such as 2026-01-31T12:00:00Z")


@frozen(eq=False)
class Answer:
    """Rows with the snapshot that they come from."""

    result: EngineResult
    snapshot: Snapshot
    scope: str
    waited_ms: float


@frozen
class QueryOptions:
    """Defaults and upper bounds of what a request may ask for."""

    limits: QueryLimits = field(factory=QueryLimits)
    default_consistency_s: float = 10.0
    max_consistency_s: float = 300.0


class QueryService:
    """Resolves a snapshot, binds its files, runs the SQL."""

    def __init__(
        self,
        bus: IngestBus,
        catalog: Catalog,
        store: ObjectStore,
        engine: QueryEngine,
        barrier: VisibilityBarrier,
        scopes: Scopes,
        options: QueryOptions,
    ) -> None:
        self._bus = bus
        self._catalog = catalog
        self._store = store
        self._engine = engine
        self._barrier = barrier
        self._scopes = scopes
        self._options = options
        self._bound: OrderedDict[tuple[str, int], tuple[Manifest, tuple[Relation, ...]]] = OrderedDict()

    async def query(
        self,
        tenant: str,
        sql: str,
        *,
        parameters: Sequence[Any] | Mapping[str, Any] | None = None,
        freshness: Freshness | None = None,
        row_limit: int | None = None,
        timeout_s: float | None = None,
    ) -> Answer:
        """Run one SELECT on the snapshot that ``freshness`` names."""
        freshness = freshness or Freshness()
        freshness.check()
        started = time.monotonic()
        manifest, relations = await self._resolve(tenant, freshness, sql)
        waited = time.monotonic() - started
        limits = self._limits(row_limit, timeout_s)
        result = await self._engine.execute(EngineQuery(sql, relations, parameters, limits))
        scope = await self._scopes.scope(tenant)
        return Answer(result, manifest.snapshot, scope, waited * 1000)

    async def manifest(self, tenant: str, snapshot_id: int | None = None) -> Manifest:
        """A snapshot with its tables and files; the latest by default."""
        if snapshot_id is None:
            snapshot_id = (await self._catalog.head(tenant)).snapshot_id
        return (await self._bind(tenant, snapshot_id))[0]

    def _limits(self, row_limit: int | None, timeout_s: float | None) -> QueryLimits:
        limits = self._options.limits
        return changed(
            limits,
            max_rows=min(limits.max_rows, row_limit) if row_limit is not None else limits.max_rows,
            timeout_s=min(limits.timeout_s, timeout_s) if timeout_s is not None else limits.timeout_s,
        )

    async def _resolve(self, tenant: str, freshness: Freshness, sql: str) -> tuple[Manifest, tuple[Relation, ...]]:
        await self._check_scope(tenant, freshness)
        if freshness.snapshot_id is not None:
            return await self._bind(tenant, freshness.snapshot_id)
        if freshness.snapshot_time is not None:
            snapshot = await self._catalog.snapshot_at(tenant, freshness.snapshot_time)
            return await self._bind(tenant, snapshot.snapshot_id)
        if freshness.min_visibility_token is None:
            return await self._bind(tenant, (await self._catalog.head(tenant)).snapshot_id)
        return await self._strict(tenant, freshness.min_visibility_token, freshness, sql)

    async def _check_scope(self, tenant: str, freshness: Freshness) -> None:
        """A scope is checked also without a token: it says which log the caller believes in."""
        if freshness.visibility_scope is None or freshness.min_visibility_token is not None:
            return
        head = await self._bus.head(tenant)
        if head.scope != freshness.visibility_scope:
            raise TokenScopeMismatch(
                "the visibility scope belongs to another tenant or to the log before a restore",
                visibility_scope=freshness.visibility_scope,
                current_scope=head.scope,
            )

    async def _strict(
        self, tenant: str, token: int, freshness: Freshness, sql: str
    ) -> tuple[Manifest, tuple[Relation, ...]]:
        head = await self._bus.head(tenant)
        check_requirement(head, token, freshness.visibility_scope)
        timeout = self._options.default_consistency_s if freshness.timeout_s is None else freshness.timeout_s
        try:
            reached = await self._barrier.wait(tenant, token, min(timeout, self._options.max_consistency_s))
        except Exception as error:
            if hasattr(error, "context"):
                error.context.setdefault("head", head.token)
            raise
        manifest, relations = await self._bind(tenant, reached.snapshot_id)
        if not freshness.allow_parked:
            await self._refuse_parked(tenant, token, manifest, sql)
        return manifest, relations

    async def _refuse_parked(self, tenant: str, token: int, manifest: Manifest, sql: str) -> None:
        """Refuse when a parked write touches a table that the SQL may read."""
        # Whatever is read must be named, so this finds too many tables at times and never too few.
        text = fold(sql)
        named = {table.table_id for name, table in manifest.tables.items() if name in text}
        parked = [write for write in await self._catalog.parked(tenant, token) if named.intersection(write.tables)]
        if parked:
            raise WriteParked(
                f"{len(parked)} writes at or below token {token} could not be stored and are parked; "
                "an operator can replay or discard them, or query with allow_parked",
                parked=[{"token": p.token, "error_code": p.error_code, "reason": p.reason} for p in parked[:100]],
                requested_token=token,
            )

    async def _bind(self, tenant: str, snapshot_id: int) -> tuple[Manifest, tuple[Relation, ...]]:
        """A snapshot's manifest and relations; immutable, so they are remembered."""
        key = (tenant, snapshot_id)
        bound = self._bound.get(key)
        if bound is None:
            manifest = await self._catalog.manifest(tenant, snapshot_id)
            bound = (manifest, self._relations(manifest))
            self._bound[key] = bound
            while len(self._bound) > _MAX_MANIFESTS:
                self._bound.popitem(last=False)
        else:
            self._bound.move_to_end(key)
        return bound

    def _relations(self, manifest: Manifest) -> tuple[Relation, ...]:
        return tuple(
            Relation(
                table.name,
                table.schema,
                tuple(
                    RelationFile(f.file.path, self._store.locate(f.file.path), f.file.bytes, f.file.rows)
                    for f in manifest.files.get(table.table_id, ())
                ),
            )
            for table in sorted(manifest.tables.values(), key=lambda table: fold(table.name))
        )


def parse_time(text: str) -> datetime:
    """A point in time in ISO 8601; raises `InvalidRequest`."""
    try:
        time = datetime.fromisoformat(text)
        return time.astimezone(UTC) if time.tzinfo is not None else time
    except (ValueError, OverflowError) as error:
        raise InvalidRequest(f"snapshot_time {text[:40]!r} is not a time in ISO 8601", field="snapshot_time") from error
