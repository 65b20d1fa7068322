"""10,000-row Arrow requests with one key: 4 clients over HTTP, beside DuckLake in process."""

from collections.abc import Callable, Mapping
from typing import ClassVar

from benchmarks.bodies import arrow_body
from benchmarks.harness import Bench, Figures, Goal, Row, isolated
from benchmarks.references import ducklake
from benchmarks.rows.ingest import BODIES, Ingest

ROWS = 10_000
CLIENTS = 4
TABLE = "bench_arrow_batches"


class ArrowBatches(Row):
    """DuckLake's rows are visible when they are committed, so the rate to visible is shown beside the goal."""

    name: ClassVar = "arrow_batches"
    title: ClassVar = "10,000-row Arrow requests with one key, 4 clients"
    goals: ClassVar[tuple[Goal, ...]] = (
        Goal("rate", 1.0, "ducklake", orientation="1,000,000 rows/s"),
        Goal("visible_rate", None, "ducklake", reference_figure="rate", orientation="sustained to visible"),
    )

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.ingest: Ingest | None = None

    def prepare_product(self) -> None:
        """Create the table and warm up."""
        product = self.bench.need_product()
        product.create_table(TABLE)
        spec = product.ingest(
            TABLE,
            bodies=tuple(arrow_body(ROWS, seed) for seed in range(BODIES)),
            connections=CLIENTS,
            seconds=self.bench.options.seconds,
            records_per_request=ROWS,
            content_type="application/vnd.apache.arrow.stream",
            key_header=True,
        )
        self.ingest = Ingest(self.bench, TABLE, spec)
        self.ingest.warm_up()

    def product(self) -> Figures:
        """Write for a few seconds, then wait until it is visible."""
        assert self.ingest is not None
        return self.ingest.run()

    def references(self) -> Mapping[str, Callable[[], Figures]]:
        """Name DuckLake."""
        return {"ducklake": self._ducklake} if self.bench.database is not None else {}

    def _ducklake(self) -> Figures:
        keywords = self.bench.need_database().keywords
        seconds = self.bench.options.seconds
        return isolated(ducklake.arrow_batches, keywords, self.bench.work_dir, seconds, ROWS, BODIES)
