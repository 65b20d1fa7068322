"""Stores that are broken on purpose: each breaks the law that forbids it, and no other."""

import asyncio
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from test_store_suites import TestLocalStore as LocalLaws
from test_store_suites import TestMemoryStore as MemoryLaws

from duckmesh.adapters.objectstore import LocalObjectStore, MemoryObjectStore
from duckmesh.adapters.objectstore.local import _entries
from duckmesh.adapters.objectstore.paths import contiguous
from duckmesh.domain.errors import InvalidRequest, ObjectExists, Unavailable
from duckmesh.ports.objectstore import LocationKind, ObjectLocation, StoredObject
from duckmesh.testing.laws import laws_of
from duckmesh.testing.mutants import broken_laws


class Overwrites(MemoryObjectStore):
    async def put(self, path: str, data: bytes | memoryview) -> StoredObject:
        await self.delete(path)
        return await super().put(path, data)


class TakesEqualBytesForItsOwn(MemoryObjectStore):
    async def put(self, path: str, data: bytes | memoryview) -> StoredObject:
        try:
            return await super().put(path, data)
        except ObjectExists:
            if await self.get(path) == bytes(data):
                return StoredObject(path, len(bytes(data)))
            raise


class ChecksThenCreates(MemoryObjectStore):
    async def put(self, path: str, data: bytes | memoryview) -> StoredObject:
        if await self.stat(path):
            raise ObjectExists(path)
        mine = bytes(data)
        await asyncio.sleep(0)
        self._objects[path] = mine
        return StoredObject(path, len(mine))


class TruncatesLongReads(MemoryObjectStore):
    async def get(self, path: str) -> bytes:
        data = await super().get(path)
        return data[:65_536] if len(data) == 65_537 else data


class CallsMissingUnavailable(MemoryObjectStore):
    async def get(self, path: str) -> bytes:
        if path in {"t/b", "t/a/bb"} and await self.stat(path) is None:
            raise Unavailable(path)
        return await super().get(path)


class StatsFolders(MemoryObjectStore):
    async def stat(self, path: str) -> StoredObject | None:
        found = await super().stat(path)
        folder = found is None and any(other.startswith(f"{path}/") for other in self._objects)
        return StoredObject(path, 0) if folder else found


class RefusesToDeleteTwice(MemoryObjectStore):
    async def delete(self, path: str) -> None:
        await self.get(path)
        await super().delete(path)


class ListsFoldersOnly(MemoryObjectStore):
    async def list(self, prefix: str) -> AsyncIterator[StoredObject]:
        async for stored in super().list(prefix):
            if prefix in {"", stored.path} or prefix.endswith("/") or stored.path.startswith(f"{prefix}/"):
                yield stored


class TakesAnyPath(LocalObjectStore):
    def _file(self, path: str) -> Path:
        try:
            return super()._file(path)
        except InvalidRequest:
            return self._root / "any" / path.replace("/", "").replace("\0", "")


class KeepsTheCallersBuffer(MemoryObjectStore):
    async def put(self, path: str, data: bytes | memoryview) -> StoredObject:
        stored = await super().put(path, data)
        self._objects[path] = data  # type: ignore[assignment]
        return stored

    async def get(self, path: str) -> bytes:
        return bytes(await super().get(path))

    async def stat(self, path: str) -> StoredObject | None:
        found = await super().stat(path)
        return found and StoredObject(path, memoryview(self._objects[path]).nbytes)


class CountsItemsAsBytes(MemoryObjectStore):
    async def put(self, path: str, data: bytes | memoryview) -> StoredObject:
        await super().put(path, data)
        return StoredObject(path, len(data))


class ShowsHalfOfAnObject(MemoryObjectStore):
    async def put(self, path: str, data: bytes | memoryview) -> StoredObject:
        whole = bytes(contiguous(data))
        stored = await super().put(path, whole)
        if path.startswith("whole"):
            self._objects[path] = whole[:1000]
            await asyncio.sleep(0)
            self._objects[path] = whole
        return stored


class LeavesHalfWhenCancelled(MemoryObjectStore):
    async def put(self, path: str, data: bytes | memoryview) -> StoredObject:
        try:
            if path.startswith("cancelled"):
                await asyncio.sleep(0)
        except asyncio.CancelledError:
            self._objects[path] = bytes(data)[:1000]
            raise
        return await super().put(path, data)


