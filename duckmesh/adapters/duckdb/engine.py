"""`DuckDbEngine`: the query engine in this process, one hardened instance per query.

The walls here are the gate on the syntax tree and the settings of the instance. Limits of the operating system need
a process of its own for each query, which can be put behind the same port.
"""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from duckmesh.adapters.duckdb.guard import CheckedSql, SqlGuard
from duckmesh.adapters.duckdb.instance import InstancePool, S3Setup, locked, s3_setup
from duckmesh.adapters.duckdb.job import Job, named_relations
from duckmesh.adapters.duckdb.objects import needs_fetching
from duckmesh.domain.errors import ConfigurationError, QueryTimeout, Unavailable
from duckmesh.ports.engine import EngineQuery, EngineResult, RelationFile
from duckmesh.ports.objectstore import LocationKind, S3Access

Fetch = Callable[[str], Awaitable[bytes]]
T = TypeVar("T")

#: How often a query that must stop is interrupted, and how long the caller waits for it to end.
_INTERRUPT_EVERY_S: Final = 0.02
_GRACE_S: Final = 1.0
_PARALLEL_FETCHES: Final = 16


class DuckDbEngine:
    """Runs queries on DuckDB. Open it with ``async with``, or with `open` and `aclose`.

    ``max_concurrency`` queries run at once, later ones wait for a place; the time limit counts from there.
    ``fetch`` gets a file by its path where DuckDB cannot (`ObjectStore.get`); ``s3`` is for ``s3://`` locations.
    """

    def __init__(self, *, max_concurrency: int = 4, fetch: Fetch | None = None, s3: S3Access | None = None) -> None:
        self._max_concurrency = max_concurrency
        self._fetch = fetch
        self._s3 = s3
        self._opened: _Opened | None = None

    async def open(self) -> None:
        """Prepare the instances; raises `ConfigurationError` when S3 is asked for and its extension is missing."""
        loop = asyncio.get_running_loop()
        self._opened = await loop.run_in_executor(None, _Opened, self._max_concurrency, self._s3)

    async def aclose(self) -> None:
        """Stop what runs and close; no query may be started after this."""
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.aclose()

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def execute(self, query: EngineQuery) -> EngineResult:
        """See `QueryEngine.execute`."""
        opened = self._opened
        if opened is None:
            raise Unavailable("the query engine is not open")
        await opened.slots.acquire()
        run = _Run(opened, query, self._fetch, s3=self._s3 is not None)
        opened.runs.add(run)
        return await run.result()


class _Opened:
    """What an open engine holds. A run keeps its slot until its thread ends, whatever became of its caller."""

    def __init__(self, max_concurrency: int, s3: S3Access | None) -> None:
        setup: S3Setup | None = s3_setup(s3) if s3 is not None else None
        self.slots = asyncio.Semaphore(max_concurrency)
        self.runs: set[_Run] = set()
        self.workers = ThreadPoolExecutor(max_concurrency, thread_name_prefix="duckmesh-duckdb-query")
        self._parser = locked()
        self.guard = SqlGuard(self._parser)
        self.pool = InstancePool(max_concurrency, setup)

    def ended(self, run: "_Run") -> None:
        self.runs.discard(run)
        self.slots.release()

    async def aclose(self) -> None:
        await asyncio.gather(*(run.abandon() for run in set(self.runs)))
        await asyncio.get_running_loop().run_in_executor(None, self._close)

    def _close(self) -> None:
        self.workers.shutdown(wait=not self.runs, cancel_futures=True)
        self.pool.close()
        if not self.runs:
            self._parser.close()


class _Run:
    """A query on its way: checked, fetched, executed; stopped when its time is over or its caller is gone."""

    def __init__(self, opened: _Opened, query: EngineQuery, fetch: Fetch | None, *, s3: bool) -> None:
        self._opened = opened
        self._query = query
        self._fetch = fetch
        self._s3 = s3
        self._job = Job(query)
        self._fetching: asyncio.Future[Any] | None = None
        self._task = asyncio.create_task(self._carry_out())
        self._task.add_done_callback(self._ended)
        self._stopper: asyncio.Task[None] | None = None

    async def result(self) -> EngineResult:
        limit = self._query.limits.timeout_s
        try:
            await asyncio.wait({self._task}, timeout=limit)
        except asyncio.CancelledError:
            self._stop()
            raise
        if self._task.done():
            return self._task.result()
        await self.abandon()
        raise QueryTimeout(f"the query ran longer than {limit:g} s and was stopped", timeout_s=limit)

    async def abandon(self) -> None:
        """Stop the query, and wait a moment for it to end."""
        self._stop()
        await asyncio.wait({self._task}, timeout=_GRACE_S)

    def _stop(self) -> None:
        if self._stopper is None and not self._task.done():
            self._stopper = asyncio.create_task(self._stop_repeatedly())

    async def _stop_repeatedly(self) -> None:
        while not self._task.done():
            self._job.stop()
            if self._fetching is not None:
                self._fetching.cancel()
            await asyncio.wait({self._task}, timeout=_INTERRUPT_EVERY_S)

    def _ended(self, task: asyncio.Task[EngineResult]) -> None:
        self._opened.ended(self)
        if not task.cancelled():
            task.exception()  # its caller may be gone; the error has then been seen here

    async def _carry_out(self) -> EngineResult:
        names = [relation.name for relation in self._query.relations]
        checked = await self._in_thread(self._opened.guard.check, self._query.sql, names)
        self._job.check_stopped()
        contents = await self._contents(checked)
        return await self._in_thread(self._execute, checked, contents)

    async def _in_thread(self, call: Callable[..., T], *arguments: Any) -> T:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._opened.workers, functools.partial(call, *arguments))

    def _execute(self, checked: CheckedSql, contents: dict[str, bytes]) -> EngineResult:
        with self._opened.pool.instance() as connection:
            return self._job.run(connection, checked, contents)

    async def _contents(self, checked: CheckedSql) -> dict[str, bytes]:
        files = [file for relation in named_relations(self._query, checked) for file in relation.files]
        fetched = [file for file in files if needs_fetching(file)]
        if not self._s3 and any(file.location.kind is LocationKind.S3 for file in files):
            raise ConfigurationError("the query engine has no access to S3, but data files lie there")
        return await self._fetch_all(fetched) if fetched else {}

    async def _fetch_all(self, files: Iterable[RelationFile]) -> dict[str, bytes]:
        if self._fetch is None:
            raise ConfigurationError("the query engine cannot fetch files, but some can only be reached so")
        places = asyncio.Semaphore(_PARALLEL_FETCHES)
        fetch = self._fetch

        async def one(path: str) -> tuple[str, bytes]:
            async with places:
                return path, await fetch(path)

        self._fetching = asyncio.gather(*(one(path) for path in {file.path for file in files}))
        try:
            return dict(await self._fetching)
        except asyncio.CancelledError as error:
            raise QueryTimeout("the query was stopped") from error
        finally:
            self._fetching = None
