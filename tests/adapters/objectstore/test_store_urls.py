import subprocess
import sys
from pathlib import Path

import pytest
from s3_server import S3Server

from duckmesh.adapters.objectstore import LocalObjectStore, MemoryObjectStore, open_store
from duckmesh.domain.errors import ConfigurationError
from duckmesh.ports.objectstore import LocationKind, ObjectLocation, ObjectStore, S3Access

ACCESS = S3Access(endpoint=None, region="eu-central-1")


@pytest.mark.asyncio
async def test_a_path_and_a_file_url_name_the_same_local_store(tmp_path: Path) -> None:
    spaced = tmp_path / "a b"
    async with open_store(str(spaced)) as plain, open_store(spaced.as_uri()) as url:
        assert isinstance(plain, LocalObjectStore)
        await plain.put("t/a", b"x")
        assert await url.get("t/a") == b"x"
        assert url.locate("t/a") == ObjectLocation(LocationKind.FILE, str(spaced / "t" / "a"))


@pytest.mark.asyncio
async def test_every_memory_store_is_a_world_of_its_own() -> None:
    async with open_store("memory://") as one, open_store("memory://") as other:
        assert isinstance(one, MemoryObjectStore)
        await one.put("a", b"x")
        assert await other.stat("a") is None


@pytest.mark.asyncio
async def test_an_s3_url_names_bucket_and_prefix(s3_server: S3Server, s3_bucket: str) -> None:
    async with open_store(f"s3://{s3_bucket}/some/prefix/", s3_server.access) as store:
        assert isinstance(store, ObjectStore)
        await store.put("t/a", b"x")
        assert store.locate("t/a") == ObjectLocation(LocationKind.S3, f"s3://{s3_bucket}/some/prefix/t/a")


@pytest.mark.parametrize(
    ("url", "access"),
    [
        ("ftp://host/x", ACCESS),
        ("s3://", ACCESS),
        ("s3://bucket", None),
        ("s3://key:secret@bucket", ACCESS),
        ("s3://bucket/x?s3_endpoint=other", ACCESS),
        ("file://var/lib", None),
    ],
)
def test_a_url_that_names_no_store_is_refused_without_showing_secrets(url: str, access: S3Access | None) -> None:
    with pytest.raises(ConfigurationError) as refused:
        open_store(url, access)
    assert "secret@" not in str(refused.value)


def test_importing_the_package_does_not_import_s3fs() -> None:
    program = (
        "import sys, duckmesh.adapters.objectstore as o; o.open_store('memory://');"
        "assert not {'s3fs', 'aiobotocore', 'botocore', 'fsspec'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
