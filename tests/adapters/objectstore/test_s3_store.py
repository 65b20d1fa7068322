import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta

import pytest
import pytest_asyncio
from attrs import evolve
from s3_proxy import Fault, FaultyProxy, run_faulty_proxy
from s3_server import S3Server, free_ports, s3_client

from duckmesh.adapters.objectstore import s3
from duckmesh.adapters.objectstore.s3 import MIB, RetryPolicy, S3ObjectStore
from duckmesh.domain.errors import DataCorrupt, ObjectExists, ObjectMissing, Unavailable
from duckmesh.ports.objectstore import StoredObject

pytestmark = pytest.mark.asyncio

PATIENT = RetryPolicy(longest_delay_s=0.2)
BRIEF = RetryPolicy(give_up_after_s=1.0, attempt_s=1.5, longest_delay_s=0.2)
BODY = bytes(range(256)) * 8


@pytest_asyncio.fixture
async def store(s3_server: S3Server, s3_bucket: str) -> AsyncIterator[S3ObjectStore]:
    async with S3ObjectStore(s3_bucket, "p", s3_server.access) as store:
        yield store


@pytest_asyncio.fixture
async def proxy(s3_server: S3Server) -> AsyncIterator[FaultyProxy]:
    async with run_faulty_proxy(s3_server.host, s3_server.ports["s3.port"]) as proxy:
        yield proxy


@pytest_asyncio.fixture
async def behind(proxy: FaultyProxy, store: S3ObjectStore) -> AsyncIterator[S3ObjectStore]:
    async with S3ObjectStore(store._bucket, "p", evolve(store._access, endpoint=proxy.url), PATIENT) as behind:
        yield behind


@pytest_asyncio.fixture
async def brief(proxy: FaultyProxy, store: S3ObjectStore) -> AsyncIterator[S3ObjectStore]:
    async with S3ObjectStore(store._bucket, "p", evolve(store._access, endpoint=proxy.url), BRIEF) as brief:
        yield brief


async def test_every_call_outlasts_a_storm_of_500_and_503(proxy: FaultyProxy, behind: S3ObjectStore) -> None:
    storm = [Fault.SAY_503, Fault.SAY_500, Fault.DROP_REQUEST, Fault.SAY_503]
    proxy.plan(*storm)
    assert await behind.put("a", BODY) == StoredObject("a", len(BODY))
    proxy.plan(*storm)
    assert await behind.get("a") == BODY
    proxy.plan(*storm)
    assert await behind.stat("a") == StoredObject("a", len(BODY))
    proxy.plan(*storm)
    assert [stored async for stored in behind.list("")] == [StoredObject("a", len(BODY))]
    proxy.plan(*storm)
    await behind.delete("a")
    assert await behind.stat("a") is None


@pytest.mark.parametrize("fault", [Fault.SAY_503, Fault.DROP_REQUEST, Fault.HANG])
async def test_a_fault_without_end_is_unavailable_in_bounded_time_and_heals(
    proxy: FaultyProxy, brief: S3ObjectStore, behind: S3ObjectStore, fault: Fault
) -> None:
    proxy.otherwise = fault
    began = time.monotonic()
    with pytest.raises(Unavailable) as failed:
        await brief.put("a", BODY)
    assert time.monotonic() - began < 10
    assert failed.value.__cause__ is not None
    proxy.otherwise = Fault.NONE
    await behind.put("a", BODY)
    assert await brief.get("a") == BODY


async def test_a_server_that_is_down_is_unavailable(store: S3ObjectStore) -> None:
    nobody = evolve(store._access, endpoint=f"http://127.0.0.1:{free_ports(1)[0]}")
    async with S3ObjectStore(store._bucket, "p", nobody, BRIEF) as unreachable:
        with pytest.raises(Unavailable):
            await unreachable.get("a")


async def test_a_put_whose_answer_was_lost_succeeds(
    proxy: FaultyProxy, behind: S3ObjectStore, store: S3ObjectStore
) -> None:
    proxy.plan(Fault.DROP_ANSWER)
    assert await behind.put("a", BODY) == StoredObject("a", len(BODY))
    assert proxy.methods == ["PUT", "PUT", "HEAD"]
    assert await store.get("a") == BODY


async def test_a_put_that_the_http_client_repeats_in_silence_succeeds(
    proxy: FaultyProxy, behind: S3ObjectStore
) -> None:
    """It does so when a connection that it kept breaks: the first answer that we see is then the refusal."""
    await behind.stat("nothing")
    proxy.plan(Fault.DROP_ANSWER, Fault.DROP_ANSWER)
    await behind.put("a", BODY)
    assert proxy.methods == ["PUT", "PUT", "PUT", "HEAD"]


async def test_a_foreign_object_with_the_same_bytes_is_told_from_ours_when_answers_are_lost(
    proxy: FaultyProxy, behind: S3ObjectStore, store: S3ObjectStore
) -> None:
    await store.put("a", BODY)
    proxy.plan(Fault.DROP_ANSWER)
    with pytest.raises(ObjectExists):
        await behind.put("a", BODY)


async def test_an_upload_damaged_on_the_way_is_never_stored(proxy: FaultyProxy, behind: S3ObjectStore) -> None:
    proxy.plan(Fault.FLIP_REQUEST)
    await behind.put("a", BODY)
    assert proxy.methods == ["PUT", "PUT"]
    assert await behind.get("a") == BODY


