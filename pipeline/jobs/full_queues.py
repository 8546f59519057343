"""Full queues: a source pauses while too many jobs wait on a queue that its stages leave jobs on."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any, Final, Protocol

from sqlalchemy import and_, func, or_, select
from sqlmodel import col

from pipeline.jobs.rounds import Rounds, rested
from pipeline.ledger.database import Database
from pipeline.ledger.job_tables import JobRow

__all__ = ["FullQueues", "Held"]

_LOOK_SECONDS: Final = 1.0
_ROOM_AGAIN: Final = 0.8
"""The part of the limit at which the source goes on, so that it does not pause again at the next batch."""


class Held(Protocol):
    """What pauses: a source's `Window`."""

    def hold(self, cause: str, reason: str, *, for_room: bool = False) -> None:
        """Pause for this cause."""

    def release(self, cause: str) -> None:
        """End that pause."""


class FullQueues:
    """Looks again and again how many jobs wait on each queue, and holds the source while one is full.

    Jobs that wait are those that are due, running, or to be tried again; those that are scheduled for later are not
    late, and don't count. As it looks about once a second, or less often where that takes long, a source may exceed the
    limit by what it reads meanwhile.

    Args:
        database: Where the jobs are.
        pipeline: Whose jobs.
        limits: How many jobs may wait, by the queue's name.
        held: What pauses.
        now: The time by which jobs are due.
        part: The part of each limit at which this source pauses: less than all, to leave room to others.
    """

    def __init__(
        self,
        database: Database,
        pipeline: str,
        limits: Mapping[str, int],
        held: Held,
        now: Callable[[], datetime],
        *,
        part: float = 1.0,
    ) -> None:
        self._database = database
        self._pipeline = pipeline
        self._limits = {queue: max(1, int(limit * part)) for queue, limit in limits.items()}
        self._said = {queue: f"max_waiting = {limit}" for queue, limit in limits.items()}
        if part < 1:
            self._said = {queue: f"{self._limits[queue]} of {said}" for queue, said in self._said.items()}
        self._held = held
        self._now = now
        self._full: set[str] = set()
        # Of a database that is away, the source's own commits tell.
        self._rounds = Rounds("look at full queues", self.look, every=_LOOK_SECONDS, silent=("database",))

    def start(self) -> None:
        """Begin, where any queue has a limit."""
        if self._limits:
            self._rounds.start()

    async def stop(self) -> None:
        """End."""
        await self._rounds.stop()

    async def look(self) -> float:
        """Look once. Returns in how many seconds to look again. Raises what `Database.read` raises."""
        began = time.monotonic()
        for queue, limit in self._limits.items():
            self._judge(queue, limit, await self._waiting(queue, limit))
        return rested(time.monotonic() - began, _LOOK_SECONDS)

    def _judge(self, queue: str, limit: int, waiting: int) -> None:
        if waiting >= limit or (queue in self._full and waiting > limit * _ROOM_AGAIN):
            self._full.add(queue)
            # Without how many there are: a reason that changes is told again.
            self._held.hold(
                f"queue {queue}",
                f"the queue {queue} is full: {self._said[queue]} jobs wait, its workers are slow or there are none",
                for_room=True,
            )
        elif queue in self._full:
            self._full.discard(queue)
            self._held.release(f"queue {queue}")

    async def _waiting(self, queue: str, limit: int) -> int:
        """How many jobs wait; counts no further than the limit."""
        scheduled = and_(col(JobRow.due_at) > self._now(), col(JobRow.failures) == 0, col(JobRow.error).is_(None))
        on_queue: Any = and_(col(JobRow.pipeline) == self._pipeline, col(JobRow.queue) == queue)
        waits = or_(col(JobRow.state) == "running", ~scheduled)
        some = select(col(JobRow.id)).where(on_queue, waits).limit(limit).subquery()
        return (await self._database.fetch(int, select(func.count()).select_from(some)))[0]
