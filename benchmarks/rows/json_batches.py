"""1,000 records a request with a key each: 8 clients, acknowledged and sustained to visible."""

from collections.abc import Callable, Mapping
from typing import ClassVar

from benchmarks.harness import Bench, Figures, Goal, Row, isolated
from benchmarks.references import postgres
from benchmarks.rows.ingest import Ingest, json_spec

RECORDS = 1000
CLIENTS = 8
TABLE = "bench_json_batches"


class JsonBatches(Row):
    """The floor is what Postgres needs for the same keys and bytes; everything above it is the product's."""

    name: ClassVar = "json_batches"
    title: ClassVar = "1,000-record JSON requests with a key per record, 8 clients"
    goals: ClassVar[tuple[Goal, ...]] = (
        Goal("rate", 0.5, "floor", orientation="≥ 75,000 records/s at two million keys; floor 136,000 to 149,000"),
        Goal("visible_rate", 0.4, "floor", reference_figure="rate", orientation="sustained to visible"),
    )

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.ingest: Ingest | None = None

    def prepare_product(self) -> None:
        """Create the table and fill its ledger."""
        self.bench.need_product().create_table(TABLE)
        self.ingest = Ingest(self.bench, TABLE, json_spec(self.bench, TABLE, RECORDS, CLIENTS))
        self.ingest.fill(self.bench.options.ledger_keys)

    def prepare_references(self) -> None:
        """Fill the floor's ledger with as many keys."""
        if self.bench.database is not None:
            isolated(postgres.prepare, self.bench.database.uri, self.bench.options.ledger_keys)

    def product(self) -> Figures:
        """Write for a few seconds, then wait until it is visible."""
        assert self.ingest is not None
        return self.ingest.run()

    def references(self) -> Mapping[str, Callable[[], Figures]]:
        """Name the floor."""
        return {"floor": self._floor} if self.bench.database is not None else {}

    def _floor(self) -> Figures:
        uri = self.bench.need_database().uri
        return isolated(postgres.floor, uri, self.bench.options.seconds, RECORDS, CLIENTS)
