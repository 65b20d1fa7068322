"""A small client: what it is told to expect it checks, so that a test reads as what was asked and what came."""

import contextlib
import itertools
import json
import time
import uuid
from collections.abc import Iterator, Mapping
from types import TracebackType
from typing import Any, Self

import httpx
from attrs import define, field

TIMEOUT_S = 60.0
_keys = itertools.count(1)


def new_name(prefix: str = "t") -> str:
    """A name that no other test has."""
    return f"{prefix}_{uuid.uuid4().hex[:12]}"


def record(payload: Mapping[str, Any], key: str | None = None, op: str | None = None) -> dict[str, Any]:
    """A record, with a key of its own unless one is given."""
    found: dict[str, Any] = {"idempotency_key": key or f"{uuid.uuid4().hex}-{next(_keys)}", "payload": dict(payload)}
    return found | ({"op": op} if op else {})


@define
class Caller:
    """Calls one server as one tenant. Use it as a context, so that its connections are closed."""

    url: str
    api_key: str | None = None
    tenant: str | None = None
    http: httpx.Client = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.http = httpx.Client(base_url=self.url, headers=self.headers, timeout=TIMEOUT_S)

    @property
    def headers(self) -> dict[str, str]:
        """Who is calling."""
        headers = {"authorization": f"Bearer {self.api_key}"} if self.api_key else {}
        return headers | ({"x-tenant-id": self.tenant} if self.tenant else {})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.http.close()

    def call(self, method: str, path: str, body: Any = None, *, expect: int = 200, **headers: str) -> Any:
        """Send a JSON body; the answer's body."""
        sent = json.dumps(body).encode() if body is not None else None
        kinds = {"content-type": "application/json"} if sent is not None else {}
        answer = self.http.request(method, path, content=sent, headers=kinds | headers)
        assert answer.status_code == expect, (method, path, answer.status_code, answer.text[:2000])
        return answer.json()

    def refused(self, method: str, path: str, body: Any, status: int, code: str) -> dict[str, Any]:
        """Send what must be refused; the error's body."""
        found: dict[str, Any] = self.call(method, path, body, expect=status)
        assert found["error_code"] == code, found
        return found

    def create(self, table: str, columns: Mapping[str, Any], *, key: list[str] | None = None, **more: Any) -> Any:
        """Make a table."""
        body = {"table_name": table, "schema_json": dict(columns), "primary_key_cols": key or [], **more}
        return self.call("POST", "/v1/tables", body, expect=201)

    def put(self, table: str, *records: Mapping[str, Any], wait: bool = False, **more: Any) -> Any:
        """Send records; the receipt."""
        body = {"records": list(records), **({"wait_for_visibility": True} if wait else {}), **more}
        return self.call("POST", f"/v1/ingest/{table}", body)

    def put_row(self, table: str, payload: Mapping[str, Any], *, key: str | None = None, **more: Any) -> Any:
        """Send one record; the receipt."""
        return self.put(table, record(payload, key), **more)

    def query(self, sql: str, **options: Any) -> Any:
        """Run a SELECT; the whole answer."""
        return self.call("POST", "/v1/query", {"sql": sql, **options})

    def rows(self, sql: str, **options: Any) -> list[Any]:
        """Run a SELECT; its rows."""
        found: list[Any] = self.query(sql, **options)["rows"]
        return found

    def until_rows(self, sql: str, rows: list[Any], seconds: float = 30, **options: Any) -> None:
        """Ask until the answer is this, through restarts and errors of a server that comes back."""
        deadline = time.monotonic() + seconds
        found: Any = None
        while time.monotonic() < deadline:
            with contextlib.suppress(httpx.TransportError):
                answer = self.http.post("/v1/query", json={"sql": sql, **options})
                found = answer.json().get("rows", answer.text)
                if found == rows:
                    return
            time.sleep(0.02)
        raise AssertionError(f"{sql}: {found} instead of {rows} after {seconds} s")

    def again(self, seconds: float = 30) -> Iterator["Caller"]:
        """Attempts, until one of them is followed by a break, over a server that comes back."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            yield self
            time.sleep(0.02)
        raise AssertionError(f"no attempt succeeded within {seconds} s")
