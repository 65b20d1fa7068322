"""A small synchronous client of the HTTP API, for the commands and the demo.

It knows the transport and nothing of the commands: where the server is, which errors are worth another try, and
how an error body becomes an exception.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Final, Self

import httpx

import duckmesh
from duckmesh.app.cli.discovery import Target
from duckmesh.app.cli.exit_codes import ServerAnswered, ServerFailed, ServerUnreachable

TENANT_HEADER: Final = "X-Tenant-ID"
IDEMPOTENCY_HEADER: Final = "Idempotency-Key"
ARROW_STREAM: Final = "application/vnd.apache.arrow.stream"
JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
CSV: Final = "text/csv"

#: A query or a barrier may take this long before the client gives up on the answer.
READ_SECONDS: Final = 630.0
CONNECT_SECONDS: Final = 5.0
#: For how long a refused connection or an overloaded server is tried again.
RETRY_SECONDS: Final = 2.0

_FIRST_PAUSE: Final = 0.1
_LONGEST_PAUSE: Final = 2.0
_FIRST_ERROR: Final = 400
_LOOPBACK: Final = frozenset({"127.0.0.1", "localhost", "::1"})
_SHED: Final = frozenset({429, 503})


class ApiClient:
    """One server, one credential. Safe to share between threads.

    A refused connection and a shed request (503, or 429, with nothing done) are tried again until
    ``retry_seconds`` have passed. A connection that breaks half-way is tried again only for a call that is
    ``repeatable``: a read, or a write with idempotency keys, which stay the same.
    """

    def __init__(
        self,
        target: Target,
        tenant: str | None = None,
        *,
        retry_seconds: float = RETRY_SECONDS,
        connections: int = 16,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.target = target
        self._retry_seconds = retry_seconds
        self._sleep = sleep
        self._http = httpx.Client(
            base_url=target.url,
            headers=_headers(target, tenant),
            timeout=httpx.Timeout(READ_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=connections, max_keepalive_connections=connections),
            trust_env=httpx.URL(target.url).host not in _LOOPBACK,  # a proxy cannot reach this machine's loopback
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def get(self, path: str, **params: Any) -> dict[str, Any]:
        """A read; parameters that are None are left out."""
        return _document(self._send("GET", path, repeatable=True, params=_given(params)))

    def post(self, path: str, body: Mapping[str, Any], *, repeatable: bool = False) -> dict[str, Any]:
        """Send a JSON body; entries that are None are left out."""
        return _document(self._send("POST", path, repeatable=repeatable, json=_given(body)))

    def delete(self, path: str) -> dict[str, Any]:
        """Delete what has this path."""
        return _document(self._send("DELETE", path))

    def post_bytes(
        self, path: str, body: bytes, content_type: str, *, idempotency_key: str | None = None, **params: Any
    ) -> dict[str, Any]:
        """Send an ingest body that is repeatable: by the key given here, or by the keys of its records."""
        headers = {"Content-Type": content_type} | _given({IDEMPOTENCY_HEADER: idempotency_key})
        return _document(
            self._send("POST", path, repeatable=True, content=body, headers=headers, params=_given(params))
        )

    def probe(self, path: str) -> tuple[int, dict[str, Any]]:
        """Status and body of a read, whatever the status; one try."""
        with self._reported():
            answer = self._http.get(path, timeout=CONNECT_SECONDS)
        return answer.status_code, _body(answer)

    @contextmanager
    def streamed(self, path: str, body: Mapping[str, Any], accept: str) -> Iterator[httpx.Response]:
        """The answer to a JSON body in another format, to be read piece by piece as it arrives."""
        with (
            self._reported(),
            self._http.stream("POST", path, json=_given(body), headers={"Accept": accept}) as answer,
        ):
            if answer.status_code >= _FIRST_ERROR:
                answer.read()
                raise ServerAnswered(answer.status_code, _body(answer))
            yield answer

    def _send(self, method: str, path: str, *, repeatable: bool = False, **request: Any) -> httpx.Response:
        deadline = time.monotonic() + self._retry_seconds
        pause = _FIRST_PAUSE
        while True:
            try:
                with self._reported():
                    answer = self._http.request(method, path, **request)
            except ServerUnreachable as error:
                if time.monotonic() + pause > deadline or not _worth_repeating(error, repeatable=repeatable):
                    raise
            else:
                if answer.status_code < _FIRST_ERROR:
                    return answer
                failure = ServerAnswered(answer.status_code, _body(answer))
                pause = max(pause, _retry_after(answer))
                if time.monotonic() + pause > deadline or not _was_shed(failure):
                    raise failure
            self._sleep(pause)
            pause = min(pause * 2, _LONGEST_PAUSE)

    @contextmanager
    def _reported(self) -> Iterator[None]:
        """Say in one line what is wrong with the connection."""
        url = self.target.url
        try:
            yield
        except httpx.ConnectError as error:
            raise ServerUnreachable(f"cannot connect to {url}: {error}", url=url) from error
        except httpx.TimeoutException as error:
            raise ServerUnreachable(f"{url} did not answer in time ({type(error).__name__})", url=url) from error
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise ServerUnreachable(f"the connection to {url} failed: {error}", url=url) from error


def _headers(target: Target, tenant: str | None) -> dict[str, str]:
    headers = {"User-Agent": f"duckmesh-cli/{duckmesh.__version__}", "Accept": "application/json"}
    if target.api_key:
        headers["Authorization"] = f"Bearer {target.api_key}"
    if tenant:
        headers[TENANT_HEADER] = tenant
    return headers


def _given(values: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


def _worth_repeating(error: ServerUnreachable, *, repeatable: bool) -> bool:
    refused = isinstance(error.__cause__, httpx.ConnectError)
    broken = isinstance(error.__cause__, httpx.NetworkError | httpx.RemoteProtocolError)
    return refused or (broken and repeatable)


def _was_shed(failure: ServerAnswered) -> bool:
    return failure.status in _SHED and (failure.retryable or failure.error_code.startswith("HTTP_"))


def _retry_after(answer: httpx.Response) -> float:
    text = answer.headers.get("Retry-After", "")
    return min(float(text), _LONGEST_PAUSE) if text.isdigit() else 0.0


def _document(answer: httpx.Response) -> dict[str, Any]:
    if not answer.content:
        return {}
    try:
        document = answer.json()
    except ValueError as error:
        raise ServerFailed(f"{answer.url} did not answer with JSON; is this a DuckMesh server?") from error
    if not isinstance(document, dict):
        raise ServerFailed(f"{answer.url} did not answer with an object; is this a DuckMesh server?")
    return document


def _body(answer: httpx.Response) -> dict[str, Any]:
    """The body of an error, or the best that can be said when a proxy answered in DuckMesh's place."""
    try:
        document = answer.json()
    except ValueError:
        document = None
    if isinstance(document, dict):
        return document
    text = answer.text.strip().splitlines()
    return {"message": f"HTTP status {answer.status_code}" + (f": {text[0][:200]}" if text else "")}
