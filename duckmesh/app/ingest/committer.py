"""Group commit: concurrent requests of a tenant share a transaction of the log and one columnar conversion.

While a group is on its way, the next one gathers. One request's error never touches its neighbours: when a group
cannot be converted, its requests are converted one by one to find whose fault it is.
"""

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, Final

import pyarrow as pa
import structlog
from attrs import define, field, frozen

from duckmesh.domain.errors import DuckMeshError, InvalidRequest, Overloaded
from duckmesh.domain.tables import ControlChange
from duckmesh.domain.writes import Accepted, Outcome, Refused, TableRef, Write, WriteGroup, WritePart
from duckmesh.ports.bus import IngestBus

log = structlog.get_logger(__name__)

MAX_GROUP_WRITES: Final = 2_000
MAX_GROUP_RECORDS: Final = 100_000
MAX_QUEUED_RECORDS: Final = 500_000
#: A second group of a tenant starts beside the first only when this much waits, so that groups stay large.
_SECOND_GROUP_RECORDS: Final = 2_000
_IN_FLIGHT: Final = 2


@frozen(eq=False)
class PreparedPart:
    """A validated part: its keys, and its rows either as a batch or as ``records`` for a shared conversion.

    ``convert`` makes one batch of the ``records`` of several parts of the same table and version.
    """

    part: WritePart
    records: Any = None
    batch: Any = None
    convert: Callable[[Sequence[Any], datetime], Any] | None = None


@frozen(eq=False)
class PreparedWrite:
    """A validated request, ready for the log."""

    schema_token: int
    parts: tuple[PreparedPart, ...] = ()
    control: ControlChange | None = None
    trace: str | None = None

    @property
    def rows(self) -> int:
        """Rows in all parts."""
        return sum(prepared.part.rows for prepared in self.parts)


@frozen(eq=False)
class _Waiting:
    write: PreparedWrite
    done: "asyncio.Future[Outcome]"


@define(eq=False)
class _Queue:
    waiting: deque[_Waiting] = field(factory=deque)
    records: int = 0
    in_flight: int = 0


class GroupCommitter:
    """Publishes prepared writes in groups."""

    def __init__(self, bus: IngestBus) -> None:
        self._bus = bus
        self._queues: dict[str, _Queue] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    async def submit(self, tenant: str, write: PreparedWrite) -> Accepted:
        """Durable when this returns; raises what the write was refused for."""
        queue = self._queues.setdefault(tenant, _Queue())
        if queue.records > MAX_QUEUED_RECORDS:
            raise Overloaded("too many records of this tenant wait for the log; slow down", retry_after_s=1)
        waiting = _Waiting(write, asyncio.get_running_loop().create_future())
        queue.waiting.append(waiting)
        queue.records += write.rows
        self._start(tenant, queue)
        # A caller that goes away does not take its neighbours' group with it.
        outcome = await asyncio.shield(waiting.done)
        if isinstance(outcome, Refused):
            raise outcome.error
        return outcome

    def _start(self, tenant: str, queue: _Queue) -> None:
        enough = queue.records >= _SECOND_GROUP_RECORDS and queue.in_flight < _IN_FLIGHT
        if queue.waiting and (queue.in_flight == 0 or enough):
            queue.in_flight += 1
            task = asyncio.create_task(self._run(tenant, queue), name=f"group-commit-{tenant}")
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _run(self, tenant: str, queue: _Queue) -> None:
        try:
            # Whatever else is ready to run may join the group.
            await asyncio.sleep(0)
            while group := _take(queue):
                await self._publish(tenant, group)
        finally:
            queue.in_flight -= 1
            if not queue.in_flight and not queue.waiting:
                self._queues.pop(tenant, None)

    async def _publish(self, tenant: str, waiting: list[_Waiting]) -> None:
        try:
            good, data = await _converted(waiting)
            if not good:
                return
            group = WriteGroup(tenant, tuple(_write(w) for w in good), data, good[0].write.schema_token)
            outcomes = await self._bus.publish(group)
        except DuckMeshError as error:
            _finish_all(waiting, Refused(error))
        except BaseException as error:  # a bug of ours, or the process ends: nobody may wait for ever
            _fail_all(waiting, error)
            if not isinstance(error, Exception):
                raise
            log.exception("ingest.group_failed", tenant_id=tenant)
        else:
            for one, outcome in zip(good, outcomes, strict=True):
                _finish(one, outcome)


def _take(queue: _Queue) -> list[_Waiting]:
    """The next group: requests that knew the same tables, up to a bound; a control write goes alone."""
    group: list[_Waiting] = []
    records = 0
    while queue.waiting and len(group) < MAX_GROUP_WRITES and records < MAX_GROUP_RECORDS:
        write = queue.waiting[0].write
        if group and (write.schema_token != group[0].write.schema_token or _alone(write) or _alone(group[0].write)):
            break
        group.append(queue.waiting.popleft())
        records += write.rows
        queue.records -= write.rows
    return group


def _alone(write: PreparedWrite) -> bool:
    return write.control is not None


def _write(waiting: _Waiting) -> Write:
    write = waiting.write
    return Write(tuple(prepared.part for prepared in write.parts), write.control, write.trace)


async def _converted(waiting: list[_Waiting]) -> tuple[list[_Waiting], dict[TableRef, Any]]:
    """The rows of all requests, and the requests that could be converted."""
    now = datetime.now(UTC)
    try:
        return waiting, _batches(waiting, now)
    except (pa.ArrowException, ValueError, OverflowError, TypeError):
        good = [one for one in waiting if _convertible(one, now)]
        return good, _batches(good, now)


def _convertible(waiting: _Waiting, now: datetime) -> bool:
    try:
        _batches([waiting], now)
    except (pa.ArrowException, ValueError, OverflowError, TypeError) as error:
        _finish(waiting, Refused(InvalidRequest(f"the records cannot be stored: {error}")))
        return False
    return True


def _batches(waiting: Sequence[_Waiting], now: datetime) -> dict[TableRef, Any]:
    by_table: dict[TableRef, list[PreparedPart]] = {}
    for one in waiting:
        for prepared in one.write.parts:
            by_table.setdefault(prepared.part.table, []).append(prepared)
    return {table: _batch(parts, now) for table, parts in by_table.items()}


def _batch(parts: Sequence[PreparedPart], now: datetime) -> Any:
    """One batch of the parts' rows in order; neighbours that are records are converted together."""
    batches = []
    for convert, run in groupby(parts, key=lambda prepared: prepared.convert):
        if convert is None:
            batches += [prepared.batch for prepared in run]
        else:
            batches.append(convert([prepared.records for prepared in run], now))
    return batches[0] if len(batches) == 1 else pa.concat_batches(batches)


def _finish(waiting: _Waiting, outcome: Outcome) -> None:
    if not waiting.done.done():
        waiting.done.set_result(outcome)


def _finish_all(waiting: Sequence[_Waiting], outcome: Outcome) -> None:
    for one in waiting:
        _finish(one, outcome)


def _fail_all(waiting: Sequence[_Waiting], error: BaseException) -> None:
    for one in waiting:
        if not one.done.done():
            one.done.set_exception(RuntimeError(f"the group failed: {error!r}"))
