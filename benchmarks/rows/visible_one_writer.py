"""Write-to-visible: one writer that waits until its record is in a published snapshot."""

from collections.abc import Callable, Mapping
from typing import ClassVar

from benchmarks.bodies import json_body
from benchmarks.harness import Bench, Figures, Goal, Row, isolated
from benchmarks.load import LoadSpec
from benchmarks.references import visible
from benchmarks.rows.ingest import BODIES, Ingest

TABLE = "bench_visible"
TIMEOUT_MS = 10_000


def waiting_spec(bench: Bench, table: str, connections: int) -> LoadSpec:
    """Describe writers that wait; an answer that is not visible counts as an error."""
    return bench.need_product().ingest(
        table,
        bodies=tuple(
            json_body(1, seed, wait_for_visibility=True, visibility_timeout_ms=TIMEOUT_MS) for seed in range(BODIES)
        ),
        connections=connections,
        seconds=bench.options.seconds,
        expect=r'"status": ?"visible"',
    )


class VisibleOneWriter(Row):
    """Latency only: one writer alone, so nothing is gained by grouping."""

    name: ClassVar = "visible_one_writer"
    title: ClassVar = "write-to-visible, one writer, waiting"
    goals: ClassVar[tuple[Goal, ...]] = (
        Goal("p50_ms", 5.0, "floor", at_least=False, orientation="≤ 10 ms; floor 1.9 ms"),
        Goal("p95_ms", 5.0, "floor", at_least=False, tolerance=0.6, orientation="≤ 20 ms; floor 3.4 ms"),
    )

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.ingest: Ingest | None = None

    def prepare_product(self) -> None:
        """Create the table and warm up."""
        self.bench.need_product().create_table(TABLE)
        self.ingest = Ingest(self.bench, TABLE, waiting_spec(self.bench, TABLE, 1))
        self.ingest.warm_up()

    def product(self) -> Figures:
        """Write and wait, one after the other."""
        assert self.ingest is not None
        return self.ingest.run()

    def references(self) -> Mapping[str, Callable[[], Figures]]:
        """Name the floor loop."""
        return {"floor": self._floor} if self.bench.database is not None else {}

    def _floor(self) -> Figures:
        uri = self.bench.need_database().uri
        return isolated(visible.floor_loop, uri, self.bench.work_dir, self.bench.options.seconds)