@pytest.mark.parametrize("fault", [Fault.CUT_ANSWER, Fault.FLIP_ANSWER])
async def test_a_read_damaged_on_the_way_is_repeated(proxy: FaultyProxy, behind: S3ObjectStore, fault: Fault) -> None:
    await behind.put("a", BODY)
    proxy.plan(fault)
    assert await behind.get("a") == BODY
    assert proxy.methods == ["GET", "GET"]


async def test_an_object_that_stays_damaged_is_corrupt_and_no_bytes(proxy: FaultyProxy, behind: S3ObjectStore) -> None:
    await behind.put("a", BODY)
    proxy.otherwise = Fault.FLIP_ANSWER
    with pytest.raises(DataCorrupt):
        await behind.get("a")


async def test_a_large_object_goes_in_parts_and_is_never_overwritten(
    store: S3ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = _large(monkeypatch)
    assert await store.put("large", large) == StoredObject("large", len(large))
    with pytest.raises(ObjectExists):
        await store.put("large", large)
    assert await store.get("large") == large
    assert await _uploads(store) == []


async def test_a_large_put_whose_last_answer_was_lost_succeeds(
    proxy: FaultyProxy, behind: S3ObjectStore, store: S3ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = _large(monkeypatch)
    proxy.plan(*[Fault.NONE] * 4, Fault.DROP_ANSWER)  # begin, three parts, complete
    await behind.put("large", large)
    assert proxy.methods[0] == "POST"
    assert proxy.methods[4:6] == ["POST", "POST"]
    assert await store.get("large") == large
    assert await _uploads(store) == []


async def test_a_large_put_that_fails_or_is_cancelled_leaves_no_parts(
    proxy: FaultyProxy, brief: S3ObjectStore, store: S3ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    large = _large(monkeypatch)
    proxy.only, proxy.otherwise = "PUT", Fault.DROP_REQUEST
    with pytest.raises(Unavailable):
        await brief.put("large", large)
    assert await _uploads(store) == []
    writing = asyncio.create_task(store.put("large", large))
    await _until(lambda: _uploads(store))
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await _uploads(store) == []
    assert await store.stat("large") is None


async def test_abandoned_uploads_are_removed_once_they_are_old(store: S3ObjectStore) -> None:
    async with s3_client(store._access) as client:
        for prefix in ("p/a", "other/a"):
            await client.create_multipart_upload(Bucket=store._bucket, Key=prefix)
    assert await store.remove_leftovers(timedelta(hours=1)) == 0
    assert await store.remove_leftovers(timedelta(seconds=-5)) == 1
    assert await _uploads(store) == ["other/a"]


async def test_a_listing_goes_on_beyond_a_page(store: S3ObjectStore) -> None:
    paths = [f"many/{number:04}" for number in range(1_003)]
    async with s3_client(store._access) as client:
        for start in range(0, len(paths), 10):
            batch = paths[start : start + 10]
            await asyncio.gather(
                *(client.put_object(Bucket=store._bucket, Key=f"p/{path}", Body=b"") for path in batch)
            )
    assert [stored.path async for stored in store.list("many/")] == paths


async def test_stores_under_different_prefixes_do_not_see_each_other(store: S3ObjectStore, s3_server: S3Server) -> None:
    async with S3ObjectStore(store._bucket, "p2", s3_server.access) as other:
        await other.put("a", b"other")
        assert await store.stat("a") is None
        assert [stored async for stored in store.list("")] == []


async def test_a_missing_bucket_is_not_taken_for_a_missing_object(s3_server: S3Server) -> None:
    async with S3ObjectStore("no-such-bucket", "", s3_server.access) as store:
        for call in (store.get("a"), store.put("a", BODY)):
            with pytest.raises(Unavailable, match="NoSuchBucket") as failed:
                await call
            assert not isinstance(failed.value, ObjectMissing)


async def test_a_refused_credential_is_reported_at_once_and_not_shown(store: S3ObjectStore) -> None:
    wrong = evolve(store._access, secret_access_key="wrong-secret")
    began = time.monotonic()
    async with S3ObjectStore(store._bucket, "p", wrong) as refused:
        with pytest.raises(Unavailable, match="SignatureDoesNotMatch") as failed:
            await refused.get("a")
    assert time.monotonic() - began < 5
    assert "wrong-secret" not in f"{failed.value} {failed.value.context} {failed.value.__cause__!r} {wrong}"


async def test_a_store_that_is_not_open_says_so(s3_server: S3Server) -> None:
    with pytest.raises(RuntimeError, match="not open"):
        await S3ObjectStore("bucket", "", s3_server.access).get("a")


def _large(monkeypatch: pytest.MonkeyPatch) -> bytes:
    monkeypatch.setattr(s3, "PART_BYTES", 5 * MIB)
    return bytes(range(256)) * (11 * MIB // 256)


async def _uploads(store: S3ObjectStore) -> list[str]:
    async with s3_client(store._access) as client:
        answer = await client.list_multipart_uploads(Bucket=store._bucket)
        return [upload["Key"] for upload in answer.get("Uploads", ())]


async def _until(condition: Callable[[], Awaitable[object]]) -> None:
    async with asyncio.timeout(20):
        while not await condition():
            await asyncio.sleep(0.005)
