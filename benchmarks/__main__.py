"""``python -m benchmarks``: measure, write the results, and compare with the baseline when asked."""

import argparse
import asyncio
import contextlib
import datetime as dt
import json
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from attrs import evolve

from benchmarks import compare, report
from benchmarks.database import bench_database, server_settings
from benchmarks.harness import Bench, Options, RowResult, measure
from benchmarks.product import Endpoint, Product, embedded
from benchmarks.rows import ROWS

RESULTS = Path(__file__).with_name("results")
QUICK = Options(runs=2, seconds=1.5, ledger_keys=100_000, quick=True)


def arguments() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--embedded", action="store_true", help="start `duckmesh up` for the benchmark (default)")
    where.add_argument("--url", help="measure a server that runs already; references need --dsn then")
    where.add_argument("--references-only", action="store_true", help="no product; needs --dsn")
    parser.add_argument("--key", help="API key for --url")
    parser.add_argument("--dsn", help="postgresql:// of a user who may create databases; default: the product's own")
    parser.add_argument("--only", action="append", choices=[row.name for row in ROWS], help="may be repeated")
    parser.add_argument("--list", action="store_true", help="show the rows and their goals")
    parser.add_argument("--quick", action="store_true", help="2 short runs and small ledgers: a smoke test")
    parser.add_argument("--runs", type=int, help="pairs of runs for each reference, default 5")
    parser.add_argument("--seconds", type=float, help="length of a run, default 3")
    parser.add_argument("--ledger-keys", type=int, help="keys in the ledgers beforehand, default 2,000,000")
    parser.add_argument("--work-dir", type=Path, help="where data goes; a real disk, since fsync is part of it")
    parser.add_argument("--name", help="folder below benchmarks/results/, default: the time")
    parser.add_argument("--compare", metavar="BASELINE", help="`baseline` or a file; exit 1 on a regression")
    parser.add_argument("--save-baseline", action="store_true", help="store the ratios as benchmarks/baseline.json")
    parser.add_argument("--results", type=Path, help="do not measure; use this results.json")
    return parser


def options(given: argparse.Namespace) -> Options:
    chosen = QUICK if given.quick else Options()
    changes = {
        name: value for name in ("runs", "seconds", "ledger_keys") if (value := getattr(given, name)) is not None
    }
    return evolve(chosen, **changes)


@contextlib.contextmanager
def work_dir(parent: Path | None) -> Iterator[Path]:
    """Make a folder that an unprivileged Postgres can reach, also when root runs the benchmark."""
    with tempfile.TemporaryDirectory(prefix="duckmesh-bench-", dir=parent) as folder:
        os.chmod(folder, 0o755)  # noqa: PTH101 - mkdtemp made it 0700
        yield Path(folder)


@contextlib.contextmanager
def opened_bench(given: argparse.Namespace) -> Iterator[Bench]:
    """Start or reach what is measured, and end it afterwards."""
    with contextlib.ExitStack() as stack:
        folder = stack.enter_context(work_dir(given.work_dir))
        product, dsn = None, given.dsn
        if given.url:
            product = stack.enter_context(contextlib.closing(Product(Endpoint(given.url.rstrip("/"), given.key))))
        elif not given.references_only:
            product, own_dsn = stack.enter_context(embedded(folder / "data"))
            dsn = dsn or own_dsn
        database = stack.enter_context(bench_database(dsn)) if dsn else None
        bench = Bench(options(given), folder, database, product)
        stack.callback(bench.close)
        yield bench


def run(given: argparse.Namespace) -> dict[str, Any]:
    started = dt.datetime.now(dt.UTC).strftime("%Y-%m-%d %H:%M UTC")
    with opened_bench(given) as bench:
        results: list[RowResult] = []
        facts: dict[str, Any] = {"machine": report.machine(bench.work_dir)}
        if bench.database is not None:
            facts["postgres"] = asyncio.run(server_settings(bench.database.uri))
        if bench.product is not None:
            facts["cold_start_seconds"] = bench.product.cold_start_seconds
        for row in ROWS:
            if not given.only or row.name in given.only:
                print(row.title, file=sys.stderr, flush=True)
                results.append(measure(row(bench)))
        return report.document(results, bench.options, facts, started)


def gate(results: dict[str, Any], baseline: Path) -> int:
    found = list(compare.regressions(results, compare.load(baseline)))
    for line in found:
        print(f"regression: {line}")
    print(f"{len(found)} regressions against {baseline}")
    return 1 if found else 0


def show_rows() -> None:
    for row in ROWS:
        print(f"{row.name}: {row.title}")
        for goal in row.goals:
            print(f"    {goal.name}: {goal.text()}  {goal.orientation}")


def main() -> int:
    given = arguments().parse_args()
    if given.list:
        show_rows()
        return 0
    if given.references_only and not given.dsn:
        raise SystemExit("--references-only needs --dsn")
    if given.results:
        results = json.loads(given.results.read_text(encoding="utf-8"))
    else:
        results = run(given)
        folder = RESULTS / (given.name or dt.datetime.now(dt.UTC).strftime("%Y%m%dT%H%M%SZ"))
        report.write(folder, results)
        print(report.markdown(results))
        print(f"written to {folder}")
    if given.save_baseline:
        compare.save(results)
    return gate(results, compare.find(given.compare)) if given.compare else 0


if __name__ == "__main__":
    sys.exit(main())
