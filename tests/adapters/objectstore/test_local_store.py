import asyncio
import os
import resource
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest

from duckmesh.adapters.objectstore import LocalObjectStore
from duckmesh.domain.errors import InvalidRequest, ObjectExists, Unavailable
from duckmesh.ports.objectstore import StoredObject

pytestmark = pytest.mark.asyncio


@pytest.fixture
def store(tmp_path: Path) -> LocalObjectStore:
    return LocalObjectStore(tmp_path / "objects")


DIES_BEFORE_THE_LINK = """
import asyncio, os, signal, sys
from pathlib import Path
from duckmesh.adapters.objectstore import LocalObjectStore
os.link = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
asyncio.run(LocalObjectStore(Path(sys.argv[1])).put("t/a", bytes(100_000)))
"""

CREATES_WHEN_TOLD = """
import asyncio, os, sys
from pathlib import Path
from duckmesh.adapters.objectstore import LocalObjectStore
from duckmesh.domain.errors import ObjectExists
store, body = LocalObjectStore(Path(sys.argv[1])), sys.argv[2].encode() * 1000
print("ready", flush=True)
for line in sys.stdin:
    try:
        asyncio.run(store.put(line.strip(), body))
        print("won", flush=True)
    except ObjectExists:
        print("lost", flush=True)
"""


async def test_a_writer_killed_between_write_and_link_leaves_nothing_visible(store: LocalObjectStore) -> None:
    died = await asyncio.to_thread(subprocess.run, _python(DIES_BEFORE_THE_LINK, str(store._root)), check=False)
    assert died.returncode == -9
    assert [entry.name[:5] for entry in (store._root / "t").iterdir()] == [".tmp-"]
    assert [stored async for stored in store.list("")] == []
    assert await store.stat("t/a") is None
    await store.put("t/a", b"again")
    assert await store.remove_leftovers(timedelta(seconds=-1)) == 1
    assert [entry.name for entry in (store._root / "t").iterdir()] == ["a"]


async def test_a_temporary_file_that_may_be_in_use_stays(store: LocalObjectStore) -> None:
    await store.put("t/a", b"")
    (store._root / "t" / ".tmp-1").touch()
    assert await store.remove_leftovers(timedelta(hours=1)) == 0


async def test_of_two_processes_that_race_exactly_one_wins(store: LocalObjectStore) -> None:
    racers = [_racer(store._root, name) for name in "ab"]
    try:
        assert {_line_of(racer) for racer in racers} == {"ready"}
        for turn in range(30):
            for racer in racers:
                assert racer.stdin
                racer.stdin.write(f"t{turn % 3}/{turn}\n")
            outcomes = [_line_of(racer) for racer in racers]
            assert sorted(outcomes) == ["lost", "won"]
            assert await store.get(f"t{turn % 3}/{turn}") == b"ab"[outcomes.index("won") :][:1] * 1000
    finally:
        for racer in racers:
            racer.communicate()


async def test_the_disk_has_the_bytes_before_the_name_and_the_name_before_the_put_returns(
    store: LocalObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    await store.put("t/before", b"")
    calls: list[str] = []
    monkeypatch.setattr(os, "fsync", _recorded(calls, os.fsync, lambda fd: f"sync {_kind(fd)}"))
    monkeypatch.setattr(os, "link", _recorded(calls, os.link, lambda *_: "link"))
    await store.put("t/a", b"x")
    assert calls == ["sync file", "link", "sync folder"]
    calls.clear()
    await store.put("u/v/a", b"x")
    assert calls == ["sync folder", "sync folder", "sync file", "link", "sync folder"]


async def test_objects_and_folders_are_closed_to_other_users(store: LocalObjectStore) -> None:
    await store.put("t/u/a", b"x")
    modes = {
        str(path.relative_to(store._root)): stat.S_IMODE(path.stat().st_mode)
        for path in [store._root, *store._root.rglob("*")]
    }
    assert modes == {".": 0o700, "t": 0o700, "t/u": 0o700, "t/u/a": 0o600}


async def test_a_folder_that_somebody_removed_is_made_again(store: LocalObjectStore) -> None:
    await store.put("t/u/a", b"x")
    await store.delete("t/u/a")
    (store._root / "t" / "u").rmdir()
    (store._root / "t").rmdir()
    await store.put("t/u/a", b"y")
    assert await store.get("t/u/a") == b"y"


async def test_an_object_cannot_be_a_folder_too(store: LocalObjectStore) -> None:
    await store.put("t/a", b"x")
    with pytest.raises(InvalidRequest):
        await store.put("t/a/b", b"y")
    with pytest.raises(ObjectExists):
        await store.put("t", b"y")


async def test_a_write_that_the_disk_refuses_is_unavailable_and_leaves_nothing(store: LocalObjectStore) -> None:
    await store.put("t/a", b"x")
    limit = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1024 * 1024, limit[1]))
    try:
        with pytest.raises(Unavailable, match="EFBIG") as failed:
            await store.put("t/b", bytes(2 * 1024 * 1024))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limit)
    assert isinstance(failed.value.__cause__, OSError)
    assert [entry.name for entry in (store._root / "t").iterdir()] == ["a"]


async def test_links_inside_the_store_are_not_followed_by_a_listing(store: LocalObjectStore, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "secret").write_bytes(b"x")
    await store.put("t/a", b"x")
    (store._root / "t" / "link").symlink_to(tmp_path / "elsewhere")
    assert [stored async for stored in store.list("")] == [StoredObject("t/a", 1)]


async def test_a_large_listing_comes_whole(store: LocalObjectStore) -> None:
    (store._root / "t").mkdir(parents=True)
    for number in range(2_001):
        (store._root / "t" / str(number)).touch()
    assert len({stored.path async for stored in store.list("t/")}) == 2_001


def _python(program: str, *arguments: str) -> list[str]:
    return [sys.executable, "-c", program, *arguments]


def _racer(root: Path, name: str) -> subprocess.Popen[str]:
    command = _python(CREATES_WHEN_TOLD, str(root), name)
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)


def _line_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout
    return process.stdout.readline().strip()


def _kind(descriptor: int) -> str:
    return "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"


def _recorded(calls: list[str], real: Callable[..., None], name: Callable[..., str]) -> Callable[..., None]:
    def call(*arguments: object) -> None:
        calls.append(name(*arguments))
        real(*arguments)

    return call
