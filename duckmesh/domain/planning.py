"""What a coordinator does with a claimed batch: pure planning, from log entries to files (promise 3).

Writes at or below the watermark are removed first, however the boundaries of the batch fell. Control writes are
applied in log order, so a table's last version in the batch is the one that its file is written with.
"""

import itertools
from collections.abc import Collection, Iterator, Mapping

from attrs import evolve as changed
from attrs import frozen

from duckmesh.domain.errors import DataCorrupt, DuckMeshError, TableNotFound
from duckmesh.domain.snapshots import ControlResult, ParkedWrite
from duckmesh.domain.tables import TableDefinition, Tables, apply_change, by_id
from duckmesh.domain.writes import ClaimedBatch, LogEntry, LoggedWrite, TableRef


@frozen(eq=False)
class RowRun:
    """Consecutive rows of one write in an entry's batch: ``start`` is the first row's number."""

    token: int
    start: int
    rows: int


@frozen(eq=False)
class FilePart:
    """The rows that one entry gives to a file, all validated against one schema version."""

    entry: LogEntry
    table: TableRef
    runs: tuple[RowRun, ...]

    @property
    def rows(self) -> int:
        """Rows in all runs."""
        return sum(run.rows for run in self.runs)


@frozen(eq=False)
class PlannedFile:
    """A data file to write: rows of one table, mapped to ``table``'s schema."""

    table: TableDefinition
    parts: tuple[FilePart, ...]

    @property
    def rows(self) -> int:
        """Rows in all parts."""
        return sum(part.rows for part in self.parts)

    def by_write(self) -> Iterator["PlannedFile"]:
        """The same rows, one write at a time; finds the one that cannot be written."""
        for part in self.parts:
            for run in part.runs:
                yield PlannedFile(self.table, (FilePart(part.entry, part.table, (run,)),))


@frozen(eq=False)
class CommitPlan:
    """Everything that the publication of a batch needs but the files' bytes."""

    base_watermark: int
    watermark: int
    files: tuple[PlannedFile, ...]
    tables: Mapping[str, TableDefinition]
    controls: tuple[ControlResult, ...]
    parked: tuple[ParkedWrite, ...]
    writes: tuple[LoggedWrite, ...]

    @property
    def empty(self) -> bool:
        """Whether the batch moves nothing: all of it was visible already."""
        return self.watermark == self.base_watermark


def plan_commit(
    batch: ClaimedBatch,
    watermark: int,
    tables: Tables,
    poisoned: Mapping[int, ParkedWrite] | None = None,
    repeated: Mapping[tuple[int, int], Collection[int]] | None = None,
) -> CommitPlan:
    """Plan the batch on top of ``watermark`` and ``tables``.

    ``poisoned`` are writes found impossible to materialise; they are parked whole. ``repeated`` names, by token
    and number of the part, the rows that the log holds a second time under another token. Raises `DataCorrupt`
    when the batch begins beyond the watermark: writes between them would be skipped (promise 2).
    """
    if batch.range.after > watermark:
        raise DataCorrupt(
            f"the log of tenant {batch.tenant!r} delivers from token {batch.range.after} on, but only {watermark} "
            "is visible; the writes between are missing: was the catalog restored to an older state than the log?",
            tenant=batch.tenant,
            watermark=watermark,
            delivered_after=batch.range.after,
        )
    planner = _Planner(watermark, tables, poisoned or {}, repeated or {})
    for entry in batch.entries:
        planner.entry(entry)
    return planner.plan(max(watermark, batch.range.through))


class _Planner:
    def __init__(
        self,
        watermark: int,
        tables: Tables,
        poisoned: Mapping[int, ParkedWrite],
        repeated: Mapping[tuple[int, int], Collection[int]],
    ) -> None:
        self._watermark = watermark
        self._through = watermark
        self._tables: Tables = tables
        self._poisoned = poisoned
        self._repeated = repeated
        self._parts: dict[str, list[FilePart]] = {}
        self._controls: list[ControlResult] = []
        self._parked: list[ParkedWrite] = []
        self._writes: list[LoggedWrite] = []

    def entry(self, entry: LogEntry) -> None:
        seen: dict[TableRef, int] = {}
        runs: dict[TableRef, list[RowRun]] = {}
        for write in entry.writes:
            # A redelivery may repeat writes inside one batch, so the bound moves with every write taken.
            wanted = write.token > self._through and self._take(write)
            for number, part in enumerate(write.parts):
                start = seen.get(part.table, 0)
                seen[part.table] = start + part.rows
                if wanted:
                    dropped = self._repeated.get((write.token, number), ())
                    runs.setdefault(part.table, []).extend(_runs(write.token, start, part.rows, dropped))
        for table, found in runs.items():
            if found:
                self._parts.setdefault(table.table_id, []).append(FilePart(entry, table, tuple(found)))

    def _take(self, write: LoggedWrite) -> bool:
        self._through = write.token
        self._writes.append(write)
        if write.control is not None:
            self._control(write)
            return False
        parked = self._poisoned.get(write.token) or self._unplaceable(write)
        if parked is not None:  # whole, whichever of its tables was the reason
            tables = tuple(part.table.table_id for part in write.parts)
            self._parked.append(changed(parked, tables=tables, records=sum(part.rows for part in write.parts)))
        return parked is None

    def _control(self, write: LoggedWrite) -> None:
        assert write.control is not None  # noqa: S101 - narrowed by the caller
        try:
            self._tables = apply_change(self._tables, write.control)
        except DuckMeshError as error:
            result = ControlResult(write.token, write.control, error.code, error.message, error.context)
        else:
            result = ControlResult(write.token, write.control)
        self._controls.append(result)

    def _unplaceable(self, write: LoggedWrite) -> ParkedWrite | None:
        missing = [part.table.table_id for part in write.parts if by_id(self._tables, part.table.table_id) is None]
        if not missing:
            return None
        return ParkedWrite(
            write.token,
            TableNotFound.code,
            f"the table was dropped before this write reached the log: {', '.join(missing)}",
            tuple(missing),
        )

    def plan(self, watermark: int) -> CommitPlan:
        files = []
        for table_id, parts in self._parts.items():
            table = by_id(self._tables, table_id)
            if table is not None:  # a table dropped later in the batch needs no file
                files.append(PlannedFile(table, tuple(parts)))
        return CommitPlan(
            self._watermark,
            max(watermark, self._through),
            tuple(files),
            dict(self._tables),
            tuple(self._controls),
            tuple(self._parked),
            tuple(self._writes),
        )


def _runs(token: int, start: int, rows: int, dropped: Collection[int]) -> list[RowRun]:
    """The part's rows without the dropped ones, as runs of consecutive rows."""
    if not dropped:
        return [RowRun(token, start, rows)] if rows else []
    bounds = [-1, *sorted(dropped), rows]
    return [
        RowRun(token, start + before + 1, after - before - 1)
        for before, after in itertools.pairwise(bounds)
        if after - before > 1
    ]
