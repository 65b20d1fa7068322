"""A proxy in front of a real S3 server that does to some requests what networks and servers do."""

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from enum import Enum, auto

from attrs import define, field, frozen


class Fault(Enum):
    NONE = auto()
    SAY_500 = auto()
    SAY_503 = auto()
    DROP_REQUEST = auto()
    DROP_ANSWER = auto()  # the server does it, the client never hears of it
    CUT_ANSWER = auto()
    FLIP_ANSWER = auto()
    FLIP_REQUEST = auto()
    HANG = auto()


@frozen
class Request:
    head: bytes
    body: bytes

    @property
    def method(self) -> str:
        return self.head.split(b" ", 1)[0].decode()


class Hangup(Exception):
    """The proxy closes the connection."""


@define
class FaultyProxy:
    """Passes on, except that the next requests meet ``planned`` and the ones after that ``otherwise``.

    With ``only``, requests of other methods pass.
    """

    upstream: tuple[str, int]
    url: str = ""
    planned: deque[Fault] = field(factory=deque)
    otherwise: Fault = Fault.NONE
    only: str | None = None
    methods: list[str] = field(factory=list)

    def plan(self, *faults: Fault) -> None:
        self.planned.extend(faults)
        self.methods.clear()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(Hangup, OSError, asyncio.IncompleteReadError, asyncio.CancelledError):
            while True:
                request = await _read_request(reader, writer)
                self.methods.append(request.method)
                await self._answer(request, self._fault_for(request), writer)
        writer.close()

    def _fault_for(self, request: Request) -> Fault:
        if self.only not in {None, request.method}:
            return Fault.NONE
        return self.planned.popleft() if self.planned else self.otherwise

    async def _answer(self, request: Request, fault: Fault, writer: asyncio.StreamWriter) -> None:
        match fault:
            case Fault.SAY_500 | Fault.SAY_503:
                writer.write(_refusal(fault))
            case Fault.DROP_REQUEST:
                raise Hangup
            case Fault.DROP_ANSWER:
                await self._forward(request)
                raise Hangup
            case Fault.HANG:
                await asyncio.Event().wait()
            case _:
                await self._pass_on(request, fault, writer)
        await writer.drain()

    async def _pass_on(self, request: Request, fault: Fault, writer: asyncio.StreamWriter) -> None:
        if fault is Fault.FLIP_REQUEST:
            request = Request(request.head, _flipped(request.body))
        head, body = await self._forward(request)
        if fault is Fault.FLIP_ANSWER:
            body = _flipped(body)
        writer.write(head + (body[: len(body) // 2] if fault is Fault.CUT_ANSWER else body))
        if fault is Fault.CUT_ANSWER:
            await writer.drain()
            raise Hangup

    async def _forward(self, request: Request) -> tuple[bytes, bytes]:
        reader, writer = await asyncio.open_connection(*self.upstream)
        try:
            writer.write(_with_headers(request.head, without=b"expect", plus=b"Connection: close") + request.body)
            await writer.drain()
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            return _with_headers(head + b"\r\n\r\n", without=b"connection"), body
        finally:
            writer.close()


@asynccontextmanager
async def run_faulty_proxy(host: str, port: int) -> AsyncIterator[FaultyProxy]:
    proxy = FaultyProxy((host, port))
    connections: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        connections.add(task)
        await proxy.serve(reader, writer)
        connections.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        for task in connections:
            task.cancel()
        await asyncio.gather(*connections)
        await server.wait_closed()


async def _read_request(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> Request:
    head = await reader.readuntil(b"\r\n\r\n")
    if b"100-continue" in head.lower():
        writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n"):
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    return Request(head, await reader.readexactly(length))


def _with_headers(head: bytes, *, without: bytes, plus: bytes = b"") -> bytes:
    lines = [line for line in head.split(b"\r\n") if line and line.partition(b":")[0].lower() != without]
    return b"\r\n".join([*lines, *filter(None, [plus]), b"", b""])


def _refusal(fault: Fault) -> bytes:
    status, code = (503, "SlowDown") if fault is Fault.SAY_503 else (500, "InternalError")
    body = f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>later</Message></Error>".encode()
    head = f"HTTP/1.1 {status} Error\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


def _flipped(data: bytes) -> bytes:
    middle = len(data) // 2
    return data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :] if data else data
