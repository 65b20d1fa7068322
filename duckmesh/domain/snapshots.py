"""Snapshots, data files and their publication (contract, promises 3 to 5 and section 6)."""

from collections.abc import Collection, Mapping
from datetime import datetime
from typing import Any

from attrs import field, frozen, validators

from duckmesh.domain.errors import PublicationConflict
from duckmesh.domain.leases import check_epoch
from duckmesh.domain.tables import ControlChange, TableDefinition


@frozen
class Snapshot:
    """An immutable state of all tables of a tenant; ids grow within a deployment.

    ``watermark`` is the token up to which every write is contained or parked.
    """

    snapshot_id: int
    tenant: str
    watermark: int
    published_at: datetime
    author: str
    parent_id: int | None = None


@frozen
class NewFile:
    """A data file that a publication adds. ``bytes`` is its size, ``checksum`` the SHA-256 in hex.

    Token and event time bounds are inclusive; ``key_min``/``key_max`` bound the primary key's columns.
    """

    table_id: str
    path: str
    schema_version: int
    rows: int = field(validator=validators.ge(1))
    bytes: int = field(validator=validators.ge(1))
    checksum: str
    min_token: int
    max_token: int
    min_event_time: datetime
    max_event_time: datetime
    key_min: tuple[Any, ...] | None = None
    key_max: tuple[Any, ...] | None = None


@frozen
class DataFile:
    """A file in the catalog, part of the snapshots from ``begin_snapshot`` until ``end_snapshot`` (exclusive)."""

    file_id: int
    file: NewFile
    begin_snapshot: int
    end_snapshot: int | None = None

    def live_in(self, snapshot_id: int) -> bool:
        """Whether the file belongs to that snapshot."""
        return self.begin_snapshot <= snapshot_id and (self.end_snapshot is None or snapshot_id < self.end_snapshot)


@frozen
class ControlResult:
    """What became of a control write when its place in the log was reached; no ``error_code`` means applied."""

    token: int
    change: ControlChange
    error_code: str | None = None
    error_message: str | None = None
    error_context: Mapping[str, Any] = field(factory=dict)


@frozen
class ParkedWrite:
    """A write that can never be materialised, with the deterministic reason. ``tables`` are ids of all its tables."""

    token: int
    error_code: str
    reason: str
    tables: tuple[str, ...]
    records: int = 0


@frozen
class Publication:
    """One step of a tenant from a snapshot to the next, planned from ``base_watermark``."""

    tenant: str
    epoch: int
    author: str
    base_watermark: int
    watermark: int
    added: tuple[NewFile, ...] = ()
    ended: tuple[int, ...] = ()
    controls: tuple[ControlResult, ...] = ()
    parked: tuple[ParkedWrite, ...] = ()


@frozen
class CatalogHead:
    """The newest state of a tenant in the catalog; what a publication is checked against."""

    tenant: str
    watermark: int
    snapshot_id: int
    epoch: int = 0
    control_token: int = 0


@frozen(eq=False)
class Manifest:
    """All that a query needs of one snapshot: its tables by folded name, and the files of each by table id."""

    snapshot: Snapshot
    tables: Mapping[str, TableDefinition]
    files: Mapping[str, tuple[DataFile, ...]]


def check_publication(head: CatalogHead, publication: Publication, live: Collection[int]) -> None:
    """Refuse a publication that was not planned on the present state.

    ``live`` are those of the ended files that are still live. Raises `StaleEpoch` when a higher epoch has been
    recorded, `PublicationConflict` when the watermark moved or an ended file is gone.
    """
    check_epoch(head.epoch, publication.epoch, publication.tenant)
    if head.watermark != publication.base_watermark:
        raise PublicationConflict(
            f"planned from watermark {publication.base_watermark}, which is {head.watermark} by now",
            base_watermark=publication.base_watermark,
            watermark=head.watermark,
        )
    if publication.watermark < head.watermark:
        raise PublicationConflict(
            f"a watermark only grows: {head.watermark} to {publication.watermark}", watermark=head.watermark
        )
    gone = set(publication.ended) - set(live)
    if gone:
        raise PublicationConflict(f"files {sorted(gone)} are not live any more", files=sorted(gone))
