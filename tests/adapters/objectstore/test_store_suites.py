from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, nullcontext
from pathlib import Path

import pytest
import pytest_asyncio
from s3_server import S3Server, s3_client

from duckmesh.adapters.objectstore import LocalObjectStore, MemoryObjectStore
from duckmesh.adapters.objectstore.s3 import S3ObjectStore
from duckmesh.testing.objectstore import ObjectStoreSuite


class TestLocalStore(ObjectStoreSuite):
    @pytest.fixture
    def store(self, tmp_path: Path) -> LocalObjectStore:
        return LocalObjectStore(tmp_path / "objects")

    def peer(self, store: LocalObjectStore) -> AbstractAsyncContextManager[LocalObjectStore]:
        return nullcontext(LocalObjectStore(store._root))

    async def abandon_put(self, store: LocalObjectStore, path: str, data: bytes) -> None:
        await leave_a_temporary_file(store, path, data)


class TestMemoryStore(ObjectStoreSuite):
    @pytest.fixture
    def store(self) -> MemoryObjectStore:
        return MemoryObjectStore()


class TestS3Store(ObjectStoreSuite):
    @pytest_asyncio.fixture
    async def store(self, s3_server: S3Server, s3_bucket: str) -> AsyncIterator[S3ObjectStore]:
        async with S3ObjectStore(s3_bucket, "some/prefix", s3_server.access) as store:
            yield store

    def peer(self, store: S3ObjectStore) -> AbstractAsyncContextManager[S3ObjectStore]:
        return S3ObjectStore(store._bucket, store._prefix, store._access)

    async def abandon_put(self, store: S3ObjectStore, path: str, data: bytes) -> None:
        async with s3_client(store._access) as client:
            where = {"Bucket": store._bucket, "Key": store._key(path)}
            begun = await client.create_multipart_upload(**where)
            await client.upload_part(**where, UploadId=begun["UploadId"], PartNumber=1, Body=data)


async def leave_a_temporary_file(store: LocalObjectStore, path: str, data: bytes) -> None:
    """Do what a put does up to the link."""
    target = store._file(path)
    store._make_durable(target.parent)
    target.with_name(".tmp-0123456789abcdef").write_bytes(data[:100])
