"""How a file is loaded: the table is found or made, chunks are cast and sent by a few workers, receipts are summed.

The last chunk is sent when all others are durable. So its token is the highest, and waiting for it alone is waiting
for the file.
"""

import hashlib
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

import msgspec
import pyarrow as pa
from attrs import define, field, frozen

from duckmesh.app.cli.arrow_types import cast_batch, inferred_schema, json_value, table_types
from duckmesh.app.cli.client import ARROW_STREAM, JSON, ApiClient
from duckmesh.app.cli.exit_codes import CliError, ServerAnswered, UsageProblem
from duckmesh.app.cli.formats import FileFormat
from duckmesh.app.cli.sources import Lines, Source
from duckmesh.app.cli.tables import table_path

#: A load outlives a restart of the server.
RETRY_SECONDS: Final = 60.0
_WORKERS: Final = 4
_NOT_FOUND: Final = "TABLE_NOT_FOUND"
_EXISTS: Final = "TABLE_EXISTS"
_TOO_LARGE: Final = "PAYLOAD_TOO_LARGE"

_LINE: Final = msgspec.json.Decoder(msgspec.Raw)

Advance = Callable[[int], None]


@frozen
class Job:
    """What to load, and how."""

    file: str
    table: str
    form: FileFormat
    create: bool = False
    primary_key: tuple[str, ...] = ()
    op: str = "insert"
    batch_rows: int = 10_000
    wait: bool = False
    timeout_ms: int | None = None
    key_column: str | None = None
    workers: int | None = None
    null_values: tuple[str, ...] = ("",)
    run: str = ""


@define
class Summary:
    """What the server said to all chunks together."""

    table: str
    rows: int = 0
    requests: int = 0
    accepted: int = 0
    duplicates: int = 0
    token: int = 0
    scope: str | None = None
    snapshot: int | None = None
    seconds: float = 0.0
    visible: bool = False

    def add(self, rows: int, receipt: Mapping[str, Any]) -> None:
        """Count one receipt."""
        self.rows += rows
        self.requests += 1
        self.accepted += int(receipt.get("accepted_count", 0))
        self.duplicates += int(receipt.get("duplicate_count", 0))
        self.token = max(self.token, int(receipt.get("max_visibility_token") or 0))
        self.scope = receipt.get("visibility_scope", self.scope)
        self.snapshot = receipt.get("visible_snapshot_id") or self.snapshot
        self.visible = receipt.get("status") == "visible"

    @property
    def document(self) -> dict[str, Any]:
        """The summary for ``--json``; the names are those of a receipt."""
        return {
            "table": self.table,
            "rows": self.rows,
            "requests": self.requests,
            "accepted_count": self.accepted,
            "duplicate_count": self.duplicates,
            "max_visibility_token": self.token or None,
            "visibility_scope": self.scope,
            "visible_snapshot_id": self.snapshot,
            "visible": self.visible,
            "duration_ms": round(self.seconds * 1000, 1),
        }

    @property
    def line(self) -> str:
        """The summary for people."""
        if not self.requests:
            return f"{self.table}: the file has no rows"
        rate = self.rows / self.seconds if self.seconds else 0.0
        seen = f"visible in snapshot {self.snapshot}" if self.visible and self.snapshot else "durable"
        again = f", {self.duplicates:,} known already" if self.duplicates else ""
        return (
            f"{self.table}: {self.accepted:,} accepted{again}, {seen}, token {self.token} "
            f"({self.rows:,} rows in {self.seconds:.1f} s, {rate:,.0f} rows/s)"
        )


@frozen
class Request:
    """One chunk as it is sent: an Arrow stream with its key, or JSON records with theirs."""

    rows: int
    body: bytes = b""
    key: str = ""
    records: Sequence[Mapping[str, Any]] | None = None


