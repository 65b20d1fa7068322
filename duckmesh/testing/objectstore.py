"""The laws of `ObjectStore`.

Run them against an adapter of yours by subclassing::

    import pytest_asyncio
    from duckmesh.testing.objectstore import ObjectStoreSuite

    class TestMyStore(ObjectStoreSuite):
        @pytest_asyncio.fixture
        async def store(self, tmp_path):
            async with open_my_store(tmp_path) as store:
                yield store

`store` is required and yields a store that is empty. The other hooks are back doors past the port; a law that needs
one which is not there is skipped, with a reason:

- ``peer(store)``: an async context manager of another handle on the same place, as another process would have it;
- ``abandon_put(store, path, data)``: leave behind what a writer leaves that dies in the middle of a put.
"""

import asyncio
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path

import pytest
import pytest_asyncio

from duckmesh.domain.errors import InvalidRequest, ObjectExists, ObjectMissing
from duckmesh.ports.objectstore import LocationKind, ObjectStore, StoredObject
from duckmesh.testing.laws import LawSuite, law, missing_hook, unsupported

LARGE = bytes(range(256)) * 16_384  # 4 MiB in which every byte has its place
RACERS = 4
OUTSIDE = ("", "/", "/etc/x", "../x", "a/../../x", "a/..", "a//b", "./a", "a/.", "a/", "a\0b", "a\nb", "a\\b")


class ObjectStoreSuite(LawSuite):
    """What every object store keeps."""

    @pytest_asyncio.fixture
    async def store(self) -> AsyncIterator[ObjectStore]:
        """Give an empty store; required."""
        missing_hook(self, "store", "yield an empty ObjectStore")
        yield

    def peer(self, store: ObjectStore) -> AbstractAsyncContextManager[ObjectStore]:  # noqa: ARG002 - a hook
        """Open another handle on the same place."""
        unsupported("no `peer` hook: the suite cannot open this store a second time")

    async def abandon_put(self, store: ObjectStore, path: str, data: bytes) -> None:  # noqa: ARG002 - a hook
        """Leave what a put leaves that dies in the middle."""
        unsupported("no `abandon_put` hook: the suite cannot interrupt a put of this store")

    @law("OBJ-1", "An object is never overwritten: creating it again is refused, also with the same bytes")
    async def test_an_object_is_never_overwritten(self, store: ObjectStore) -> None:
        await store.put("t/a.parquet", b"first")
        for again in (b"second", b"first", b""):
            with pytest.raises(ObjectExists):
                await store.put("t/a.parquet", again)
        assert await store.get("t/a.parquet") == b"first"

    @law("OBJ-2", "What was put is what is read, byte for byte")
    async def test_what_was_put_is_what_is_read(self, store: ObjectStore) -> None:
        for size in (0, 1, 65_537, len(LARGE)):
            assert await store.put(f"sizes/{size}", LARGE[:size]) == StoredObject(f"sizes/{size}", size)
            assert await store.get(f"sizes/{size}") == LARGE[:size]

    @law("OBJ-3", "Of creators that race for a path exactly one wins, and its bytes stay")
    async def test_of_racing_creators_exactly_one_wins(self, store: ObjectStore) -> None:
        for turn in range(5):
            await _race([store] * RACERS, f"race/{turn}")

    @law("OBJ-4", "Reading an object that is not there says that it is missing")
    async def test_reading_what_is_not_there_says_so(self, store: ObjectStore) -> None:
        await store.put("t/a/b", b"x")
        for absent in ("t/b", "t/a", "t", "t/a/bb"):
            with pytest.raises(ObjectMissing):
                await store.get(absent)

    @law("OBJ-5", "A stat gives the object's size, and nothing for what is not an object")
    async def test_a_stat_gives_the_size_or_nothing(self, store: ObjectStore) -> None:
        await store.put("t/a/b", b"12345")
        assert await store.stat("t/a/b") == StoredObject("t/a/b", 5)
        assert [await store.stat(absent) for absent in ("t", "t/a", "t/a/bb", "u/v")] == [None] * 4

    @law("OBJ-6", "A deleted object is gone, and deleting what is not there is fine")
    async def test_a_deleted_object_is_gone(self, store: ObjectStore) -> None:
        await store.put("t/a", b"old")
        await store.put("t/ab", b"other")
        for _ in range(2):
            await store.delete("t/a")
            assert await store.stat("t/a") is None
        assert await _listed(store, "") == {"t/ab": 5}
        await store.put("t/a", b"new")
        assert await store.get("t/a") == b"new"

    @law("OBJ-7", "A listing has exactly the objects whose path starts with the prefix, once each, with their sizes")
    async def test_a_listing_has_exactly_what_starts_with_the_prefix(self, store: ObjectStore) -> None:
        objects = {"a/1": 1, "a/10": 2, "a/b/1": 3, "ab/1": 4, "b": 5}
        for path, size in objects.items():
            await store.put(path, bytes(size))
        for prefix in ("", "a", "a/", "a/1", "a/b", "a/b/", "ab/", "b", "c", "c/", "a/2", "b/"):
            expected = {path: size for path, size in objects.items() if path.startswith(prefix)}
            assert await _listed(store, prefix) == expected, prefix

    @law("OBJ-8", "A path that is not a relative path inside the store is refused as invalid")
    async def test_a_path_that_leaves_the_store_is_refused(self, store: ObjectStore) -> None:
        for path in OUTSIDE:
            for refused in _uses_of(store, path):
                with pytest.raises(InvalidRequest):
                    await refused()
        with pytest.raises(InvalidRequest):
            await _listed(store, "../")

    @law("OBJ-9", "The store keeps the bytes that the buffer had, whatever its items, whatever happens to it later")
    async def test_the_buffer_belongs_to_the_caller_again(self, store: ObjectStore) -> None:
        buffer = bytearray(b"(before")
        await store.put("buffer", memoryview(buffer)[1:])
        buffer[:] = b"(after!"
        assert await store.get("buffer") == b"before"
        numbers = array("q", [1, 2, 3])
        assert await store.put("numbers", memoryview(numbers)) == StoredObject("numbers", 24)
        assert await store.get("numbers") == numbers.tobytes()

    @law("OBJ-10", "A reader sees all of an object or nothing of it")
    async def test_a_reader_sees_all_or_nothing(self, store: ObjectStore) -> None:
        for turn in range(3):
            path = f"whole/{turn}"
            writing = asyncio.create_task(store.put(path, LARGE))
            while not writing.done():
                await _assert_all_or_nothing(store, path)
                await asyncio.sleep(0)
            await writing
            assert await store.get(path) == LARGE

    @law("OBJ-11", "A put that is cancelled leaves all of the object or nothing, and the path usable")
    async def test_a_cancelled_put_leaves_all_or_nothing(self, store: ObjectStore) -> None:
        for turns in range(4):
            path = f"cancelled/{turns}"
            writing = asyncio.create_task(store.put(path, LARGE))
            for _ in range(turns):
                await asyncio.sleep(0)
            writing.cancel()
            with suppress(asyncio.CancelledError):
                await writing
            await _assert_all_or_nothing(store, path)
            with suppress(ObjectExists):
                await store.put(path, LARGE)
            assert await store.get(path) == LARGE

    @law("OBJ-12", "What a writer left that died in the middle of a put is not an object")
    async def test_what_a_dead_writer_left_is_no_object(self, store: ObjectStore) -> None:
        await store.put("t/before", b"1")
        await self.abandon_put(store, "t/a", LARGE)
        assert await _listed(store, "") == {"t/before": 1}
        assert await store.stat("t/a") is None
        with pytest.raises(ObjectMissing):
            await store.get("t/a")
        await store.put("t/a", b"whole")
        assert await store.get("t/a") == b"whole"

    @law("OBJ-13", "Paths with spaces and any printable characters are kept as they are")
    async def test_paths_keep_their_characters(self, store: ObjectStore) -> None:
        paths = ["a b/c.d", "ünï/çø∂é 表", "%2F+%20/+&=;,@!'()~$", "day=2024-01-31/x.y_z-", ".hidden"]
        for path in paths:
            await store.put(path, path.encode())
        assert {path: await store.get(path) for path in await _listed(store, "")} == {
            path: path.encode() for path in paths
        }

    @law("OBJ-14", "The location leads a native reader to the same object")
    async def test_the_location_leads_to_the_object(self, store: ObjectStore) -> None:
        await store.put("t/a.parquet", b"native")
        location = store.locate("t/a.parquet")
        if location.kind is LocationKind.FILE:
            assert Path(location.uri).is_absolute()
            assert await asyncio.to_thread(Path(location.uri).read_bytes) == b"native"
        elif location.kind is LocationKind.S3:
            assert location.uri.startswith("s3://")
            assert location.uri.endswith("/t/a.parquet")
        assert store.locate("t/b.parquet") != location

    @law("OBJ-15", "An object is there for every handle as soon as the put returned, and outlives the handle")
    async def test_an_object_is_there_for_every_handle(self, store: ObjectStore) -> None:
        async with self.peer(store) as other:
            await other.put("t/a", b"by the other")
            assert await store.get("t/a") == b"by the other"
            await store.put("t/b", b"by this")
            assert await other.get("t/b") == b"by this"
            assert await _listed(other, "") == await _listed(store, "") == {"t/a": 12, "t/b": 7}
        assert await store.get("t/a") == b"by the other"

    @law("OBJ-16", "Of creators in two handles exactly one wins, and its bytes stay")
    async def test_of_creators_in_two_handles_exactly_one_wins(self, store: ObjectStore) -> None:
        async with self.peer(store) as other:
            for turn in range(10):
                await _race([store, other], f"race/{turn}")


