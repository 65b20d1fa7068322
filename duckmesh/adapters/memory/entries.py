"""What the logs in memory store: frozen values and immutable bytes, no object that a caller still holds."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa
from attrs import frozen

from duckmesh.domain.idempotency import GroupDecision, StoredWrite
from duckmesh.domain.tokens import LogRange
from duckmesh.domain.writes import KeyClaim, Lag, LogEntry, LoggedPart, LoggedWrite, TableRef, Write, WriteGroup
from duckmesh.ports.bus import ClaimLimits
from duckmesh.ports.columns import decode_batches, encode_batches

#: Seconds on a clock that never goes back; leases and ages are measured with it.
Now = Callable[[], float]
#: The time of day, with its zone.
Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """The time of day."""
    return datetime.now(UTC)


@frozen(eq=False)
class StoredEntry:
    """Consecutive writes of one tenant, with their rows as bytes; ``stored_at`` is a reading of `Now`."""

    writes: tuple[LoggedWrite, ...]
    data: Mapping[TableRef, bytes]
    stored_at: float

    @property
    def last_token(self) -> int:
        """The token of the last write."""
        return self.writes[-1].token

    @property
    def size(self) -> int:
        """Bytes of all rows."""
        return sum(map(len, self.data.values()))

    def records(self, tokens: LogRange) -> int:
        """Rows of the writes whose token lies in the range."""
        return sum(
            part.rows for write in self.writes if tokens.after < write.token <= tokens.through for part in write.parts
        )

    def delivered(self) -> LogEntry:
        """The entry as a claim delivers it, decoded anew every time."""
        return LogEntry(self.writes, {table: decode_batches(data) for table, data in self.data.items()})


def encode_kept(data: Mapping[TableRef, Any], kept: Mapping[TableRef, Sequence[int]]) -> dict[TableRef, bytes]:
    """The rows that a decision keeps, as bytes; tables of which nothing is left are gone."""
    encoded = {}
    for table, batch in data.items():
        rows = kept.get(table)
        if rows is None:
            encoded[table] = encode_batches(batch)
        elif rows:
            encoded[table] = encode_batches(batch.take(pa.array(rows, pa.int64())))
    return encoded


def logged(write: Write, stored: StoredWrite, accepted_at: datetime, claims: Sequence[KeyClaim] = ()) -> LoggedWrite:
    """A stored write as the log delivers it; parts of which no row was new are left out."""
    parts = zip(write.parts, stored.rows, claims or (None,) * len(write.parts), strict=True)
    return LoggedWrite(
        stored.token,
        accepted_at,
        tuple(LoggedPart(part.table, rows, claim) for part, rows, claim in parts if rows),
        write.control,
        write.trace,
    )


def control_tokens(group: WriteGroup, decision: GroupDecision) -> list[int]:
    """The tokens of the group's control writes."""
    return [write.token for write in decision.stored if group.writes[write.index].control is not None]


def within(entries: Iterable[StoredEntry], limits: ClaimLimits) -> list[StoredEntry]:
    """The first entries that fit the limits; the first one always does."""
    taken: list[StoredEntry] = []
    records = size = 0
    for entry in entries:
        records += sum(part.rows for write in entry.writes for part in write.parts)
        size += entry.size
        if taken and (records > limits.max_records or size > limits.max_bytes):
            break
        taken.append(entry)
    return taken


def measure_lag(entries: Sequence[StoredEntry], head: int, watermark: int, claimed: int, now: float) -> Lag:
    """How far ``watermark`` is behind; ``claimed`` is the token up to which a live lease took the log."""
    behind = LogRange(watermark, max(head, watermark))
    taken = LogRange(watermark, max(claimed, watermark))
    pending = [entry for entry in entries if entry.last_token > watermark]
    return Lag(
        head,
        sum(entry.records(LogRange(0, max(head, 0))) for entry in entries),
        sum(entry.records(taken) for entry in pending),
        sum(entry.records(behind) for entry in pending),
        max((now - pending[0].stored_at) * 1000, 0.0) if pending else 0.0,
    )
