"""Which records of a group of writes are new, which are duplicates, which conflict (contract, promise 6)."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from attrs import field, frozen

from duckmesh.domain.errors import IdempotencyConflict
from duckmesh.domain.writes import Accepted, Outcome, Refused, TableRef, Write, WriteGroup, WritePart

DIGEST_SIZE: Final = 16
MAX_KEY_LENGTH: Final = 255


def key_ids(tenant: str, table_id: str, keys: Sequence[str]) -> list[bytes]:
    """The digests under which a ledger knows the keys; scoped to a table of a tenant."""
    scope = hashlib.blake2b(f"{tenant}\x00{table_id}\x00".encode(), digest_size=DIGEST_SIZE)
    found = []
    for key in keys:
        digest = scope.copy()
        digest.update(key.encode())
        found.append(digest.digest())
    return found


@frozen
class LedgerEntry:
    """What the ledger remembers of a key: the content it came with, and the token that covers it."""

    content_id: bytes
    token: int


@frozen(eq=False)
class StoredWrite:
    """A write that goes into the log. ``rows`` are the rows kept of each part."""

    index: int
    token: int
    rows: tuple[int, ...]


@frozen(eq=False)
class GroupDecision:
    """What becomes of a group: an outcome for each write, and what is stored.

    ``kept`` names the row numbers to keep of a table's batch, and lacks the tables of which all rows are kept.
    """

    outcomes: tuple[Outcome, ...]
    stored: tuple[StoredWrite, ...]
    claims: Mapping[bytes, LedgerEntry]
    kept: Mapping[TableRef, Sequence[int]] = field(factory=dict)


def decide_group(
    group: WriteGroup, known: Mapping[bytes, LedgerEntry], token_of: Callable[[int], int]
) -> GroupDecision:
    """Decide about the writes in order; an earlier write of the group is known to a later one.

    ``known`` holds the ledger's entries for keys of the group; ``token_of`` gives the token of the n-th write
    that is stored, counted from 0.
    """
    decider = _Decider(known, token_of)
    for index, write in enumerate(group.writes):
        decider.decide(index, write)
    return decider.decision()


class _Decider:
    def __init__(self, known: Mapping[bytes, LedgerEntry], token_of: Callable[[int], int]) -> None:
        self._known = known
        self._token_of = token_of
        self._claims: dict[bytes, LedgerEntry] = {}
        self._outcomes: list[Outcome] = []
        self._stored: list[StoredWrite] = []
        self._kept: dict[TableRef, list[int]] = {}
        self._seen: dict[TableRef, int] = {}

    def decide(self, index: int, write: Write) -> None:
        token = self._token_of(len(self._stored))
        claims: dict[bytes, LedgerEntry] = {}
        covering = 0
        kept: list[list[int]] = []
        conflict: IdempotencyConflict | None = None
        for part in write.parts:
            fresh, originals, conflict = self._part(part, token, claims)
            if conflict is not None:
                break
            covering = max(covering, originals)
            kept.append(fresh)
        if conflict is not None:
            self._outcomes.append(Refused(conflict))
            self._keep(write, [[] for _ in write.parts])
            return
        self._accept(index, write, token, claims, covering, kept)

    def _accept(
        self,
        index: int,
        write: Write,
        token: int,
        claims: dict[bytes, LedgerEntry],
        covering: int,
        kept: list[list[int]],
    ) -> None:
        counts = tuple(len(rows) for rows in kept)
        duplicates = tuple(part.rows - count for part, count in zip(write.parts, counts, strict=True))
        if write.control is not None or any(counts):
            self._claims.update(claims)
            self._stored.append(StoredWrite(index, token, counts))
            covering = token
        self._keep(write, kept)
        self._outcomes.append(Accepted(covering, counts, duplicates))

    def _part(
        self, part: WritePart, token: int, claims: dict[bytes, LedgerEntry]
    ) -> tuple[list[int], int, IdempotencyConflict | None]:
        fresh: list[int] = []
        originals = 0
        for row, (key_id, content_id) in enumerate(zip(part.key_ids, part.content_ids, strict=True)):
            entry = claims.get(key_id) or self._claims.get(key_id) or self._known.get(key_id)
            if entry is None:
                claims[key_id] = LedgerEntry(content_id, token)
                fresh.append(row)
            elif entry.content_id == content_id:
                originals = max(originals, entry.token)
            else:
                return [], 0, _conflict(part, row, entry)
        if part.whole and fresh:
            fresh = list(range(part.rows))
        return fresh, originals, None

    def _keep(self, write: Write, kept: list[list[int]]) -> None:
        for part, rows in zip(write.parts, kept, strict=True):
            start = self._seen.get(part.table, 0)
            self._kept.setdefault(part.table, []).extend(start + row for row in rows)
            self._seen[part.table] = start + part.rows

    def decision(self) -> GroupDecision:
        cut = {table: rows for table, rows in self._kept.items() if len(rows) != self._seen[table]}
        return GroupDecision(tuple(self._outcomes), tuple(self._stored), self._claims, cut)


def _conflict(part: WritePart, row: int, entry: LedgerEntry) -> IdempotencyConflict:
    key = part.keys[row]
    return IdempotencyConflict(
        f"record {row} of table {part.table_name!r}: idempotency key {key!r} was used with other content; "
        "nothing of this request was stored. Send the original content, or a new key",
        table=part.table_name,
        record=row,
        idempotency_key=key,
        original_token=entry.token,
    )


def all_new(group: WriteGroup, first_token: int) -> GroupDecision:
    """The decision for a group whose keys are all unknown to the ledger and distinct: every write is stored.

    The common case, without a look at each record; a caller checks `distinct` and the ledger itself.
    """
    outcomes, stored = [], []
    for index, write in enumerate(group.writes):
        rows = tuple(part.rows for part in write.parts)
        outcomes.append(Accepted(first_token + index, rows, (0,) * len(rows)))
        stored.append(StoredWrite(index, first_token + index, rows))
    return GroupDecision(tuple(outcomes), tuple(stored), {})


def distinct(group: WriteGroup) -> bool:
    """Whether no idempotency key stands twice in the group."""
    parts = [part for write in group.writes for part in write.parts]
    return len({key for part in parts for key in part.key_ids}) == sum(len(part.key_ids) for part in parts)