@define
class _Sender:
    """Sends chunks of one job, and remembers what is stored when one fails."""

    client: ApiClient
    job: Job
    summary: Summary
    advance: Advance = field(default=lambda _rows: None)

    def send_all(self, requests: Iterator[Request], workers: int) -> None:
        """Send everything: all but the last by the workers, then the last."""
        pool = ThreadPoolExecutor(workers, thread_name_prefix="ingest")
        pending: set[Future[tuple[int, dict[str, Any]]]] = set()
        last: Request | None = None
        try:
            for request in requests:
                if last is not None:
                    pending.add(pool.submit(self._send, last, visible=False))
                last = request
                pending = self._collect(pending, at_most=2 * workers)
            self._collect(pending, at_most=0)
            if last is not None:
                self._count(*self._send(last, visible=self.job.wait))
        except CliError as error:
            self._explain(error)
            raise
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def _collect(
        self, pending: set[Future[tuple[int, dict[str, Any]]]], at_most: int
    ) -> set[Future[tuple[int, dict[str, Any]]]]:
        while len(pending) > at_most:
            done, pending = wait(pending, return_when=FIRST_COMPLETED)
            for future in done:
                self._count(*future.result())
        return pending

    def _count(self, rows: int, receipt: dict[str, Any]) -> None:
        self.summary.add(rows, receipt)
        self.advance(rows)

    def _send(self, request: Request, *, visible: bool) -> tuple[int, dict[str, Any]]:
        path = f"/v1/ingest/{quote(self.job.table, safe='')}"
        timeout = self.job.timeout_ms if visible else None
        if request.records is not None:
            body = {"records": request.records, "wait_for_visibility": visible, "visibility_timeout_ms": timeout}
            given = {name: value for name, value in body.items() if value is not None}
            return request.rows, self.client.post_bytes(path, msgspec.json.encode(given), JSON)
        receipt = self.client.post_bytes(
            path, request.body, ARROW_STREAM, idempotency_key=request.key,
            op=self.job.op, wait_for_visibility="true" if visible else None, visibility_timeout_ms=timeout,
        )  # fmt: skip
        return request.rows, receipt

    def _explain(self, error: CliError) -> None:
        """Add what a user needs to go on: what is stored, and what to change."""
        if self.summary.requests:
            error.context["rows_stored_before"] = self.summary.rows
            error.message += "; the same command again goes on from here and stores nothing twice"
        if error.error_code == _TOO_LARGE:
            error.message += "; use a smaller --batch-rows"


def load(client: ApiClient, job: Job, *, show_progress: bool) -> Summary:
    """Load a file; returns when everything is durable, or visible if the job waits."""
    _check_file(job.file)
    info = _find_table(client, job)
    started = time.monotonic()
    summary = Summary(job.table)
    with Source(job.file, job.form, job.null_values) as source:
        source.open(table_types(info) if info else None, job.batch_rows)
        if info is None:
            info = _create_table(client, job, source)
        workers = job.workers or (1 if info.get("primary_key_cols") else _WORKERS)
        with _progress(source.total_rows, job.table, wanted=show_progress) as advance:
            sender = _Sender(client, job, summary, advance)
            sender.send_all(requests_for(job, info, source.chunks(job.batch_rows)), workers)
    summary.seconds = time.monotonic() - started
    return summary


def _check_file(name: str) -> None:
    """Complain before anything is asked of the server."""
    if name != "-" and (not Path(name).exists() or Path(name).is_dir()):
        raise UsageProblem(f"there is no file {name}", file=name)


def requests_for(job: Job, info: Mapping[str, Any], chunks: Iterable[Any]) -> Iterator[Request]:
    """The chunks of a file as requests for a table."""
    types = table_types(info)
    open_ended = info.get("schema_mode") == "auto"
    first_row = 0
    for number, chunk in enumerate(chunks):
        if job.key_column:
            yield Request(chunk.num_rows, records=list(_records(job, info, chunk, first_row)))
        elif isinstance(chunk, Lines):
            yield Request(chunk.num_rows, records=_keyed_lines(job, number, chunk, first_row))
        else:
            if not open_ended:
                _check_names(chunk.schema.names, types, job.table)
            body = _stream_of(cast_batch(chunk, types, first_row))
            yield Request(chunk.num_rows, body, chunk_key(job, number, body))
        first_row += chunk.num_rows


def chunk_key(job: Job, number: int, body: bytes) -> str:
    """The idempotency key of a chunk: the same for the same content at the same place, and no other."""
    digest = hashlib.sha256()
    for part in (job.table.lower(), job.op, job.run, str(number)):
        digest.update(part.encode() + b"\0")
    digest.update(body)
    return f"cli-{digest.hexdigest()[:40]}"


