"""The same 1,000-record requests beside a statement per record, which is what a plain implementation does."""

from collections.abc import Callable, Mapping
from typing import ClassVar

from benchmarks.harness import Figures, Goal, isolated
from benchmarks.references import postgres
from benchmarks.rows.json_batches import CLIENTS, RECORDS, JsonBatches


class RowPerRecord(JsonBatches):
    """The product's side is that of the JSON batches; only the reference differs."""

    name: ClassVar = "row_per_record"
    title: ClassVar = "the same, beside row-per-record inserts with ON CONFLICT … RETURNING"
    goals: ClassVar[tuple[Goal, ...]] = (Goal("rate", 5.0, "row_per_record", orientation="22,000 records/s"),)

    def prepare_references(self) -> None:
        """Fill the plain implementation's table with as many keys."""
        if self.bench.database is not None:
            isolated(postgres.prepare, self.bench.database.uri, self.bench.options.ledger_keys, plain=True)

    def references(self) -> Mapping[str, Callable[[], Figures]]:
        """Name the plain implementation."""
        return {"row_per_record": self._row_per_record} if self.bench.database is not None else {}

    def _row_per_record(self) -> Figures:
        uri = self.bench.need_database().uri
        return isolated(postgres.row_per_record, uri, self.bench.options.seconds, RECORDS, CLIENTS)
