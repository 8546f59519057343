"""The relay: tells the queue of jobs that are due, once each; the rows themselves say which it has told of."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Final, NamedTuple

from sqlalchemy import Table, Text, and_, bindparam, func, select, update
from sqlmodel import col

from pipeline.errors import Unavailable
from pipeline.jobs.clock import Clock
from pipeline.jobs.lanes import Lane
from pipeline.jobs.statements import listed, one_of
from pipeline.ledger.columns import UTCDateTime
from pipeline.ledger.database import Database
from pipeline.ledger.job_tables import JobRow

__all__ = ["NEAR", "Relay"]

BATCH: Final = 100
"""How many jobs a hint names at most."""
NEAR: Final = 0.5
"""Seconds: what is due sooner is waited for exactly; until then other processes may have left something."""
_ROWS: Final = 2_000
"""How many jobs one round tells of."""
_FULL: Final = 1_000
"""Hints in a queue, each of up to `BATCH` jobs, from which on it is told of no more: what waits in the database costs
less, and is grouped into bigger hints later."""
_MEASURED: Final = timedelta(seconds=10)
_TABLE: Final[Table] = JobRow.__table__  # type: ignore[attr-defined]
_log = logging.getLogger("pipeline.jobs")


class _Due(NamedTuple):
    id: str
    queue: str
    due_at: datetime


class Relay:
    """Puts hints of due jobs into one lane's queue; any number of processes may do so side by side.

    Where it dies between marking rows and putting hints, the sweeper finds what is missing.

    Args:
        database: Where the jobs are.
        lane: Where the hints go, and for which queues.
        clock: The time by which jobs are due.
        pipeline: Whose jobs.
        owner: This process, noted with hints that no other process can see.
        concurrency: How many jobs of a queue one worker runs at once: bigger hints would keep others from work.
        meet: Called with the name of each queue before hints are put into it.
    """

    def __init__(
        self,
        database: Database,
        lane: Lane,
        clock: Clock,
        *,
        pipeline: str,
        owner: str,
        concurrency: Callable[[str], int],
        meet: Callable[[str], None] | None = None,
    ) -> None:
        self._database = database
        self._hints = lane.hints
        self._clock = clock
        self._owner = owner if lane.hints.is_local else None
        self._concurrency = concurrency
        self._meet = meet
        self._full: set[str] = set()
        self._measured: datetime | None = None
        unhinted = and_(
            col(JobRow.pipeline) == pipeline, col(JobRow.hinted_at).is_(None), col(JobRow.state) == "queued",
            lane.carries.condition(),
            col(JobRow.queue).not_in(bindparam("full", expanding=True, type_=Text)),
        )  # fmt: skip
        self._first_due = select(func.min(col(JobRow.due_at), type_=UTCDateTime())).where(unhinted)
        self._take = _take(unhinted)
        self._untake = (
            update(_TABLE)
            .where(one_of(_TABLE.c.id, "ids", database.dialect), _TABLE.c.state == "queued")
            .values(hinted_at=None, owner=None)
        )

    async def round(self) -> float | None:
        """Tell the queue of what is due. Returns in how many seconds something more is due; None if that is not near.

        Raises what `Database.write` raises.
        """
        if not self._hints.is_up:
            return None  # the rows wait; `HintQueue.on_up` wakes whoever calls this
        try:
            await self._look_at_full()
            due_in = await self._due_in()
            if due_in is None or due_in > 0:
                return due_in if due_in is not None and due_in < NEAR else None
            found = await self._mark()
        except Unavailable as error:
            if error.dependency == "queue":
                return None
            raise
        await self._tell(found)
        return 0.0 if len(found) == _ROWS else None

    async def _due_in(self) -> float | None:
        """Seconds until the first job is due that the queue was not told of."""
        async with self._database.read() as connection:
            if self._measured is None or abs(self._clock.now() - self._measured) > _MEASURED:
                await self._clock.measure(connection)
                self._measured = self._clock.now()
            first: datetime | None = (
                await connection.execute(self._first_due, {"full": sorted(self._full)})
            ).scalar_one()
        return None if first is None else max(0.0, (first - self._clock.now()).total_seconds())

    async def _mark(self) -> list[_Due]:
        """Due jobs, noted as told of."""
        parameters = {"now": self._clock.now(), "full": sorted(self._full), "rows": _ROWS, "me": self._owner}
        async with self._database.write() as connection:
            rows = (await connection.execute(self._take, parameters)).all()
        return sorted((_Due(*row) for row in rows), key=lambda due: (due.queue, due.due_at))

    async def _tell(self, found: Sequence[_Due]) -> None:
        queues = list(dict.fromkeys(due.queue for due in found))
        told: set[str] = set()
        try:
            for queue in queues:
                ids = [due.id for due in found if due.queue == queue]
                if self._meet is not None:
                    self._meet(queue)
                await self._hints.put(queue, list(_batches(ids, min(BATCH, self._concurrency(queue)))))
                told.update(ids)
            await self._find_full(queues)
        except Unavailable as error:
            _log.debug("relay: %s", error)
            await self._unmark([due.id for due in found if due.id not in told])

    async def _unmark(self, ids: Sequence[str]) -> None:
        """Some of these hints may have come through: their jobs are claimed once all the same."""
        if ids:
            async with self._database.write() as connection:
                await connection.execute(self._untake, {"ids": listed(ids, self._database.dialect)})

    async def _find_full(self, queues: Iterable[str]) -> None:
        backlogs = await self._hints.backlogs(list(queues))
        self._full.update(queue for queue, backlog in backlogs.items() if backlog.hints >= _FULL)

    async def _look_at_full(self) -> None:
        if self._full:
            backlogs = await self._hints.backlogs(sorted(self._full))
            self._full = {queue for queue, backlog in backlogs.items() if backlog.hints >= _FULL}


def _take(condition: Any) -> Any:
    """Marks rows that nobody else is at; those that another relay marks at the same time are its own."""
    now = bindparam("now", type_=UTCDateTime())
    due = (
        select(_TABLE.c.id)
        .where(condition, _TABLE.c.due_at <= now)
        .order_by(_TABLE.c.due_at)
        .limit(bindparam("rows"))
        .with_for_update(skip_locked=True)
        .cte("due")
    )
    return (
        update(_TABLE)
        .where(_TABLE.c.id.in_(select(due.c.id)))
        .values(hinted_at=now, owner=bindparam("me", type_=Text))
        .returning(_TABLE.c.id, _TABLE.c.queue, _TABLE.c.due_at)
    )


def _batches(ids: Sequence[str], size: int) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), size):
        yield ids[start : start + size]
