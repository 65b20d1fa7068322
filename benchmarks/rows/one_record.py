"""One-record requests: 64 keep-alive clients, JSON over HTTP, a key each, acknowledged when durable."""

import contextlib
from collections.abc import Callable, Mapping
from typing import ClassVar
from urllib.parse import urlsplit

from attrs import evolve

from benchmarks.bodies import json_body
from benchmarks.harness import Bench, Figures, Goal, Row, isolated
from benchmarks.load import LoadSpec
from benchmarks.references import decode_only, ducklake
from benchmarks.rows.ingest import BODIES, Ingest, json_spec, require_no_errors

CLIENTS = 64
TABLE = "bench_one_record"


class OneRecord(Row):
    """DuckLake pays a commit per row; the product groups requests of many clients into one."""

    name: ClassVar = "one_record"
    title: ClassVar = "one-record requests, 64 clients, JSON over HTTP, durable"
    goals: ClassVar[tuple[Goal, ...]] = (
        # DuckLake's writers starve each other at random: its rate is noisy, its p95 too erratic for a gate.
        Goal("rate", 25.0, "ducklake", tolerance=0.6, orientation="≥ 4,500/s; DuckLake 143 to 204/s"),
        Goal("p95_ms", 0.25, "ducklake", at_least=False, tolerance=None, orientation="DuckLake p95 227 ms"),
        Goal("rate", 0.4, "decode_only", orientation="decode only 13,000/s on one core"),
    )

    def __init__(self, bench: Bench) -> None:
        super().__init__(bench)
        self.ingest: Ingest | None = None
        self.stack = contextlib.ExitStack()
        self.decode_only_url = ""

    def prepare_product(self) -> None:
        """Create the table and warm up."""
        self.bench.need_product().create_table(TABLE)
        self.ingest = Ingest(self.bench, TABLE, json_spec(self.bench, TABLE, 1, CLIENTS))
        self.ingest.warm_up()

    def prepare_references(self) -> None:
        """Start the decode-only server."""
        self.decode_only_url = self.stack.enter_context(decode_only.server())
        self.bench.load(evolve(self._decode_only_spec(), seconds=1.0))

    def product(self) -> Figures:
        """Write for a few seconds."""
        assert self.ingest is not None
        return self.ingest.run()

    def references(self) -> Mapping[str, Callable[[], Figures]]:
        """Name DuckLake (where there is a Postgres) and the decode-only handler."""
        references: dict[str, Callable[[], Figures]] = {}
        if self.bench.database is not None:
            references["ducklake"] = self._ducklake
        return {**references, "decode_only": self._decode_only}

    def _ducklake(self) -> Figures:
        keywords = self.bench.need_database().keywords
        return isolated(ducklake.one_row_commits, keywords, self.bench.work_dir, self.bench.options.seconds)

    def _decode_only(self) -> Figures:
        result = self.bench.load(self._decode_only_spec())[0]
        require_no_errors(result)
        return result.figures()

    def _decode_only_spec(self) -> LoadSpec:
        url = urlsplit(self.decode_only_url)
        assert url.hostname is not None
        assert url.port is not None
        return LoadSpec(
            host=url.hostname,
            port=url.port,
            path=f"/v1/ingest/{TABLE}",
            bodies=tuple(json_body(1, seed) for seed in range(BODIES)),
            connections=CLIENTS,
            seconds=self.bench.options.seconds,
        )

    def close(self) -> None:
        """Stop the decode-only server."""
        self.stack.close()