async def _listed(store: ObjectStore, prefix: str) -> dict[str, int]:
    found = [stored async for stored in store.list(prefix)]
    sizes = {stored.path: stored.size for stored in found}
    assert len(sizes) == len(found), "a path was listed twice"
    return sizes


async def _race(stores: list[ObjectStore], path: str) -> None:
    bodies = [f"writer {number}".encode() * (1 + number) for number in range(len(stores))]
    outcomes = await asyncio.gather(
        *(store.put(path, body) for store, body in zip(stores, bodies, strict=True)), return_exceptions=True
    )
    winners = [body for body, outcome in zip(bodies, outcomes, strict=True) if isinstance(outcome, StoredObject)]
    assert len(winners) == 1, f"{len(winners)} creators were told that they made the object"
    assert all(isinstance(outcome, StoredObject | ObjectExists) for outcome in outcomes), outcomes
    assert await stores[0].get(path) == winners[0]


async def _assert_all_or_nothing(store: ObjectStore, path: str) -> None:
    for seen in (await store.stat(path), *[stored async for stored in store.list(path)]):
        assert seen in {None, StoredObject(path, len(LARGE))}
    with suppress(ObjectMissing):
        assert await store.get(path) == LARGE


def _uses_of(store: ObjectStore, path: str) -> list[Callable[[], Awaitable[object]]]:
    async def locate() -> object:
        return store.locate(path)

    return [
        lambda: store.put(path, b"x"),
        lambda: store.get(path),
        lambda: store.stat(path),
        lambda: store.delete(path),
        locate,
    ]
