"""Writes: what one accepted request carries, and what the log says of it.

Data is columnar and opaque here: one batch of rows for each table, rows in the order of the writes. The domain
sees its metadata only.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import IntEnum
from typing import Any

from attrs import field, frozen, validators

from duckmesh.domain.errors import DuckMeshError
from duckmesh.domain.leases import Lease
from duckmesh.domain.tables import ControlChange
from duckmesh.domain.tokens import LogRange


class Operation(IntEnum):
    """What a record does to its table; the number is stored in data files."""

    INSERT = 0
    UPSERT = 1
    DELETE = 2


@frozen
class TableRef:
    """A table at the schema version that rows were validated against."""

    table_id: str
    schema_version: int


@frozen(eq=False)
class WritePart:
    """The records of one write for one table.

    ``key_ids`` and ``content_ids`` are 16-byte digests of the idempotency keys (scoped to tenant and table) and
    of the typed contents; one for each row, or a single one that covers all rows (``whole``). ``keys`` are the
    keys as they were sent, for messages.
    """

    table: TableRef
    table_name: str
    rows: int = field(validator=validators.ge(1))
    keys: Sequence[str]
    key_ids: Sequence[bytes]
    content_ids: Sequence[bytes]
    whole: bool = False


@frozen(eq=False)
class Write:
    """Everything that one accepted request carries: data parts, or one control change.

    ``trace`` is a W3C ``traceparent``, so that a trace follows the write through the log.
    """

    parts: tuple[WritePart, ...] = ()
    control: ControlChange | None = None
    trace: str | None = None


@frozen(eq=False)
class WriteGroup:
    """Writes of one tenant that share a transaction of the log.

    ``data`` holds one batch of rows for each table, the rows of earlier writes first. ``schema_token`` is the
    control write up to which the tables were known when the writes were validated; a bus that can check it
    refuses the group when a later control write is in the log.
    """

    tenant: str
    writes: tuple[Write, ...]
    data: Mapping[TableRef, Any]
    schema_token: int


@frozen
class Accepted:
    """The write is durable, or was before. ``token`` covers it and every original of a duplicate."""

    token: int
    accepted: tuple[int, ...] = ()
    duplicates: tuple[int, ...] = ()


@frozen
class Refused:
    """Nothing of the write was stored."""

    error: DuckMeshError


Outcome = Accepted | Refused


@frozen(eq=False)
class KeyClaim:
    """The digests that a part claimed, for a log that cannot deduplicate by itself."""

    key_ids: Sequence[bytes]
    content_ids: Sequence[bytes]
    whole: bool = False


@frozen(eq=False)
class LoggedPart:
    """The rows of one write for one table, as the log delivers them."""

    table: TableRef
    rows: int
    claim: KeyClaim | None = None


@frozen(eq=False)
class LoggedWrite:
    """A write with its place in the log."""

    token: int
    accepted_at: datetime
    parts: tuple[LoggedPart, ...] = ()
    control: ControlChange | None = None
    trace: str | None = None


@frozen(eq=False)
class LogEntry:
    """Some consecutive writes of a tenant, with their rows; ``data`` is ordered like the writes."""

    writes: tuple[LoggedWrite, ...]
    data: Mapping[TableRef, Any]


@frozen(eq=False)
class ClaimedBatch:
    """What a coordinator may materialise next: every write of the tenant in ``range``, under ``lease``.

    Boundaries and redelivery are up to the bus: a batch may repeat writes that are visible already.
    """

    lease: Lease
    range: LogRange
    entries: tuple[LogEntry, ...]

    @property
    def tenant(self) -> str:
        """Whose log this is."""
        return self.lease.tenant

    @property
    def records(self) -> int:
        """Rows in the batch, repeated ones included."""
        return sum(part.rows for entry in self.entries for write in entry.writes for part in write.parts)


@frozen
class Lag:
    """How far the materialised state is behind the log.

    ``accepted_events``, ``claimed_events`` and ``pending_events`` count records; claimed ones are pending under a
    live lease. ``oldest_pending_ms`` is the age of the oldest pending write, 0 when there is none.
    """

    head: int
    accepted_events: int
    claimed_events: int
    pending_events: int
    oldest_pending_ms: float
