"""What the ingest rows share: fill, load, wait until visible, and check that nothing was lost."""

from attrs import evolve

from benchmarks.bodies import json_body
from benchmarks.harness import Bench
from benchmarks.load import LoadResult, LoadSpec

BODIES = 16
"""Different bodies in turn, so that columns do not compress as if there were only one."""


def json_spec(bench: Bench, table: str, records: int, connections: int) -> LoadSpec:
    """Describe a closed loop of JSON requests with a fresh key per record."""
    return bench.need_product().ingest(
        table,
        bodies=tuple(json_body(records, seed) for seed in range(BODIES)),
        connections=connections,
        seconds=bench.options.seconds,
        records_per_request=records,
    )


class Ingest:
    """One table under load; it knows how many rows were acknowledged."""

    def __init__(self, bench: Bench, table: str, spec: LoadSpec) -> None:
        self.bench = bench
        self.table = table
        self.spec = spec
        self.rows: int | None = None

    def warm_up(self, seconds: float = 1.0) -> None:
        """Let decoders, pools and plans come into being; not timed."""
        self.run(evolve(self.spec, seconds=seconds))

    def fill(self, records: int) -> None:
        """Bring the table's ledger to a number of keys, counting those of earlier rows; then warm up. Not timed."""
        self.rows = self.bench.need_product().count(self.table)
        requests = (records - self.rows) // self.spec.records_per_request
        if requests > 0:
            self.run(evolve(self.spec, seconds=3600.0, max_requests=requests))
        self.warm_up()

    def run(self, spec: LoadSpec | None = None) -> dict[str, float]:
        """Load once, wait until everything is visible, and count the rows."""
        product = self.bench.need_product()
        result = self.bench.load(spec or self.spec)[0]
        require_no_errors(result)
        visible = product.wait_visible(result.last_token)
        self._check_count(result)
        return {**result.figures(), "visible_rate": result.records / (visible - result.started)}

    def _check_count(self, result: LoadResult) -> None:
        count = self.bench.need_product().count(self.table, result.last_token)
        expected = None if self.rows is None else self.rows + result.records
        self.rows = count
        if expected is not None and count != expected:
            raise RuntimeError(f"{expected} rows were acknowledged in {self.table}, {count} are visible")


def require_no_errors(*results: LoadResult) -> None:
    """A rate with errors in it is not a result."""
    for result in results:
        if result.errors or not result.answered:
            raise RuntimeError(f"{result.errors} errors, {result.answered} good answers: {result.error_samples}")
