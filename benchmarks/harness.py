"""Runs, medians and ratios: how a row is measured, whatever it measures.

Machines are shared and noisy, so nothing is judged by an absolute figure. A reference and the product run in turn,
each pair of neighbours gives one ratio, and the median of the ratios is the result.
"""

import concurrent.futures
import itertools
import math
import multiprocessing
import statistics
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, ParamSpec, TypeVar

from attrs import define, field, frozen

from benchmarks.database import BenchDatabase
from benchmarks.load import LoadResult, LoadSpec, run_loads
from benchmarks.product import Product

_TIMES = " \N{MULTIPLICATION SIGN}"
P = ParamSpec("P")
T = TypeVar("T")

Figures = Mapping[str, float]
"""What one run measured: a name to a number, for example ``rate`` in records/s or ``p95_ms``."""


@frozen
class Goal:
    """One promise about speed, as data.

    ``bound`` is compared with the ratio product/reference of ``figure``, or with the product's figure itself when
    there is no reference. ``at_least`` says which side of it is good. ``bound`` None only shows the ratio.
    """

    figure: str
    bound: float | None
    reference: str | None = None
    reference_figure: str | None = None
    at_least: bool = True
    orientation: str = ""
    tolerance: float | None = 0.3
    """How far the ratio may fall behind the stored baseline before the regression gate complains; None: no gate."""
    worst: bool = False
    """Judge the largest figure of all runs, not the median: one timeout is one too many."""

    @property
    def name(self) -> str:
        """Identify the goal within its row, in results and in the baseline."""
        return f"{self.figure} vs {self.reference}" if self.reference else self.figure

    def text(self) -> str:
        """Say the goal in the table."""
        if self.bound is None:
            return "shown only"
        sign = "≥" if self.at_least else "≤"
        return f"{sign} {self.bound:g}{_TIMES if self.reference else ''}"

    def met_by(self, value: float) -> bool | None:
        """Decide; None when there is no bound, and a missing value never meets a goal."""
        if self.bound is None:
            return None
        if math.isnan(value):
            return False
        return value >= self.bound if self.at_least else value <= self.bound


@frozen
class Options:
    """What the command line chose."""

    runs: int = 5
    seconds: float = 3.0
    ledger_keys: int = 2_000_000
    """Keys that stand in the ledgers of product and reference before records with keys are measured."""
    quick: bool = False


@define
class Bench:
    """What a row may use."""

    options: Options
    work_dir: Path
    database: BenchDatabase | None = None
    product: Product | None = None
    _generator: concurrent.futures.ProcessPoolExecutor | None = None

    def load(self, *specs: LoadSpec) -> list[LoadResult]:
        """Run streams of requests in the generator's process, which stays up so that a run starts at once."""
        if self._generator is None:
            self._generator = _one_process()
        return self._generator.submit(run_loads, specs).result()

    def need_product(self) -> Product:
        """Return the product; a row asks only when it is there."""
        if self.product is None:
            raise RuntimeError("this row's product side needs --embedded or --url")
        return self.product

    def need_database(self) -> BenchDatabase:
        """Return the references' database; a row asks only when it is there."""
        if self.database is None:
            raise RuntimeError("this reference needs a Postgres: --embedded or --dsn")
        return self.database

    def close(self) -> None:
        """End the generator's process."""
        if self._generator is not None:
            self._generator.shutdown()
            self._generator = None


class Row:
    """One row of the table: what the product does, what it is compared with, and the goals."""

    name: ClassVar[str]
    title: ClassVar[str]
    goals: ClassVar[tuple[Goal, ...]]

    def __init__(self, bench: Bench) -> None:
        self.bench = bench

    def prepare_product(self) -> None:
        """Create tables and warm up; not timed."""

    def prepare_references(self) -> None:
        """Create schemas, start servers, fill ledgers; not timed."""

    def product(self) -> Figures:
        """Measure the product once."""
        raise NotImplementedError

    def references(self) -> Mapping[str, Callable[[], Figures]]:
        """Name the references; each call measures once."""
        return {}

    def close(self) -> None:
        """End what ``prepare_references`` started."""


@frozen
class Run:
    """One measurement of one side. ``pair`` joins a reference's run with the product's run right after it."""

    side: str
    pair: int
    figures: Figures


@frozen
class Verdict:
    """How a goal came out."""

    goal: Goal
    product: float
    reference: float
    value: float
    """The median ratio of the pairs, or the median figure when there is no reference."""
    values: tuple[float, ...]
    met: bool | None = None


