"""What the demo does with a server: each step measures, and says nothing."""

import datetime as dt
import itertools
import queue
import statistics
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from typing import Any, Final

import pyarrow as pa
from attrs import define, field, frozen

from duckmesh.app.cli.arrow_types import json_value
from duckmesh.app.cli.client import ARROW_STREAM, ApiClient
from duckmesh.app.cli.demo_data import AIRLINES, BULK, DATASETS, FLIGHTS, KEYED, Dataset

ARROW_WRITERS: Final = 4
_ARROW_ROWS: Final = 10_000
_JSON_ROWS: Final = 1_000
_BARRIER_MS: Final = 20_000
_COUNT_TODAY: Final = "SELECT count(*) FROM flights WHERE flight = $flight AND time_hour > now() - INTERVAL 2 DAY"

BY_AIRLINE: Final = """
SELECT a.name AS airline, count(*) AS flights, round(avg(f.arr_delay), 1) AS avg_arrival_delay_min,
       round(100.0 * avg((f.arr_delay > 15)::INTEGER), 1) AS percent_late
FROM flights f JOIN airlines a USING (carrier)
WHERE f.arr_delay IS NOT NULL
GROUP BY ALL ORDER BY avg_arrival_delay_min DESC LIMIT 8
"""
BY_WIND: Final = """
SELECT (10 * floor(w.wind_speed / 10))::INTEGER AS wind_from_mph, count(*) AS flights,
       round(avg(f.dep_delay), 1) AS avg_departure_delay_min,
       round(100.0 * avg((f.dep_time IS NULL)::INTEGER), 1) AS percent_cancelled
FROM flights f JOIN weather w USING (origin, time_hour)
WHERE w.wind_speed < 50
GROUP BY ALL ORDER BY wind_from_mph
"""
_THEN_AND_NOW: Final = """
SELECT (SELECT count(*) FROM flights) AS flights,
       (SELECT max(year)::VARCHAR FROM flights) AS latest_year,
       (SELECT name FROM airlines WHERE carrier = 'US') AS airline_us
"""


@frozen
class Load:
    """How fast the data came in."""

    records: int
    requests: int
    durable_seconds: float
    visible_seconds: float
    snapshot_id: int

    @property
    def records_per_second(self) -> float:
        """Acknowledged as durable, by all writers together."""
        return self.records / self.durable_seconds


@frozen
class OwnWrites:
    """Reads right behind a write: how many saw it, and how long the write and the read took together."""

    writes: int
    seen: int
    times_ms: tuple[float, ...]


@define
class Flights:
    """Numbers the flights that the demo adds, so that each can be asked for."""

    _numbers: Iterator[int] = field(factory=lambda: itertools.count(10_001))

    def add(self, client: ApiClient, **options: Any) -> tuple[int, dict[str, Any]]:
        """Write one flight of today; its number and the receipt."""
        number = next(self._numbers)
        record = {"idempotency_key": f"demo-{number}", "op": "insert", "payload": _flight_of_today(number)}
        return number, client.post("/v1/ingest/flights", {"records": [record], **options}, repeatable=True)


def create_tables(client: ApiClient) -> None:
    """Create the tables of all datasets."""
    for dataset in DATASETS:
        client.post("/v1/tables", dataset.create_body)


def read_data(rows: int | None) -> dict[str, Any]:
    """All datasets as Arrow tables, by name."""
    return {dataset.name: dataset.read(rows if dataset is FLIGHTS else None) for dataset in DATASETS}