class ListsTemporaryFiles(LocalObjectStore):
    async def list(self, prefix: str) -> AsyncIterator[StoredObject]:
        async for stored in super().list(prefix):
            yield stored
        for entry in _entries(self._root / "t"):
            if entry.name.startswith(".tmp-"):
                yield StoredObject(f"t/{entry.name}", entry.stat().st_size)


class DecodesPaths(MemoryObjectStore):
    async def put(self, path: str, data: bytes | memoryview) -> StoredObject:
        return await super().put(path.replace("%20", " "), data)


class LocatesTheFolder(LocalObjectStore):
    def locate(self, path: str) -> ObjectLocation:
        super().locate(path)
        return ObjectLocation(LocationKind.FILE, str(self._root))


class WritesBack(LocalObjectStore):
    """Acknowledges before other handles can see it: a cache in front of the store."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._cache = MemoryObjectStore()

    async def put(self, path: str, data: bytes | memoryview) -> StoredObject:
        if path != "t/b":
            return await super().put(path, data)
        return await self._cache.put(path, data)

    async def get(self, path: str) -> bytes:
        return await (self._cache if await self._cache.stat(path) else super()).get(path)


class LocksWithinTheHandleOnly(LocalObjectStore):
    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._lock = asyncio.Lock()

    async def put(self, path: str, data: bytes | memoryview) -> StoredObject:
        if not path.startswith("race"):
            return await super().put(path, data)
        async with self._lock:
            if await self.stat(path):
                raise ObjectExists(path)
            await super().put(f"{path}.{id(self)}", data)
            (self._root / f"{path}.{id(self)}").replace(self._root / path)
            return StoredObject(path, len(data))


class MutantLocalLaws(LocalLaws):
    """The laws of the local store; another handle on a mutant is a mutant of the same kind."""

    def peer(self, store: LocalObjectStore) -> "Peer":
        return Peer(type(store)(store._root))


class Peer:
    def __init__(self, store: LocalObjectStore) -> None:
        self._store = store

    async def __aenter__(self) -> LocalObjectStore:
        return self._store

    async def __aexit__(self, *_: object) -> None:
        pass


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("mutant", "broken"),
    [
        (Overwrites, {"OBJ-1", "OBJ-3"}),
        (TakesEqualBytesForItsOwn, {"OBJ-1"}),
        (ChecksThenCreates, {"OBJ-3"}),
        (TruncatesLongReads, {"OBJ-2"}),
        (CallsMissingUnavailable, {"OBJ-4"}),
        (StatsFolders, {"OBJ-5"}),
        (RefusesToDeleteTwice, {"OBJ-6"}),
        (ListsFoldersOnly, {"OBJ-7"}),
        (KeepsTheCallersBuffer, {"OBJ-9"}),
        (CountsItemsAsBytes, {"OBJ-9"}),
        (ShowsHalfOfAnObject, {"OBJ-10"}),
        (LeavesHalfWhenCancelled, {"OBJ-11"}),
        (DecodesPaths, {"OBJ-13"}),
    ],
)
async def test_a_broken_memory_store_breaks_its_law_only(
    mutant: Callable[[], MemoryObjectStore], broken: set[str]
) -> None:
    assert await broken_laws(MemoryLaws, store=mutant) == broken


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("mutant", "broken"),
    [
        (LocalObjectStore, set()),
        (TakesAnyPath, {"OBJ-8"}),
        (ListsTemporaryFiles, {"OBJ-12"}),
        (LocatesTheFolder, {"OBJ-14"}),
        (WritesBack, {"OBJ-15"}),
        (LocksWithinTheHandleOnly, {"OBJ-16"}),
    ],
)
async def test_a_broken_local_store_breaks_its_law_only(
    mutant: Callable[[Path], LocalObjectStore], broken: set[str], tmp_path_factory: pytest.TempPathFactory
) -> None:
    def make() -> LocalObjectStore:
        return mutant(tmp_path_factory.mktemp("store"))

    assert await broken_laws(MutantLocalLaws, store=make) == broken


def test_every_law_has_a_mutant() -> None:
    parametrized = [
        *test_a_broken_memory_store_breaks_its_law_only.pytestmark,  # type: ignore[attr-defined]
        *test_a_broken_local_store_breaks_its_law_only.pytestmark,  # type: ignore[attr-defined]
    ]
    cases = [case for mark in parametrized if mark.name == "parametrize" for case in mark.args[1]]
    assert {law for _, broken in cases for law in broken} == set(laws_of(MemoryLaws))
