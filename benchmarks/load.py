"""The load generator: raw HTTP/1.1 over keep-alive sockets, in a process of its own.

A general HTTP client costs more per request than the server under test. This one writes ready-made bytes and
reads of a response only its status, its length and the receipt, so that it takes a fraction of the server's time;
every result says how much (``client_cpu``).
"""

import asyncio
import collections
import re
import time
from typing import Any

import msgspec
import uvloop
from attrs import define, field, frozen

from benchmarks.bodies import KEY_PREFIX_LENGTH, MARKER, Template, key_prefixes

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_TICK_SECONDS = 0.001
_MAX_RECONNECTS = 100
_DRAIN_SECONDS = 60.0


@frozen
class LoadSpec:
    """One stream of requests against one path.

    Closed loop by default: every connection sends its next request when it has the answer to the last one. With
    ``rate`` (requests/s) it is an open loop, and latency counts from the moment a request was due, so that a
    server which stalls cannot hide it.
    """

    host: str
    port: int
    path: str
    bodies: tuple[Template, ...]
    connections: int
    seconds: float
    records_per_request: int = 1
    content_type: str = "application/json"
    headers: tuple[tuple[str, str], ...] = ()
    key_header: bool = False
    """Whether the idempotency key goes in a header rather than in the body."""
    rate: float | None = None
    max_requests: int | None = None
    """Stop sending after this many, though time is left; for filling a table."""
    expect: str | None = None
    """A regular expression which the body of a good answer must match."""

    def requests(self) -> tuple[Template, ...]:
        """Make whole requests, head and body, with holes for the keys."""
        return tuple(body.after(self._head(len(body))) for body in self.bodies)

    def _head(self, length: int) -> bytes:
        lines = [
            f"POST {self.path} HTTP/1.1",
            f"Host: {self.host}:{self.port}",
            f"Content-Type: {self.content_type}",
            f"Content-Length: {length}",
            *(f"{name}: {value}" for name, value in self.headers),
        ]
        if self.key_header:
            lines.append(f"Idempotency-Key: {MARKER.decode()}")
        return "\r\n".join([*lines, "", ""]).encode()


@frozen
class LoadResult:
    """What one stream saw. Times are in seconds, ``started`` is on the monotonic clock of the machine."""

    started: float
    seconds: float
    answered_in_time: int
    """Good answers inside the window: the rate counts these only."""
    answered: int
    """All good answers, those that came after the window included."""
    errors: int
    error_samples: tuple[str, ...]
    records_per_request: int
    latencies: tuple[float, ...]
    """Sorted, of the good answers."""
    last_token: int
    client_cpu: float
    """Share of one core that the generator's process used."""

    @property
    def rate(self) -> float:
        """Records acknowledged per second."""
        return self.answered_in_time * self.records_per_request / self.seconds

    @property
    def records(self) -> int:
        """Records acknowledged altogether."""
        return self.answered * self.records_per_request

    def figures(self) -> dict[str, float]:
        """Return rate, latencies in ms, errors and the generator's own cost."""
        return {
            "rate": self.rate,
            **latency_figures(self.latencies),
            "errors": self.errors,
            "client_cpu": self.client_cpu,
        }


def percentile(ordered: "tuple[float, ...] | list[float]", share: float) -> float:
    """Return the nearest-rank percentile of a sorted sequence; NaN when it is empty."""
    if not ordered:
        return float("nan")
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def latency_figures(ordered: "tuple[float, ...] | list[float]") -> dict[str, float]:
    """Return p50, p95 and p99 in milliseconds from sorted seconds."""
    return {f"p{share}_ms": percentile(ordered, share / 100) * 1000 for share in (50, 95, 99)}


