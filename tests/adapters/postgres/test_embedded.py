# ruff: noqa: ASYNC220, ASYNC240  # a test may wait: nothing else runs in its event loop

import asyncio
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import asyncpg
import pytest
import pytest_asyncio

from duckmesh.adapters.postgres.embedded import EmbeddedPostgres, EmbeddedPostgresError
from duckmesh.adapters.postgres.embedded_binaries import (
    RunUser,
    copy_installation,
    find_installation,
    run_user,
    runnable_binaries,
)
from duckmesh.adapters.postgres.embedded_leftovers import FileLock, server_processes
from duckmesh.adapters.postgres.embedded_log import LogForwarder

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root drops privileges")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="the kernel feature, or /proc, is Linux's")

SUPERVISOR = """
import asyncio, sys
from pathlib import Path
from duckmesh.adapters.postgres.embedded import EmbeddedPostgres

async def main():
    postgres = EmbeddedPostgres(Path(sys.argv[1]), shared_buffers="16MB")
    await postgres.start()
    print(postgres.pid, flush=True)
    await postgres.wait()

asyncio.run(main())
"""

Make = Callable[..., EmbeddedPostgres]


@pytest.fixture
def home() -> Iterator[Path]:
    # pytest's own tmp_path is closed to the user that root drops to.
    folder = Path(tempfile.mkdtemp(prefix="embedded-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest_asyncio.fixture
async def make(home: Path) -> AsyncIterator[Make]:
    made: list[EmbeddedPostgres] = []

    def build(data_dir: Path = home, **options: Any) -> EmbeddedPostgres:
        made.append(EmbeddedPostgres(data_dir, **{"shared_buffers": "16MB", **options}))
        return made[-1]

    yield build
    for postgres in made:
        await postgres.stop()


async def fetch(postgres: EmbeddedPostgres, *statements: str) -> Any:
    connection = await asyncpg.connect(postgres.dsn)
    try:
        for statement in statements:
            value = await connection.fetchval(statement)
    finally:
        await connection.close()
    return value


def process_user(pid: int) -> str:
    return pwd.getpwuid(Path(f"/proc/{pid}").stat().st_uid).pw_name


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def eventually(true: Callable[[], bool], seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.01)


@pytest.mark.asyncio
async def test_the_first_start_makes_a_cluster_that_answers(make: Make) -> None:
    postgres = make()
    await postgres.start()
    assert await fetch(postgres, "select 1") == 1
    assert await fetch(postgres, "select current_database() || '/' || current_user") == "duckmesh/duckmesh"


@pytest.mark.asyncio
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("server_encoding", "UTF8"),
        ("data_checksums", "on"),
        ("synchronous_commit", "on"),
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("listen_addresses", ""),
        ("max_connections", "200"),
        ("max_wal_size", "4GB"),
        ("checkpoint_timeout", "15min"),
        ("jit", "off"),
        ("password_encryption", "scram-sha-256"),
    ],
)
async def test_the_server_runs_with_the_promised_settings(shared: EmbeddedPostgres, name: str, value: str) -> None:
    assert await fetch(shared, f"show {name}") == value


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def shared() -> AsyncIterator[EmbeddedPostgres]:
    folder = Path(tempfile.mkdtemp(prefix="embedded-", dir="/tmp"))
    folder.chmod(0o755)
    postgres = EmbeddedPostgres(folder)
    await postgres.start()
    yield postgres
    await postgres.stop()
    shutil.rmtree(folder)


@pytest.mark.asyncio
async def test_text_sorts_by_code_point_and_lower_knows_unicode(shared: EmbeddedPostgres) -> None:
    assert await fetch(shared, "select datlocprovider = 'b' from pg_database where datname = 'duckmesh'")
    assert await fetch(shared, "select lower('ÄÖÜ') = 'äöü' and 'Z' < 'a'")


@pytest.mark.asyncio
async def test_a_wrong_password_is_refused_even_on_the_private_socket(shared: EmbeddedPostgres) -> None:
    with pytest.raises(asyncpg.InvalidPasswordError):
        await asyncpg.connect(shared.dsn, password="guess")


@pytest.mark.asyncio
async def test_neither_environment_nor_alter_system_weakens_durability(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "PGOPTIONS": "-c fsync=off",
        "PGPORT": "6000",
        "PGDATA": "/nowhere",
        "LC_ALL": "xx_YY",
    }.items():
        monkeypatch.setenv(name, value)
    postgres = make()
    await postgres.start()
    monkeypatch.delenv("PGOPTIONS")
    await fetch(postgres, "alter system set synchronous_commit = off")
    await postgres.stop()
    await postgres.start()
    assert await fetch(postgres, "show synchronous_commit") == "on"
    assert await fetch(postgres, "show port") == "5432"


