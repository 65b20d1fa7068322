"""Servers for the tests in this folder. Tests share them, so every test has tables or tenants of its own."""

from collections.abc import Iterator

import pytest
from caller import Caller, new_name
from planes import Planes, UpServer, open_folder, up


@pytest.fixture(scope="session")
def live_server() -> Iterator[UpServer]:
    """`duckmesh up` as most people run it, asking for keys: url, data_dir, api_key, log and pid."""
    with up("--auth", "on") as server:
        yield server


@pytest.fixture(scope="session")
def open_server() -> Iterator[UpServer]:
    """`duckmesh up --auth off`: the tenant is the one that the header names."""
    with up("--auth", "off") as server:
        yield server


@pytest.fixture
def caller(live_server: UpServer) -> Iterator[Caller]:
    """The admin of the tenant `default`."""
    with live_server.caller() as caller:
        yield caller


@pytest.fixture
def table() -> str:
    """A name that no other test has."""
    return new_name()


@pytest.fixture
def planes(database: str) -> Iterator[Planes]:
    """API and coordinator processes that are started one by one, over a database and a folder of their own."""
    with open_folder() as folder:
        environment = {
            "DUCKMESH_POSTGRES_DSN": database,
            "DUCKMESH_OBJECT_STORE_URL": f"file://{folder}/objects",
            "DUCKMESH_DATA_DIR": f"{folder}/data",
            "DUCKMESH_AUTH": "off",
            "DUCKMESH_LEASE_TTL_S": "1",
            "DUCKMESH_POLL_INTERVAL_MS": "100",
            "DUCKMESH_POSTGRES_POOL_SIZE": "4",
            "DUCKMESH_CONSISTENCY_TIMEOUT_MS": "60000",
        }
        planes = Planes(folder, environment)
        try:
            yield planes
        finally:
            planes.stop()
