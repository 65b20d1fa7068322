"""The demo from start to end: runs the steps, and tells what they show."""

import json
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from attrs import define, frozen
from rich.console import Console
from rich.table import Table
from rich.text import Text

from duckmesh.app.cli import demo_steps as steps
from duckmesh.app.cli.client import ApiClient
from duckmesh.app.cli.demo_data import check_available
from duckmesh.app.cli.demo_server import DemoServer, interruptible, running_server, workspace
from duckmesh.app.cli.discovery import DEFAULT_URL, KEY_FILE, Target, resolve_data_dir
from duckmesh.app.cli.output import console, result_table
from duckmesh.app.cli.progress import row_progress

_CONTRAST_WRITES = 20
_VISIBILITY_WRITES = 50
_QUERY_RUNS = 15
_EXAMPLE = "SELECT origin, count(*) FROM flights GROUP BY ALL"


@frozen
class Options:
    """How the demo was asked for."""

    keep: bool = False
    rows: int | None = None
    port: int | None = None
    data_dir: Path | None = None
    quiet: bool = False


def run_demo(options: Options) -> dict[str, Any]:
    """Run everything and return what was measured; leaves nothing behind unless it is told to."""
    check_available()
    # With --json stdout belongs to the document.
    screen = console(sys.stderr if options.quiet else None)
    started = time.monotonic()
    with interruptible(), workspace(options.data_dir, keep=options.keep) as folder:
        with running_server(folder, options.port or 0) as server:
            story = _Story(screen)
            target = story.wait_ready(server)
            with ApiClient(target, retry_seconds=0.5) as client:
                measured = story.tell(client, options.rows)
            story.measured(measured)
            with _working(screen, "Stopping the server"):
                server.stop()
        measured["total_seconds"] = round(time.monotonic() - started, 1)
    _farewell(screen, options, target, folder)
    return measured


