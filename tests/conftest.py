"""Fixtures that several folders of tests share."""

import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import pytest_asyncio

sys.path.insert(0, str(Path(__file__).parent))  # helpers like s3_server stand beside this file

from postgres_server import PostgresServer, run_postgres_server
from s3_server import S3Server, run_s3_server


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One real S3 server for all tests of a run; it is up in three seconds."""
    with run_s3_server() as server:
        yield server


@pytest_asyncio.fixture
async def s3_bucket(s3_server: S3Server) -> str:
    """The name of a new bucket."""
    return await s3_server.make_bucket()


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """One real PostgreSQL for all tests of a run."""
    with run_postgres_server() as server:
        yield server


@pytest_asyncio.fixture
async def database(postgres_server: PostgresServer) -> AsyncIterator[str]:
    """The DSN of a new, migrated, empty database."""
    dsn = await postgres_server.make_database()
    yield dsn
    await postgres_server.drop_database(dsn)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Name bodies by their argument: they hold fresh keys, and a test's name must be the same in every worker."""
    return argname if isinstance(val, bytes) else None
