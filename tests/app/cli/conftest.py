"""A stub HTTP server with scripted answers.

It stands for a DuckMesh server only where DuckMesh does not matter: exit codes, retries, formats, the bytes of a
request. What the product does is tested against the real server in tests/e2e.
"""

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from attrs import define, field

from duckmesh.app.cli.main import run

Answer = tuple[int, Any]


@define
class Seen:
    method: str
    path: str
    params: dict[str, str]
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@define
class Stub:
    url: str = ""
    seen: list[Seen] = field(factory=list)
    answers: dict[str, list[Answer]] = field(factory=dict)
    handlers: dict[str, Callable[[Seen], Answer]] = field(factory=dict)
    lock: Any = field(factory=threading.Lock)

    def answer(self, call: str, *answers: Answer) -> None:
        """Script the answers of "METHOD /path"; the last one is repeated."""
        self.answers[call] = list(answers)

    def reply(self, request: Seen) -> Answer:
        with self.lock:
            self.seen.append(request)
            call = f"{request.method} {request.path}"
            if call in self.handlers:
                return self.handlers[call](request)
            scripted = self.answers.get(call, [(404, error("NOT_FOUND", "no such path"))])
            return scripted.pop(0) if len(scripted) > 1 else scripted[0]

    def calls(self, method: str, path: str) -> list[Seen]:
        return [request for request in self.seen if (request.method, request.path) == (method, path)]


def error(code: str, message: str, *, retryable: bool = False, **context: Any) -> dict[str, Any]:
    return {
        "error_code": code, "message": message, "retryable": retryable, "context": context, "trace_id": "trace-1"
    }  # fmt: skip


def handler(stub: Stub) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def serve(self) -> None:
            parts = urlsplit(self.path)
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            params = {name: values[0] for name, values in parse_qs(parts.query).items()}
            request = Seen(self.command, parts.path, params, {k.lower(): v for k, v in self.headers.items()}, body)
            status, answer = stub.reply(request)
            data = answer if isinstance(answer, bytes) else json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        do_GET = do_POST = do_DELETE = serve  # noqa: N815 - the names that http.server calls

        def log_message(self, *_: Any) -> None:
            pass

    return Handler


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> Iterator[Stub]:
    state = Stub()
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler(state))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setenv("DUCKMESH_URL", state.url)
    monkeypatch.setenv("DUCKMESH_DATA_DIR", str(tmp_path / "none"))
    monkeypatch.delenv("DUCKMESH_API_KEY", raising=False)
    yield state
    server.shutdown()
    thread.join()
    server.server_close()


@define
class Ran:
    code: int
    out: str
    err: str


@pytest.fixture
def cli(capfd: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    def execute(*arguments: str) -> Ran:
        code = run(list(arguments))
        captured = capfd.readouterr()
        return Ran(int(code), captured.out, captured.err)

    return execute
