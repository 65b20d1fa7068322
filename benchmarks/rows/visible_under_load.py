"""Write-to-visible at half of peak load: a few writers wait while many others do not."""

from typing import ClassVar

from attrs import evolve

from benchmarks.harness import Bench, Figures, Goal, Row
from benchmarks.load import LoadSpec
from benchmarks.rows.ingest import json_spec, require_no_errors
from benchmarks.rows.one_record import CLIENTS
from benchmarks.rows.visible_one_writer import waiting_spec

TABLE = "bench_visible_load"
WAITERS = 4


class VisibleUnderLoad(Row):
    """Half of the peak that was measured right before, as an open loop: a stall shows as latency."""

    name: ClassVar = "visible_under_load"
    title: ClassVar = "write-to-visible at half of peak load"
    goals: ClassVar[tuple[Goal, ...]] = (
        Goal("p95_ms", 250.0, at_least=False),
        Goal("p99_ms", 500.0, at_least=False),
        Goal("timeouts", 0.0, at_least=False, worst=True),
    )

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.load: LoadSpec | None = None
        self.waiters: LoadSpec | None = None

    def prepare_product(self) -> None:
        """Create the table and warm up."""
        self.bench.need_product().create_table(TABLE)
        self.load = json_spec(self.bench, TABLE, 1, CLIENTS)
        self.waiters = waiting_spec(self.bench, TABLE, WAITERS)
        self.bench.load(evolve(self.load, seconds=1.0))

    def product(self) -> Figures:
        """Measure the peak, then the waiters at half of it."""
        assert self.load is not None
        assert self.waiters is not None
        product = self.bench.need_product()
        peak = self.bench.load(self.load)[0]
        require_no_errors(peak)
        product.wait_visible(peak.last_token)
        # The generator keeps its schedule only if it has connections to spare.
        half = evolve(self.load, rate=peak.rate / 2, connections=2 * CLIENTS)
        background, waiting = self.bench.load(half, self.waiters)
        product.wait_visible(max(background.last_token, waiting.last_token))
        return {
            **waiting.figures(),
            "timeouts": waiting.errors,
            "load_peak": peak.rate,
            "load_rate": background.rate,
            "load_errors": background.errors,
        }