def _stream_of(batch: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return bytes(sink.getvalue())


def _check_names(names: Iterable[str], types: Mapping[str, Any], table: str) -> None:
    unknown = [name for name in names if name.lower() not in types]
    if unknown:
        raise UsageProblem(
            f"table {table!r} has no column {', '.join(map(repr, unknown))}; rename or drop it in the file",
            columns=unknown,
        )


def _keyed_lines(job: Job, number: int, chunk: Lines, first_row: int) -> Sequence[dict[str, Any]]:
    """NDJSON as records, under the chunk's key and their place in it.

    Not as Arrow: the server reads JSON exactly, where a detour over Arrow's JSON reader would round numbers.
    """
    key = chunk_key(job, number, chunk.body)
    return [
        {"idempotency_key": f"{key}-{place}", "op": job.op, "payload": row}
        for place, row in enumerate(_objects(chunk, first_row))
    ]


def _objects(chunk: Lines, first_row: int) -> Iterator[msgspec.Raw]:
    """The lines as they are, each looked at: one that is no object would be read as something else in a body."""
    for number, line in enumerate(chunk.lines, start=first_row + 1):
        try:
            value = _LINE.decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UsageProblem(f"record {number} is not a JSON object: {error}", row=number) from error
        if not line.startswith(b"{"):
            raise UsageProblem(f"record {number} is not a JSON object", row=number)
        yield value


def _records(job: Job, info: Mapping[str, Any], chunk: Any, first_row: int) -> Iterator[dict[str, Any]]:
    column = job.key_column or ""
    columns = {name.lower() for name in info["schema_json"]}
    keeps_key = column.lower() in columns or info.get("schema_mode") == "auto"
    for number, row in enumerate(_rows(chunk, first_row), start=first_row + 1):
        key = _key_text(row.get(column) if keeps_key else row.pop(column, None))
        if key is None:
            raise UsageProblem(f"row {number} has no value in the key column {column!r}", row=number)
        yield {"idempotency_key": f"{job.run}{key}", "op": job.op, "payload": row}


def _key_text(value: Any) -> str | None:
    if isinstance(value, msgspec.Raw):
        decoded = msgspec.json.decode(value)
        value = bytes(value).decode() if isinstance(decoded, int | float) else decoded
    return None if value is None else str(value)


def _rows(chunk: Any, first_row: int) -> Iterator[dict[str, Any]]:
    if not isinstance(chunk, Lines):
        for row in chunk.to_pylist():
            yield {name: json_value(value) for name, value in row.items()}
        return
    for number, line in enumerate(chunk.lines, start=first_row + 1):
        try:
            # Values stay as they are written: a number that went through a float could come out as another.
            yield msgspec.json.decode(line, type=dict[str, msgspec.Raw])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise UsageProblem(f"record {number} is not a JSON object: {error}", row=number) from error


def _find_table(client: ApiClient, job: Job) -> dict[str, Any] | None:
    try:
        return client.get(table_path(job.table))
    except ServerAnswered as error:
        if error.error_code != _NOT_FOUND:
            raise
        if not job.create:
            error.message += "; add --create to make it from the file"
            raise
        return None


def _create_table(client: ApiClient, job: Job, source: Source) -> dict[str, Any]:
    if source.schema is None:
        raise UsageProblem(f"{job.file} has no rows to infer the columns from; create the table first")
    body = {
        "table_name": job.table,
        "schema_json": inferred_schema(source.schema),
        "primary_key_cols": list(job.primary_key) or None,
    }
    try:
        return client.post("/v1/tables", body)
    except ServerAnswered as error:
        if error.error_code != _EXISTS:
            raise
        return client.get(table_path(job.table))  # somebody else was faster


@contextmanager
def _progress(total: int | None, name: str, *, wanted: bool) -> Iterator[Advance]:
    if not (wanted and sys.stderr.isatty()):
        yield lambda _rows: None
        return
    from duckmesh.app.cli.progress import row_progress  # noqa: PLC0415 - only where somebody looks

    with row_progress(total, name) as advance:
        yield advance