def load(client: ApiClient, data: dict[str, Any], advance: Callable[[int], None]) -> Load:
    """Write everything from several threads at once, then wait until it is visible."""
    work: queue.SimpleQueue[tuple[Dataset, int, Any]] = queue.SimpleQueue()
    for dataset in BULK:
        for number, batch in enumerate(data[dataset.name].combine_chunks().to_batches(max_chunksize=_ARROW_ROWS)):
            work.put((dataset, number, batch))
    halt = threading.Event()
    requests = work.qsize() + sum(-(-data[dataset.name].num_rows // _JSON_ROWS) for dataset in KEYED)
    started = time.monotonic()
    with ThreadPoolExecutor(ARROW_WRITERS + 1, thread_name_prefix="writer") as pool:
        writers = [pool.submit(_write_arrow, client, work, advance, halt) for _ in range(ARROW_WRITERS)]
        writers.append(pool.submit(_write_json, client, data, advance, halt))
        try:
            token = max(writer.result() for writer in as_completed(writers))
        finally:
            halt.set()  # after an error or Ctrl-C the others stop after the request at hand
    durable = time.monotonic() - started
    answer = count(client, min_visibility_token=token, consistency_timeout_ms=_BARRIER_MS)
    records = sum(table.num_rows for table in data.values())
    return Load(records, requests, durable, time.monotonic() - started, answer["snapshot_id"])


def _write_arrow(client: ApiClient, work: Any, advance: Callable[[int], None], halt: threading.Event) -> int:
    token = 0
    while not halt.is_set():
        try:
            dataset, number, batch = work.get_nowait()
        except queue.Empty:
            break
        body = pa.BufferOutputStream()
        with pa.ipc.new_stream(body, batch.schema) as writer:
            writer.write_batch(batch)
        key = f"demo-{dataset.name}-{number}"
        receipt = client.post_bytes(
            f"/v1/ingest/{dataset.name}", bytes(body.getvalue()), ARROW_STREAM, idempotency_key=key
        )
        token = max(token, receipt["max_visibility_token"])
        advance(batch.num_rows)
    return token


def _write_json(client: ApiClient, data: dict[str, Any], advance: Callable[[int], None], halt: threading.Event) -> int:
    token = 0
    for dataset in KEYED:
        rows = data[dataset.name].to_pylist()
        for start in range(0, len(rows), _JSON_ROWS):
            if halt.is_set():
                return token
            records = [_record(dataset, row) for row in rows[start : start + _JSON_ROWS]]
            receipt = client.post(f"/v1/ingest/{dataset.name}", {"records": records}, repeatable=True)
            token = max(token, receipt["max_visibility_token"])
            advance(len(records))
    return token


def _record(dataset: Dataset, row: dict[str, Any]) -> dict[str, Any]:
    key = "-".join(str(row[name]) for name in dataset.primary_key)
    payload = {name: json_value(value) for name, value in row.items() if value is not None}
    return {"idempotency_key": f"demo-{key}", "op": "upsert", "payload": payload}


def own_writes(client: ApiClient, flights: Flights, writes: int, *, strict: bool) -> OwnWrites:
    """Write without waiting and query at once, with the receipt's token or without; count what was seen."""
    seen = 0
    times = []
    for _ in range(writes):
        started = time.monotonic()
        number, receipt = flights.add(client)
        token = {"min_visibility_token": receipt["max_visibility_token"]} if strict else {}
        answer = query(client, _COUNT_TODAY, params={"flight": number}, **token)
        times.append((time.monotonic() - started) * 1000)
        seen += answer["rows"][0][0] == 1
    return OwnWrites(writes, seen, tuple(times))


def write_to_visible(client: ApiClient, flights: Flights, writes: int) -> tuple[float, ...]:
    """Milliseconds from sending a write to its visibility, for so many writes one after the other."""
    times = []
    for _ in range(writes):
        started = time.monotonic()
        flights.add(client, wait_for_visibility=True)
        times.append((time.monotonic() - started) * 1000)
    return tuple(times)


def rename_airline(client: ApiClient) -> int:
    """US Airways became American Airlines: the upsert of one row; returns its token."""
    payload = {"carrier": "US", "name": "American Airlines Inc. (formerly US Airways)"}
    record = {"idempotency_key": "demo-merger", "op": "upsert", "payload": payload}
    receipt = client.post(f"/v1/ingest/{AIRLINES.name}", {"records": [record]}, repeatable=True)
    return int(receipt["max_visibility_token"])


def then_and_now(client: ApiClient, snapshot_id: int, token: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same query on an old snapshot and on one that has the token."""
    then = query(client, _THEN_AND_NOW, snapshot_id=snapshot_id)
    return then, query(client, _THEN_AND_NOW, min_visibility_token=token)


def query_times(client: ApiClient, sql: str, runs: int) -> tuple[float, ...]:
    """Milliseconds of a query, seen from here, for so many runs."""
    times = []
    for _ in range(runs):
        started = time.monotonic()
        query(client, sql)
        times.append((time.monotonic() - started) * 1000)
    return tuple(times)


def query(client: ApiClient, sql: str, **options: Any) -> dict[str, Any]:
    """Run a query."""
    return client.post("/v1/query", {"sql": sql, **options}, repeatable=True)


def count(client: ApiClient, **options: Any) -> dict[str, Any]:
    """Count the flights."""
    return query(client, "SELECT count(*) FROM flights", **options)


def percentile(times: Sequence[float], percent: int) -> float:
    """The nearest value that so many percent do not exceed."""
    if percent == 50:  # noqa: PLR2004 - the median
        return statistics.median(times)
    ordered = sorted(times)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


def _flight_of_today(number: int) -> dict[str, Any]:
    now = dt.datetime.now(dt.UTC)
    hour = now.replace(minute=0, second=0, microsecond=0)
    return {
        "year": now.year, "month": now.month, "day": now.day, "sched_dep_time": now.hour * 100 + now.minute,
        "carrier": "UA", "flight": number, "tailnum": "N14228", "origin": "EWR", "dest": "IAH",
        "distance": 1400.0, "hour": now.hour, "minute": now.minute, "time_hour": hour.isoformat(),
    }  # fmt: skip
