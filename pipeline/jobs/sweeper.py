"""The sweeper: finds jobs whose worker is gone, and jobs whose hint is lost, so that they are run after all."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from sqlalchemy import Table, Text, and_, bindparam, func, insert, or_, select, update
from sqlmodel import col

from pipeline.jobs.clock import Clock
from pipeline.jobs.lanes import Lane
from pipeline.jobs.statements import listed, one_of
from pipeline.ledger.columns import UTCDateTime
from pipeline.ledger.database import Database
from pipeline.ledger.job_tables import JobRow, JobRun
from pipeline.ledger.owner import is_gone

__all__ = ["LOST", "LostHints", "LostWorkers", "forget_hints_of"]

LOST: Final = "its worker was lost"
"""The error of a run whose worker died on it."""
_AT_ONCE: Final = 1_000
_MARGIN: Final = timedelta(seconds=2)
"""How long a hint may be on its way to the queue; also how far the clocks of two hosts may be apart."""
_FOREIGN: Final = timedelta(seconds=60)
"""After how long the hints of another process, which nobody else can see, count as lost where it can't be asked."""
_JOBS: Final[Table] = JobRow.__table__  # type: ignore[attr-defined]
_RUNS: Final[Table] = JobRun.__table__  # type: ignore[attr-defined]
_RENEWED: Final = timedelta(seconds=30)
"""After so long at most each live worker has renewed its claims in a database that has come back."""
_NEVER: Final = datetime.min.replace(tzinfo=UTC)
_TOUCH: Final = (
    update(_JOBS)
    .where(
        _JOBS.c.id.in_(
            select(_JOBS.c.id)
            .where(_JOBS.c.state == "running", _JOBS.c.pipeline == bindparam("ours", type_=Text))
            .limit(1)
            .with_for_update(skip_locked=True)
        )
    )
    .values(claimed_until=_JOBS.c.claimed_until)
)
"""Changes nothing, and shows that a claim can be renewed: a full disk or a standby can be read all the same."""
_log = logging.getLogger("pipeline.jobs")


class LostWorkers:
    """Puts jobs back whose worker died: at once where it was a process of this machine, else when its claim runs out.

    While the database is away, or can only be read, no worker can renew its claims. So those that have run out by its
    return prove nothing, and the workers have some time to renew them: else all jobs that are being run would be run a
    second time.

    Args:
        database: Where the jobs are.
        clock: The time by which claims run out.
        pipeline: Whose jobs.
        gone: Whether a worker certainly runs no more, by its name.
    """

    def __init__(
        self, database: Database, clock: Clock, *, pipeline: str, gone: Callable[[str], bool] = is_gone
    ) -> None:
        self._database = database
        self._clock = clock
        self._pipeline = pipeline
        self._gone = gone
        self._was_away = False
        self._renewed_by = _NEVER
        running = and_(col(JobRow.state) == "running", col(JobRow.pipeline) == pipeline)
        self._workers = (
            select(col(JobRow.owner), func.min(col(JobRow.claimed_until), type_=UTCDateTime()))
            .where(running)
            .group_by(col(JobRow.owner))
        )
        run_out = col(JobRow.claimed_until) < bindparam("run_out", type_=UTCDateTime())
        dialect = database.dialect
        self._lost = (
            select(
                *(
                    _JOBS.c[name]
                    for name in ("id", "pipeline", "queue", "stage", "failures", "lost", "owner", "claimed_until")
                )
            )
            .where(running, or_(run_out, one_of(col(JobRow.owner), "owners", dialect)))
            .order_by(col(JobRow.id))
            .limit(_AT_ONCE)
            .with_for_update(skip_locked=True)
        )
        self._put_back = (
            update(_JOBS)
            .where(one_of(_JOBS.c.id, "ids", dialect))
            .values(state="queued", owner=None, claimed_until=None, hinted_at=None, lost=_JOBS.c.lost + 1, error=LOST)
        )

    async def sweep(self) -> int:
        """Put jobs back. Returns how many; raises what `Database.write` raises."""
        try:
            count = await self._sweep()
        except Exception:
            self._was_away = True
            raise
        if count:
            _log.warning("%d jobs of lost workers will be run again", count)
        return count

    async def _sweep(self) -> int:
        async with self._database.read() as connection:
            await self._clock.measure(connection)  # by a clock that is ahead, claims of live workers have run out
            workers = (await connection.execute(self._workers)).all()
        if self._was_away:
            async with self._database.write() as connection:
                await connection.execute(_TOUCH, {"ours": self._pipeline})
            self._was_away, self._renewed_by = False, self._clock.now() + _RENEWED
        now = self._clock.now()
        run_out = now if now > self._renewed_by else _NEVER
        gone = [worker for worker, _ in workers if worker is not None and self._gone(worker)]
        if not gone and all(until >= run_out for _, until in workers if until is not None):
            return 0
        return await self._put_lost_back(gone, run_out, now)

    async def _put_lost_back(self, gone: list[str], run_out: datetime, now: datetime) -> int:
        dialect = self._database.dialect
        async with self._database.write() as connection:
            found = await connection.execute(self._lost, {"run_out": run_out, "owners": listed(gone, dialect)})
            jobs = found.all()
            if jobs:
                await connection.execute(self._put_back, {"ids": listed((job.id for job in jobs), dialect)})
                await connection.execute(insert(_RUNS), [_lost_run(job, now) for job in jobs])
        return len(jobs)