@define
class RowResult:
    """Everything that was measured for a row, and the verdicts."""

    name: str
    title: str
    runs: list[Run] = field(factory=list)
    verdicts: list[Verdict] = field(factory=list)
    failure: str | None = None

    def figures(self, side: str, figure: str) -> list[float]:
        """Return a figure of every run of one side."""
        return [run.figures.get(figure, math.nan) for run in self.runs if run.side == side]

    def sides(self) -> list[str]:
        """Return the references, then the product, as far as they ran."""
        return sorted({run.side for run in self.runs}, key=lambda side: (side == PRODUCT, side))


PRODUCT = "product"


def measure(row: Row) -> RowResult:
    """Measure a row: every reference in turn with the product after it, again and again."""
    result = RowResult(row.name, row.title)
    product = row.bench.product is not None
    try:
        row.prepare_references()
        if product:
            row.prepare_product()
        pairs = itertools.count()
        rounds = row.bench.options.runs if product or row.references() else 0
        for round_number in range(1, rounds + 1):
            print(f"  {row.name}: run {round_number} of {rounds}", file=sys.stderr, flush=True)
            for run in _round(row, pairs, product=product):
                print(f"    {run.side:<12} {_line(run.figures)}", file=sys.stderr, flush=True)
                result.runs.append(run)
    except Exception as error:  # noqa: BLE001 - one broken row must not cost the others their results
        result.failure = f"{type(error).__name__}: {error}"
        print(f"  {row.name} failed: {result.failure}", file=sys.stderr, flush=True)
    finally:
        row.close()
    if product:
        result.verdicts = [judge(goal, result) for goal in row.goals]
    return result


def _round(row: Row, pairs: Iterator[int], *, product: bool) -> Iterator[Run]:
    references = row.references()
    for name, reference in references.items():
        pair = next(pairs)
        yield Run(name, pair, reference())
        if product:
            yield Run(PRODUCT, pair, row.product())
    if product and not references:
        yield Run(PRODUCT, next(pairs), row.product())


def judge(goal: Goal, result: RowResult) -> Verdict:
    """Compare what was measured with a goal."""
    if goal.reference is None:
        values = result.figures(PRODUCT, goal.figure)
        value = max(values, default=math.nan) if goal.worst else _median(values)
        return Verdict(goal, value, math.nan, value, tuple(values), goal.met_by(value))
    ratios, ours, theirs = [], [], []
    for reference, product in _pairs(result, goal.reference):
        ours.append(product.figures.get(goal.figure, math.nan))
        theirs.append(reference.figures.get(goal.reference_figure or goal.figure, math.nan))
        ratios.append(ours[-1] / theirs[-1] if theirs[-1] else math.nan)
    value = _median(ratios)
    return Verdict(goal, _median(ours), _median(theirs), value, tuple(ratios), goal.met_by(value))


def _pairs(result: RowResult, reference: str) -> Iterator[tuple[Run, Run]]:
    products = {run.pair: run for run in result.runs if run.side == PRODUCT}
    for run in result.runs:
        if run.side == reference and run.pair in products:
            yield run, products[run.pair]


def _median(values: list[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return statistics.median(known) if known else math.nan


def _line(figures: Figures) -> str:
    return "  ".join(f"{name} {value:,.4g}" for name, value in figures.items())


def _one_process() -> concurrent.futures.ProcessPoolExecutor:
    # Spawned, not forked: a reference must not inherit threads and sockets of the harness.
    return concurrent.futures.ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))


def isolated(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Run a reference in a fresh process, so that it has an interpreter to itself as the product has."""
    with _one_process() as pool:
        return pool.submit(function, *args, **kwargs).result()


def as_dict(result: RowResult) -> dict[str, Any]:
    """Return a row as plain values for JSON."""
    return {
        "name": result.name,
        "title": result.title,
        "failure": result.failure,
        "medians": {
            side: {
                figure: _median(result.figures(side, figure))
                for figure in dict.fromkeys(key for run in result.runs if run.side == side for key in run.figures)
            }
            for side in result.sides()
        },
        "goals": [
            {
                "name": verdict.goal.name,
                "goal": verdict.goal.text(),
                "bound": verdict.goal.bound,
                "at_least": verdict.goal.at_least,
                "relative": verdict.goal.reference is not None,
                "tolerance": verdict.goal.tolerance,
                "orientation": verdict.goal.orientation,
                "product": verdict.product,
                "reference": verdict.reference,
                "value": verdict.value,
                "values": list(verdict.values),
                "met": verdict.met,
            }
            for verdict in result.verdicts
        ],
        "runs": [{"side": run.side, "pair": run.pair, "figures": dict(run.figures)} for run in result.runs],
    }
