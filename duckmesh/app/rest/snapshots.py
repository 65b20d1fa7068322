"""The snapshot calls: what was published when, and what is in it."""

from typing import Annotated, Any

import msgspec
from litestar import Request, Response, get
from litestar.handlers import HTTPRouteHandler
from litestar.params import FromPath, QueryParameter

from duckmesh.app.query.service import QueryService
from duckmesh.app.rest.bodies import answer, error_specs, json_answer
from duckmesh.app.rest.context import ROLES, principal_of
from duckmesh.domain.access import Role
from duckmesh.domain.errors import InvalidRequest, SnapshotNotFound
from duckmesh.domain.snapshots import Manifest, Snapshot
from duckmesh.domain.tokens import MAX_TOKEN
from duckmesh.ports.catalog import Catalog

_READ = {ROLES: (Role.QUERY_READER,)}
_MAX_PAGE = 1000


class SnapshotInfo(msgspec.Struct):
    """A published state: every write up to ``watermark`` is in it, or parked."""

    snapshot_id: int
    parent_id: int | None
    watermark: int
    published_at: str
    author: str


class TableState(msgspec.Struct):
    """A table in a snapshot. ``last_token`` is its newest write; complete up to ``watermark``."""

    watermark: int
    last_token: int
    schema_version: int
    rows_stored: int
    files: int
    bytes: int


class SnapshotDetail(SnapshotInfo):
    """A snapshot with its tables."""

    tables: dict[str, TableState]


class SnapshotList(msgspec.Struct):
    """Snapshots, newest first; ``next_cursor`` leads to older ones."""

    snapshots: list[SnapshotInfo]
    next_cursor: str | None


def _info(snapshot: Snapshot) -> SnapshotInfo:
    return SnapshotInfo(
        snapshot.snapshot_id,
        snapshot.parent_id,
        snapshot.watermark,
        snapshot.published_at.isoformat(),
        snapshot.author,
    )


def _detail(manifest: Manifest) -> SnapshotDetail:
    snapshot = manifest.snapshot
    states = {}
    for table in manifest.tables.values():
        files = [entry.file for entry in manifest.files.get(table.table_id, ())]
        states[table.name] = TableState(
            snapshot.watermark,
            max((file.max_token for file in files), default=0),
            table.schema.version,
            sum(file.rows for file in files),
            len(files),
            sum(file.bytes for file in files),
        )
    return SnapshotDetail(**msgspec.structs.asdict(_info(snapshot)), tables=states)


def snapshot_routes(catalog: Catalog, queries: QueryService) -> list[HTTPRouteHandler]:
    """The handlers of `/v1/snapshots`."""

    @get(
        "/v1/snapshots",
        opt=_READ,
        summary="List snapshots, newest first",
        responses={
            200: answer(SnapshotList, "A page."),
            **error_specs(400, 401, 403, 503),
        },
    )
    async def list_snapshots(
        request: Request[Any, Any, Any],
        limit: Annotated[int, QueryParameter(ge=1, le=_MAX_PAGE, description="Snapshots in a page.")] = 50,
        cursor: Annotated[str | None, QueryParameter(description="The next_cursor of the page before.")] = None,
    ) -> Response[bytes]:
        found = await catalog.snapshots(principal_of(request).tenant, before=_position(cursor), limit=limit + 1)
        page = found[:limit]
        more = str(page[-1].snapshot_id) if len(found) > limit else None
        return json_answer(SnapshotList([_info(snapshot) for snapshot in page], more))

    @get(
        "/v1/snapshots/{snapshot_id:str}",
        opt=_READ,
        summary="Show a snapshot with its tables",
        responses={
            200: answer(SnapshotDetail, "The snapshot."),
            **error_specs(400, 401, 403, 404, 503),
        },
    )
    async def show_snapshot(request: Request[Any, Any, Any], snapshot_id: FromPath[str]) -> Response[bytes]:
        if not (_is_number(snapshot_id) and int(snapshot_id) > 0):
            raise SnapshotNotFound(f"there is no snapshot {snapshot_id[:40]!r}; ids are positive integers")
        manifest = await queries.manifest(principal_of(request).tenant, int(snapshot_id))
        return json_answer(_detail(manifest))

    return [list_snapshots, show_snapshot]


def _is_number(text: str) -> bool:
    """Whether the text is a decimal number of 63 bits; the length first, as reading a long one takes long."""
    return len(text) <= len(str(MAX_TOKEN)) and text.isascii() and text.isdigit() and int(text) <= MAX_TOKEN


def _position(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    if not _is_number(cursor):
        raise InvalidRequest("cursor is not one that this call returned")
    return int(cursor)