class Connection(asyncio.Protocol):
    """One keep-alive socket with at most one request in flight."""

    def __init__(self, stream: "Stream") -> None:
        self.stream = stream
        self.transport: asyncio.Transport | None = None
        self.due: float | None = None
        self.buffer = b""
        self.missing = 0
        self.last_body = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start working as soon as the socket is up."""
        self.transport = transport  # type: ignore[assignment]

    def send(self, due: float, request: bytes) -> None:
        """Send one request that was due at the given time."""
        self.due = due
        self.transport.write(request)  # type: ignore[union-attr]

    def data_received(self, data: bytes) -> None:
        """Collect one answer; bodies without a length are not understood, on purpose."""
        self.buffer = self.buffer + data if self.buffer else data
        if self.missing > len(self.buffer):
            return
        end = self.buffer.find(b"\r\n\r\n")
        if end < 0:
            return
        length = _LENGTH.search(self.buffer, 0, end + 2)
        if length is None:
            raise RuntimeError(f"an answer without Content-Length: {self.buffer[:200]!r}")
        self.missing = end + 4 + int(length[1])
        if len(self.buffer) < self.missing:
            return
        answer, self.buffer, self.missing = self.buffer, b"", 0
        due, self.due = self.due, None
        self.stream.answered(self, due or 0.0, answer[9:12], answer[end + 4 :])

    def connection_lost(self, exc: Exception | None) -> None:
        """Count a request that got no answer, and come back."""
        self.stream.lost(self, exc)


@define(eq=False)
class Stream:
    """Drives the connections of one spec."""

    spec: LoadSpec
    started: float = 0.0
    ends: float = 0.0
    sent: int = 0
    answered_in_time: int = 0
    errors: int = 0
    error_samples: list[str] = field(factory=list)
    latencies: list[float] = field(factory=list)
    connections: list[Connection] = field(factory=list)
    idle: collections.deque[Connection] = field(factory=collections.deque)
    waiting: collections.deque[float] = field(factory=collections.deque)
    in_flight: int = 0
    reconnects: int = 0
    drained: asyncio.Event = field(factory=asyncio.Event)
    last_token: int = 0
    _requests: tuple[Template, ...] = ()
    _prefixes: Any = None
    _expect: re.Pattern[bytes] | None = None
    _tasks: set[asyncio.Task[None]] = field(factory=set)

    async def run(self) -> LoadResult:
        """Connect, send for the given time, wait for the last answers."""
        self._requests = self.spec.requests()
        self._prefixes = key_prefixes()
        self._expect = re.compile(self.spec.expect.encode()) if self.spec.expect else None
        for _ in range(self.spec.connections):
            self.connections.append(await self._connect())
        cpu = time.process_time()
        self.started = time.monotonic()
        self.ends = self.started + self.spec.seconds
        if self.spec.rate is None:
            for connection in self.connections:
                self._send(connection, time.monotonic())
        else:
            self.idle.extend(self.connections)
            await self._pace(self.spec.rate)
        await asyncio.wait_for(self.drained.wait(), self.spec.seconds + _DRAIN_SECONDS)
        # A filling run ends early, so the time that it really took is what counts.
        seconds = min(time.monotonic(), self.ends) - self.started
        return self._result(seconds, (time.process_time() - cpu) / (time.monotonic() - self.started))

    def _result(self, seconds: float, cpu: float) -> LoadResult:
        for connection in self.connections:
            self._note_token(connection.last_body)
            if connection.transport is not None:
                connection.transport.abort()
        return LoadResult(
            started=self.started,
            seconds=seconds,
            answered_in_time=self.answered_in_time,
            answered=len(self.latencies),
            errors=self.errors,
            error_samples=tuple(self.error_samples),
            records_per_request=self.spec.records_per_request,
            latencies=tuple(sorted(self.latencies)),
            last_token=self.last_token,
            client_cpu=cpu,
        )

    def _note_token(self, body: bytes) -> None:
        # Tokens of one connection grow, so its last receipt is enough and no other needs decoding.
        if body:
            self.last_token = max(self.last_token, msgspec.json.decode(body).get("max_visibility_token", 0))

    async def _connect(self) -> Connection:
        loop = asyncio.get_running_loop()
        _, connection = await loop.create_connection(lambda: Connection(self), self.spec.host, self.spec.port)
        return connection

    async def _pace(self, rate: float) -> None:
        due_count = 0
        while (now := time.monotonic()) < self.ends:
            while due_count < (now - self.started) * rate:
                due = self.started + due_count / rate
                due_count += 1
                if self.idle:
                    self._send(self.idle.popleft(), due)
                else:
                    self.waiting.append(due)
            await asyncio.sleep(_TICK_SECONDS)
        self._check_drained()

    def _send(self, connection: Connection, due: float) -> None:
        request = self._requests[self.sent % len(self._requests)]
        self.sent += 1
        self.in_flight += 1
        connection.send(due, request.fill(next(self._prefixes)))

    def answered(self, connection: Connection, due: float, status: bytes, body: bytes) -> None:
        """Count an answer and let the connection send what is due next."""
        now = time.monotonic()
        self.in_flight -= 1
        if status == b"200" and (self._expect is None or self._expect.search(body)):
            self.latencies.append(now - due)
            self.answered_in_time += now <= self.ends
            connection.last_body = body
        else:
            self._error(f"{status.decode()} {body[:300].decode(errors='replace')}")
        self._next(connection, now)

    def _next(self, connection: Connection, now: float) -> None:
        if self.waiting:
            self._send(connection, self.waiting.popleft())
        elif self.spec.rate is not None:
            self.idle.append(connection)
        elif now < self.ends and (self.spec.max_requests is None or self.sent < self.spec.max_requests):
            self._send(connection, now)
        self._check_drained()

    def _check_drained(self) -> None:
        finished = self.spec.rate is None or time.monotonic() >= self.ends
        if self.in_flight == 0 and not self.waiting and finished:
            self.drained.set()

    def _error(self, text: str) -> None:
        self.errors += 1
        if len(self.error_samples) < 5:
            self.error_samples.append(text)

    def lost(self, connection: Connection, exc: Exception | None) -> None:
        """Replace a connection that the server closed during the run."""
        if self.drained.is_set():
            return
        if connection.due is not None:
            self.in_flight -= 1
            self._error(f"connection lost: {exc!r}")
        self._note_token(connection.last_body)
        self.connections.remove(connection)
        if connection in self.idle:
            self.idle.remove(connection)
        self.reconnects += 1
        if self.reconnects > _MAX_RECONNECTS or time.monotonic() >= self.ends:
            self._check_drained()
            return
        task = asyncio.get_running_loop().create_task(self._replace())
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _replace(self) -> None:
        try:
            connection = await self._connect()
        except OSError as error:
            self._error(f"connect failed: {error!r}")
            self._check_drained()
            return
        self.connections.append(connection)
        self._next(connection, time.monotonic())


async def _run_all(specs: tuple[LoadSpec, ...]) -> list[LoadResult]:
    return await asyncio.gather(*(Stream(spec).run() for spec in specs))


def run_loads(specs: tuple[LoadSpec, ...]) -> list[LoadResult]:
    """Run several streams at once; called in the generator's process."""
    assert len(MARKER) == KEY_PREFIX_LENGTH, "Content-Length is computed from the marker"
    return uvloop.run(_run_all(specs))
