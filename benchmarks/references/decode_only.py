"""A Litestar handler that decodes the body and answers a receipt of the same size: the ceiling of the HTTP layer.

Run as ``python -m benchmarks.references.decode_only PORT``.
"""

import contextlib
import datetime as dt
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import httpx
import msgspec
import uvicorn
from litestar import Litestar, Request, Response, post

from benchmarks.product import free_port

_START_SECONDS = 20.0


class Payload(msgspec.Struct, forbid_unknown_fields=True):
    """The benchmark's event, as strictly typed as the product's own decoder has to be."""

    id: Annotated[int, msgspec.Meta(ge=-(2**63), le=2**63 - 1)]
    user_id: str
    kind: str
    amount: float
    at: dt.datetime


class Record(msgspec.Struct, forbid_unknown_fields=True):
    """One record of the contract's ingest request."""

    idempotency_key: str
    payload: Payload
    op: Literal["insert", "upsert", "delete"] = "insert"
    event_time: dt.datetime | None = None


class IngestRequest(msgspec.Struct, forbid_unknown_fields=True):
    """The contract's ingest request."""

    records: list[Record]
    wait_for_visibility: bool = False
    visibility_timeout_ms: int | None = None


_DECODER = msgspec.json.Decoder(IngestRequest)


@post("/v1/ingest/{table:str}", status_code=200)
async def ingest(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Decode once, answer at once."""
    decoded = _DECODER.decode(await request.body())
    receipt = {
        "accepted_count": len(decoded.records),
        "duplicate_count": 0,
        "max_visibility_token": 1_234_567,
        "visibility_scope": "0123456789abcdef0123456789abcdef",
        "visible_snapshot_id": None,
        "status": "accepted",
    }
    return Response(msgspec.json.encode(receipt), media_type="application/json")


def main(port: int) -> None:
    app = Litestar([ingest], openapi_config=None, logging_config=None)
    uvicorn.run(
        app, host="127.0.0.1", port=port, loop="uvloop", http="httptools", access_log=False, log_level="warning"
    )


@contextmanager
def server() -> Iterator[str]:
    """Run the handler in a process of its own and yield its URL."""
    port = free_port()
    process = subprocess.Popen([sys.executable, "-m", "benchmarks.references.decode_only", str(port)])
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + _START_SECONDS
        while True:
            with contextlib.suppress(httpx.TransportError):
                httpx.get(url)
                break
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError("the decode-only server did not start")
            time.sleep(0.02)
        yield url
    finally:
        process.terminate()
        process.wait(10)


if __name__ == "__main__":
    main(int(sys.argv[1]))