@define
class _Story:
    """The screen and the order of the steps."""

    screen: Console
    number: int = 0

    def wait_ready(self, server: DemoServer) -> Target:
        """Start the server."""
        self.headline("Starting DuckMesh: API, coordinator and an embedded PostgreSQL")
        started = time.monotonic()
        with _working(self.screen, "waiting until it is ready"):
            target = server.wait_ready()
        self.say(f"ready in {time.monotonic() - started:.1f} s at {target.url}, data in {server.data_dir}")
        return target

    def tell(self, client: ApiClient, rows: int | None) -> dict[str, Any]:
        """All steps that need the server; returns the measurements."""
        load = self.load(client, rows)
        flights = steps.Flights()
        strict, plain = self.own_writes(client, flights)
        self.time_travel(client, load.snapshot_id)
        self.analyse(client)
        with _working(self.screen, "measuring"):
            visible = steps.write_to_visible(client, flights, _VISIBILITY_WRITES)
            queries = steps.query_times(client, steps.BY_AIRLINE, _QUERY_RUNS)
        return {
            "records": load.records,
            "records_per_second": round(load.records_per_second),
            "all_visible_seconds": round(load.visible_seconds, 2),
            "write_to_visible_p50_ms": round(steps.percentile(visible, 50), 1),
            "write_to_visible_p95_ms": round(steps.percentile(visible, 95), 1),
            "write_and_strict_read_p50_ms": round(steps.percentile(strict.times_ms, 50), 1),
            "query_p50_ms": round(steps.percentile(queries, 50), 1),
            "strict_reads_that_saw_their_write": f"{strict.seen}/{strict.writes}",
            "plain_reads_that_saw_their_write": f"{plain.seen}/{plain.writes}",
        }

    def load(self, client: ApiClient, rows: int | None) -> steps.Load:
        """Create tables and fill them."""
        self.headline("Loading every flight that left New York in 2013, with weather, planes, airports and airlines")
        with _working(self.screen, "reading the files"):
            data = steps.read_data(rows)
            steps.create_tables(client)
        total = sum(table.num_rows for table in data.values())
        with self.progress(total) as advance:
            load = steps.load(client, data, advance)
        self.say(
            f"{load.records:,} records in {load.requests} requests from {steps.ARROW_WRITERS + 1} writers at once "
            f"({steps.ARROW_WRITERS} with Arrow streams, 1 with JSON records)"
        )
        self.say(
            f"durable after {load.durable_seconds:.2f} s ({load.records_per_second:,.0f} records/s), "
            f"all visible after {load.visible_seconds:.2f} s, in snapshot {load.snapshot_id}"
        )
        return load

    def own_writes(self, client: ApiClient, flights: steps.Flights) -> tuple[steps.OwnWrites, steps.OwnWrites]:
        """Strict reads, and the same without a token."""
        self.headline("Reading your own writes: insert a flight, do not wait, query at once")
        plain = steps.own_writes(client, flights, _CONTRAST_WRITES, strict=False)
        strict = steps.own_writes(client, flights, _CONTRAST_WRITES, strict=True)
        shown = Table("query right behind the write", "saw the flight", "write and query, median", header_style="bold")
        for name, reads in (("with min_visibility_token", strict), ("without a token", plain)):
            median = f"{steps.percentile(reads.times_ms, 50):.1f} ms"
            shown.add_row(name, f"{reads.seen} of {reads.writes}", median)
        self.screen.print(shown)
        self.say(
            "the token of the receipt is a promise: the query waits for the snapshot that has the write, or fails; "
            "without it the query takes the latest snapshot, which may be a moment older"
        )
        return strict, plain

    def time_travel(self, client: ApiClient, snapshot_id: int) -> None:
        """The same query then and now."""
        self.headline("Time travel: an airline was renamed by an upsert; the old snapshot still says what it said")
        then, now = steps.then_and_now(client, snapshot_id, steps.rename_airline(client))
        shown = Table("", f"then: snapshot {snapshot_id}", f"now: snapshot {now['snapshot_id']}", header_style="bold")
        for name, before, after in zip(then["columns"], then["rows"][0], now["rows"][0], strict=True):
            shown.add_row(*(Text(f"{v:,}" if isinstance(v, int) else str(v)) for v in (name, before, after)))
        self.screen.print(shown)

    def analyse(self, client: ApiClient) -> None:
        """Two queries that join."""
        self.headline("Analysing: joins over typed Parquet, each on one consistent snapshot")
        for title, sql in (
            ("Late arrivals by airline", steps.BY_AIRLINE),
            ("Does the wind matter?", steps.BY_WIND),
        ):
            started = time.monotonic()
            answer = steps.query(client, sql)
            elapsed = (time.monotonic() - started) * 1000
            full = f"{title} ({elapsed:.0f} ms, snapshot {answer['snapshot_id']})"
            self.screen.print(result_table(answer["columns"], answer["column_types"], answer["rows"], full))

    def measured(self, measured: dict[str, Any]) -> None:
        """The numbers of this run."""
        self.headline("Measured on this machine, from this client, over HTTP")
        shown = Table("what", "measured", header_style="bold")
        for what, value in (
            ("records acknowledged as durable", f"{measured['records_per_second']:,} /s"),
            (f"write to visible, p50 of {_VISIBILITY_WRITES}", f"{measured['write_to_visible_p50_ms']} ms"),
            (f"write to visible, p95 of {_VISIBILITY_WRITES}", f"{measured['write_to_visible_p95_ms']} ms"),
            ("write and strict read of it, p50", f"{measured['write_and_strict_read_p50_ms']} ms"),
            ("late arrivals by airline (a join), p50", f"{measured['query_p50_ms']} ms"),
        ):
            shown.add_row(what, Text(value, justify="right"))
        self.screen.print(shown)

    @contextmanager
    def progress(self, total: int) -> Iterator[Callable[[int], None]]:
        """A bar where somebody looks at it."""
        if not self.screen.is_terminal:
            yield lambda _rows: None
            return
        with row_progress(total, "  loading", self.screen) as advance:
            yield advance

    def headline(self, text: str) -> None:
        """Begin a step."""
        self.number += 1
        self.screen.print()
        self.screen.print(Text(f"{self.number}. {text}", style="bold cyan"))

    def say(self, text: str) -> None:
        """Say a fact."""
        self.screen.print(Text(text))


def _working(screen: Console, text: str) -> AbstractContextManager[Any]:
    """A spinner on a terminal, a plain line elsewhere."""
    if not screen.is_terminal:
        screen.print(f"{text} …", markup=False)
    return screen.status(text)


def _farewell(screen: Console, options: Options, target: Target, folder: Path) -> None:
    """How to go on."""
    if options.keep:
        headline, commands = "The server has stopped, the data is kept. Go on with", _kept(target, folder)
    else:
        headline, commands = "Everything has been removed (--keep keeps it). Go on with your own", _own()
    screen.print()
    screen.print(Text(headline, style="bold"))
    for command in commands:
        screen.print(Text(f"  {command}"), soft_wrap=True)


def _kept(target: Target, folder: Path) -> list[str]:
    at = f"--data-dir {folder}"
    key_file = folder / KEY_FILE if target.api_key else None
    return [
        f"duckmesh up {at} --port {urlsplit(target.url).port}",
        f"duckmesh query {at} '{_EXAMPLE}'",
        f"duckmesh snapshots list {at}",
        _curl(target.url, key_file, "flights"),
    ]


def _own() -> list[str]:
    return [
        "duckmesh up",
        "duckmesh ingest events.parquet --table events --create --wait",
        "duckmesh query 'SELECT count(*) FROM events'",
        _curl(DEFAULT_URL, resolve_data_dir(None) / KEY_FILE, "events"),
    ]


def _curl(url: str, key_file: Path | None, table: str) -> str:
    key = f' -H "Authorization: Bearer $(cat {key_file})"' if key_file else ""
    body = json.dumps({"sql": f"SELECT count(*) FROM {table}"})  # noqa: S608 - text for a reader
    return f"curl -s {url}/v1/query{key} -H 'Content-Type: application/json' -d '{body}'"