@on_linux
@pytest.mark.asyncio
async def test_no_process_of_the_server_listens_on_tcp(make: Make, home: Path) -> None:
    postgres = make()
    await postgres.start()
    listening = {
        line.split()[9]
        for table in ("/proc/net/tcp", "/proc/net/tcp6")
        if Path(table).exists()
        for line in Path(table).read_text().splitlines()[1:]
    }
    processes = server_processes(home / "postgres/data")
    assert postgres.pid in processes
    for pid in processes:
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            target = str(descriptor.readlink())
            assert target.removeprefix("socket:[").rstrip("]") not in listening


@pytest.mark.asyncio
async def test_the_files_are_private(make: Make, home: Path) -> None:
    postgres = make()
    await postgres.start()
    root = home / "postgres"
    user = run_user(root / "data")
    assert mode(root / "password") == 0o600
    assert (root / "password").stat().st_uid == os.geteuid()
    for folder in (root / "data", root / "run"):
        assert mode(folder) == 0o700
        assert folder.stat().st_uid == user.uid
    assert mode(root / "run/.s.PGSQL.5432") == 0o700
    assert mode(root) == (0o711 if user.drop else 0o700)
    assert not list(root.glob("initdb-*"))
    assert mode(home) == 0o755


@on_linux
@as_root
@pytest.mark.asyncio
async def test_started_by_root_the_server_is_an_unprivileged_process_without_secrets(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hidden")
    postgres = make()
    await postgres.start()
    process = Path(f"/proc/{postgres.pid}")
    assert process_user(postgres.pid or 0) in {"duckmesh", "nobody"}
    assert "\nGroups:\t \n" in (process / "status").read_text()
    assert b"hidden" not in (process / "environ").read_bytes()


@as_root
@pytest.mark.asyncio
async def test_a_parent_that_the_user_cannot_enter_is_named_and_left_closed(make: Make, home: Path) -> None:
    closed = home / "closed"
    closed.mkdir(mode=0o700)
    with pytest.raises(EmbeddedPostgresError, match=rf"cannot enter {closed} \(mode 0700\).*--data-dir /var/lib"):
        await make(closed / "data").start()
    assert mode(closed) == 0o700
    assert not (closed / "data").exists()


@pytest.mark.asyncio
async def test_a_restart_keeps_data_and_address(make: Make) -> None:
    postgres = make()
    await postgres.start()
    await fetch(postgres, "create table kept as select 42 as answer")
    before = postgres.dsn
    await postgres.stop()
    again = make()
    await again.start()
    assert await fetch(again, "select answer from kept") == 42
    assert again.dsn == before


@pytest.mark.asyncio
async def test_starting_a_running_server_changes_nothing(make: Make) -> None:
    postgres = make()
    await postgres.start()
    before = postgres.pid
    await postgres.start()
    assert postgres.pid == before


@pytest.mark.asyncio
async def test_wait_tells_how_the_server_ended(make: Make) -> None:
    postgres = make()
    await postgres.start()
    waiting = asyncio.create_task(postgres.wait())
    os.kill(postgres.pid or 0, signal.SIGKILL)
    assert await asyncio.wait_for(waiting, 5) == -signal.SIGKILL
    assert postgres.pid is None
    await postgres.start()
    waiting = asyncio.create_task(postgres.wait())
    await postgres.stop()
    assert await waiting == 0


@pytest.mark.asyncio
async def test_committed_rows_survive_a_killed_postmaster(make: Make) -> None:
    postgres = make()
    await postgres.start()
    await fetch(postgres, "create table kept as select generate_series(1, 1000) as n")
    os.kill(postgres.pid or 0, signal.SIGKILL)
    await postgres.wait()
    await postgres.start()
    assert await fetch(postgres, "select count(*) from kept") == 1000


@pytest.mark.asyncio
async def test_a_backend_that_still_computes_does_not_prevent_the_next_start(make: Make, home: Path) -> None:
    postgres = make()
    await postgres.start()
    connection = await asyncpg.connect(postgres.dsn)
    query = asyncio.create_task(connection.fetchval("select count(*) from generate_series(1, 1e9::bigint) as n(n)"))
    await asyncio.sleep(0.2)
    os.kill(postgres.pid or 0, signal.SIGKILL)
    await postgres.wait()
    assert server_processes(home / "postgres/data")
    await asyncio.wait_for(postgres.start(), 30)
    assert await fetch(postgres, "select 1") == 1
    with pytest.raises((asyncpg.PostgresError, OSError)):
        await query
    connection.terminate()


@on_linux
@pytest.mark.asyncio
async def test_the_server_shuts_down_with_a_killed_supervisor(make: Make, home: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", SUPERVISOR, home], stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        assert supervisor.stdout.readline()
        supervisor.kill()
    await eventually(lambda: not server_processes(home / "postgres/data"))
    await make().start()


@pytest.mark.asyncio
async def test_a_start_right_after_the_supervisor_was_killed_succeeds(make: Make, home: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", SUPERVISOR, home], stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        leftover = int(supervisor.stdout.readline())
        supervisor.kill()
    postgres = make()
    await postgres.start()
    assert postgres.pid != leftover
    assert await fetch(postgres, "select 1") == 1


@pytest.mark.asyncio
async def test_a_live_server_without_supervisor_is_stopped_first(make: Make, home: Path) -> None:
    postgres = make()
    await postgres.start()
    await postgres.stop()
    data = home / "postgres/data"
    user = run_user(data)
    leftover = subprocess.Popen(
        [
            runnable_binaries(user).program("postgres"),
            "-D",
            data,
            "-c",
            f"unix_socket_directories={home}/postgres/run",
        ],
        cwd="/",
        user=user.uid if user.drop else None,
        group=user.gid if user.drop else None,
        stderr=subprocess.DEVNULL,
    )
    try:
        await eventually((data / "postmaster.pid").exists)
        await postgres.start()
        assert leftover.wait(5) == 0
        assert await fetch(postgres, "select 1") == 1
    finally:
        leftover.kill()
        leftover.wait()


@pytest.mark.asyncio
async def test_a_pid_that_now_belongs_to_another_program_is_no_server(make: Make, home: Path) -> None:
    postgres = make()
    await postgres.start()
    os.kill(postgres.pid or 0, signal.SIGKILL)
    await postgres.wait()
    user = run_user(home / "postgres/data")
    stranger = subprocess.Popen(["/bin/sleep", "60"], user=user.uid if user.drop else None)
    try:
        for path in (home / "postgres/data/postmaster.pid", home / "postgres/run/.s.PGSQL.5432.lock"):
            lines = path.read_text().splitlines()
            path.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
        await postgres.start()
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


@pytest.mark.asyncio
async def test_a_second_supervisor_is_refused_and_the_first_is_not_harmed(make: Make) -> None:
    first = make()
    await first.start()
    with pytest.raises(EmbeddedPostgresError, match="Another DuckMesh process supervises"):
        await make().start()
    assert await fetch(first, "select 1") == 1


@pytest.mark.asyncio
async def test_data_that_somebody_else_holds_is_left_alone(
    make: Make, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("duckmesh.adapters.postgres.embedded_leftovers._ORPHAN_SECONDS", 0.1)
    postgres = make()
    await postgres.start()
    await postgres.stop()
    elsewhere = FileLock(home / "postgres/cluster.lock")
    assert elsewhere.acquire()
    with pytest.raises(EmbeddedPostgresError, match="Another process still uses"):
        await postgres.start()
    elsewhere.release()
    await postgres.start()


@pytest.mark.asyncio
async def test_a_server_that_cannot_start_explains_itself_and_leaves_nothing_running(make: Make, home: Path) -> None:
    postgres = make(shared_buffers="plenty")
    with pytest.raises(EmbeddedPostgresError, match='invalid value for parameter "shared_buffers": "plenty"'):
        await postgres.start()
    assert not server_processes(home / "postgres/data")
    await make().start()


@pytest.mark.asyncio
async def test_a_cancelled_start_leaves_nothing_running(make: Make, home: Path) -> None:
    postgres = make()
    await postgres.start()
    await postgres.stop()
    starting = asyncio.create_task(postgres.start())
    await eventually(lambda: postgres.pid is not None)
    starting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await starting
    assert not server_processes(home / "postgres/data")


@pytest.mark.asyncio
async def test_an_interrupted_initdb_is_begun_anew(make: Make, home: Path) -> None:
    (home / "postgres/initdb-0bad/data").mkdir(parents=True)
    (home / "postgres").chmod(0o755)
    postgres = make()
    await postgres.start()
    assert not (home / "postgres/initdb-0bad").exists()


@pytest.mark.asyncio
@pytest.mark.parametrize("damage", ["password", "data/PG_VERSION"])
async def test_missing_parts_are_named(make: Make, home: Path, damage: str) -> None:
    postgres = make()
    await postgres.start()
    await postgres.stop()
    (home / "postgres" / damage).unlink()
    with pytest.raises(EmbeddedPostgresError, match=f"{home}/postgres/{Path(damage).parts[0]}"):
        await postgres.start()


@pytest.mark.asyncio
async def test_a_cluster_of_another_major_version_is_refused(make: Make, home: Path) -> None:
    postgres = make()
    await postgres.start()
    await postgres.stop()
    (home / "postgres/data/PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedPostgresError, match="is of PostgreSQL 17"):
        await postgres.start()


@pytest.mark.asyncio
@pytest.mark.parametrize("name", ["a" * 100, "with space, and comma"])
async def test_where_no_socket_fits_a_private_temporary_folder_is_used_again_and_again(
    make: Make, home: Path, name: str
) -> None:
    postgres = make(home / name)
    await postgres.start()
    assert await fetch(postgres, "select 1") == 1
    before = postgres.dsn
    folder = Path((home / name / "postgres/socket_folder").read_text())
    assert mode(folder) == 0o700
    await postgres.stop()
    again = make(home / name)
    await again.start()
    assert again.dsn == before
    await again.stop()
    folder.rmdir()


@pytest.mark.asyncio
async def test_a_log_sink_that_hangs_or_fails_does_not_hold_up_the_server(make: Make) -> None:
    seen: list[str] = []
    hanging = threading.Event()

    def sink(line: str) -> None:
        seen.append(line)
        hanging.wait()
        raise ValueError

    postgres = make(on_log=sink)
    await postgres.start()
    await fetch(postgres, "do $$ begin for i in 1..5000 loop raise warning '%', repeat('x', 100); end loop; end $$")
    assert len(seen) == 1
    hanging.set()
    await eventually(lambda: any("lines of the PostgreSQL log were dropped" in line for line in seen))


def test_log_lines_without_end_arrive_in_pieces() -> None:
    seen: list[str] = []
    forwarder = LogForwarder(seen.append)
    with os.fdopen(forwarder.open(), "wb") as pipe:
        pipe.write(b"x" * 20_000 + b"\nlast \xff")
    forwarder.finish(5)
    assert [len(line) for line in seen] == [8192, 8192, 3616, 6]
    assert forwarder.tail.endswith("last \N{REPLACEMENT CHARACTER}")


def test_it_runs_under_uvloop(home: Path) -> None:
    script = SUPERVISOR.replace("asyncio.run", "__import__('uvloop').run")
    with subprocess.Popen([sys.executable, "-c", script, home], stdout=subprocess.PIPE) as supervisor:
        assert supervisor.stdout is not None
        pid = int(supervisor.stdout.readline())
        os.kill(pid, signal.SIGINT)
        assert supervisor.wait(20) == 0


def test_there_is_no_address_before_the_first_start(home: Path) -> None:
    with pytest.raises(EmbeddedPostgresError, match="before its first start"):
        _ = EmbeddedPostgres(home).dsn


@as_root
def test_binaries_out_of_reach_are_copied_once_even_by_two_at_a_time(home: Path) -> None:
    user = run_user(home / "none")
    copies: list[Path] = []

    def copy() -> None:
        copies.append(copy_installation(find_installation(), user, home / "lib"))

    threads = [threading.Thread(target=copy) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(copies)) == 1
    assert user.run([copies[0] / "bin/initdb", "--version"]).stdout.startswith("initdb (PostgreSQL) 18")
    assert user.run([copies[0] / "bin/postgres", "--version"]).returncode == 0
    (copy_folder,) = (home / "lib").iterdir()
    assert {path.lstat().st_uid for path in copy_folder.rglob("*")} == {0}
    began = time.perf_counter()
    copy()
    assert time.perf_counter() - began < 0.5


@as_root
def test_a_copy_that_others_can_write_is_not_run(home: Path) -> None:
    user = run_user(home / "none")
    copy_installation(find_installation(), user, home)
    (copy_folder,) = home.iterdir()
    copy_folder.chmod(0o777)
    with pytest.raises(EmbeddedPostgresError, match="others than root can write"):
        copy_installation(find_installation(), user, home)


@as_root
@pytest.mark.asyncio
async def test_a_virtualenv_closed_to_the_user_works_through_the_copy(
    make: Make, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed = find_installation()
    closed = home / "closed"
    closed.mkdir(mode=0o700)
    package = closed / installed.parent.name
    shutil.copytree(installed, package / installed.name)
    libraries = installed.parent.with_name(f"{installed.parent.name}.libs")
    shutil.copytree(libraries, closed / libraries.name)
    monkeypatch.setattr(
        "duckmesh.adapters.postgres.embedded_binaries.find_installation", lambda: package / installed.name
    )
    monkeypatch.setattr("duckmesh.adapters.postgres.embedded_binaries.SYSTEM_FOLDER", home / "lib")
    postgres = make()
    await postgres.start()
    assert await fetch(postgres, "select 1") == 1
    assert mode(closed) == 0o700
    assert Path(f"/proc/{postgres.pid}/exe").readlink().is_relative_to(home / "lib")


@as_root
def test_the_owner_of_an_existing_cluster_stays_its_user(home: Path) -> None:
    os.chown(home, 12345, 12345)
    assert run_user(home) == RunUser("12345", 12345, 12345, drop=True)