def _lost_run(job: Any, now: datetime) -> dict[str, Any]:
    return {
        "job_id": job.id,
        "pipeline": job.pipeline,
        "queue": job.queue,
        "stage": job.stage,
        "run": job.failures + job.lost + 1,
        "state": "failed",
        "worker": job.owner or "",
        "started_at": min(job.claimed_until or now, now),  # when it began, nobody knows any more
        "ended_at": now,
        "error": LOST,
    }


class LostHints:
    """Finds jobs of which the queue was told, and does not know any more.

    A queue hands its hints out in order. So what it was told of before the oldest hint that it still has, and what
    nobody has claimed, it has lost: Redis was restarted without its data, or whoever had the hint died.

    Args:
        database: Where the jobs are.
        lane: The queue, and what it carries.
        clock: The time by which rows were marked.
        owner: This process.
        pipeline: Whose jobs.
        gone: Whether a process certainly runs no more, by its name.
    """

    def __init__(
        self,
        database: Database,
        lane: Lane,
        clock: Clock,
        *,
        owner: str,
        pipeline: str,
        gone: Callable[[str], bool] = is_gone,
    ) -> None:
        self._database = database
        self._hints = lane.hints
        self._clock = clock
        self._owner = owner
        self._gone = gone
        waiting = and_(
            col(JobRow.pipeline) == pipeline, col(JobRow.state) == "queued", col(JobRow.hinted_at).is_not(None),
            lane.carries.condition(),
        )  # fmt: skip
        self._told = (
            select(col(JobRow.queue), col(JobRow.owner), func.min(col(JobRow.hinted_at), type_=UTCDateTime()))
            .where(waiting)
            .group_by(col(JobRow.queue), col(JobRow.owner))
        )
        before = col(JobRow.hinted_at) < bindparam("before", type_=UTCDateTime())
        rows = (
            select(col(JobRow.id))
            .where(
                waiting, before, col(JobRow.queue) == bindparam("at_queue"),
                col(JobRow.owner).is_not_distinct_from(bindparam("at_owner")),
            )
            .order_by(col(JobRow.id))
            .with_for_update(skip_locked=True)
            .cte("lost")
        )  # fmt: skip
        self._forget = (
            update(_JOBS)
            .where(_JOBS.c.id.in_(select(rows.c.id)))
            .values(hinted_at=None, owner=None)
            .returning(_JOBS.c.id)
        )

    async def sweep(self) -> int:
        """Have the queue told anew. Returns of how many jobs; raises `Unavailable` like the queue and the database."""
        async with self._database.read() as connection:
            if not self._clock.is_measured:
                await self._clock.measure(connection)
            told = (await connection.execute(self._told)).all()
        if not told:
            return 0
        backlogs = await self._hints.backlogs(sorted({queue for queue, _, _ in told}))
        now, count = self._clock.now(), 0
        for queue, owner, first in told:
            before = self._lost_before(backlogs[queue].oldest, owner, now)
            if first is not None and first < before:
                count += await self._forget_hints(queue, owner, before)
        if count:
            _log.info("the queue lost its hints of %d jobs: it is told anew", count)
        return count

    def _lost_before(self, oldest: float | None, owner: str | None, now: datetime) -> datetime:
        """Before which time hints of this owner are lost."""
        if owner is None or owner == self._owner:
            return now - _MARGIN - timedelta(seconds=oldest or 0.0)
        return now if self._gone(owner) else now - _FOREIGN

    async def _forget_hints(self, queue: str, owner: str | None, before: datetime) -> int:
        parameters = {"before": before, "at_queue": queue, "at_owner": owner}
        async with self._database.write() as connection:
            return len((await connection.execute(self._forget, parameters)).all())


async def forget_hints_of(database: Database, owner: str, pipeline: str) -> int:
    """Have others told of what a process was told of and did not claim. Returns of how many jobs.

    Raises what `Database.write` raises.
    """
    theirs = and_(_JOBS.c.pipeline == pipeline, _JOBS.c.state == "queued", _JOBS.c.owner == owner)
    async with database.write() as connection:
        return (await connection.execute(update(_JOBS).where(theirs).values(hinted_at=None, owner=None))).rowcount
