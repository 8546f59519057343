"""Figures: how each queue stands, and what became of a job's runs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import and_, case, func, or_, select
from sqlmodel import col

from pipeline.ledger.columns import UTCDateTime, utcnow
from pipeline.ledger.database import Database
from pipeline.ledger.job_tables import JobRow, JobRun, OutboxMessage

__all__ = [
    "OutboxFigures",
    "QueueFigures",
    "failed_runs",
    "jobs_by_stage",
    "outbox_figures",
    "queue_figures",
    "runs_of",
]


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """How one queue stands.

    Attributes:
        name: The queue's name.
        queued: Jobs that are due and wait for a worker.
        scheduled: Jobs that are to be run later, as they were left.
        backing_off: Jobs that are to be run again later, after a failure or an outage.
        running: Jobs that workers are at.
        completed: Completed runs that are kept.
        failed: Failed runs that are kept.
        oldest_seconds: How long the oldest of the queued jobs has been due; None where there is none.
    """

    name: str
    queued: int = 0
    scheduled: int = 0
    backing_off: int = 0
    running: int = 0
    completed: int = 0
    failed: int = 0
    oldest_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class OutboxFigures:
    """How the outbox stands.

    Attributes:
        waiting: Messages that are to be published.
        refused: Messages that are never published, as the broker takes them on no try.
        error: Why, of one of them.
        oldest_seconds: How long the oldest of those that are to be published has waited; None where there is none.
        streams: The streams that they are for.
    """

    waiting: int = 0
    refused: int = 0
    error: str | None = None
    oldest_seconds: float | None = None
    streams: tuple[str, ...] = ()


async def queue_figures(database: Database, queues: Iterable[str], now: datetime, pipeline: str) -> list[QueueFigures]:
    """The figures of these queues, and of every other that has jobs or runs, by name.

    Args:
        database: Where they are.
        queues: Names of queues to tell of, even where they are empty.
        now: The time by which jobs are due: `Clock.now()`.
        pipeline: Whose queues.

    Raises what `Database.read` raises.
    """
    async with database.read() as connection:
        jobs = {row.queue: row._mapping for row in await connection.execute(_jobs(now, pipeline))}
        runs = {(row.queue, row.state): row.number for row in await connection.execute(_runs(pipeline))}
    names = {*queues, *jobs, *(queue for queue, _ in runs)}
    return [_figures(name, jobs.get(name), runs, now) for name in sorted(names)]


async def jobs_by_stage(database: Database, pipeline: str) -> dict[str, tuple[int, list[str]]]:
    """How many jobs of each stage there are, and on which queues, by the stage. Raises what `Database.read` raises."""
    counts = select(col(JobRow.stage), col(JobRow.queue), func.count().label("number"))
    by_stage = counts.where(col(JobRow.pipeline) == pipeline).group_by(col(JobRow.stage), col(JobRow.queue))
    found: dict[str, tuple[int, list[str]]] = {}
    async with database.read() as connection:
        for stage, queue, number in await connection.execute(by_stage.order_by(col(JobRow.stage), col(JobRow.queue))):
            count, queues = found.get(stage, (0, []))
            found[stage] = (count + number, [*queues, queue])
    return found


async def outbox_figures(database: Database, pipeline: str) -> OutboxFigures:
    """How the outbox stands. Raises what `Database.read` raises."""
    refused = col(OutboxMessage.error).is_not(None)
    ours = col(OutboxMessage.pipeline) == pipeline
    oldest = func.min(case((~refused, col(OutboxMessage.created_at))), type_=UTCDateTime())
    counts = select(_count(~refused), _count(refused), func.max(col(OutboxMessage.error)), oldest)
    streams = select(col(OutboxMessage.stream)).where(ours, ~refused).distinct().order_by(col(OutboxMessage.stream))
    async with database.read() as connection:
        waiting, parked, error, since = (await connection.execute(counts.where(ours))).one()
        names = (await connection.execute(streams)).scalars().all() if waiting else ()
    seconds = None if since is None else max(0.0, (utcnow() - since).total_seconds())
    return OutboxFigures(waiting, parked, error, seconds, tuple(names))


async def runs_of(database: Database, job_id: str) -> list[JobRun]:
    """The runs of one job that are kept, in their order. Raises what `Database.read` raises."""
    return await database.fetch(JobRun, select(JobRun).where(col(JobRun.job_id) == job_id).order_by(col(JobRun.id)))


async def failed_runs(database: Database, queue: str, limit: int = 50, *, pipeline: str) -> Sequence[JobRun]:
    """The last failed runs of a queue, the newest first. Raises what `Database.read` raises."""
    of_queue = and_(col(JobRun.pipeline) == pipeline, col(JobRun.queue) == queue, col(JobRun.state) == "failed")
    return await database.fetch(JobRun, select(JobRun).where(of_queue).order_by(col(JobRun.id).desc()).limit(limit))


def _jobs(now: datetime, pipeline: str) -> Any:
    running = col(JobRow.state) == "running"
    due = and_(~running, col(JobRow.due_at) <= now)
    later = and_(~running, col(JobRow.due_at) > now)
    tried = or_(col(JobRow.failures) > 0, col(JobRow.error).is_not(None))
    counts = select(
        col(JobRow.queue),
        _count(due).label("queued"),
        _count(and_(later, ~tried)).label("scheduled"),
        _count(and_(later, tried)).label("backing_off"),
        _count(running).label("running"),
        func.min(case((due, col(JobRow.due_at)))).label("oldest"),
    )
    return counts.where(col(JobRow.pipeline) == pipeline).group_by(col(JobRow.queue))


def _runs(pipeline: str) -> Any:
    counts = select(col(JobRun.queue), col(JobRun.state), func.count().label("number"))
    return counts.where(col(JobRun.pipeline) == pipeline).group_by(col(JobRun.queue), col(JobRun.state))


def _count(condition: Any) -> Any:
    return func.count(case((condition, 1)))


def _figures(name: str, jobs: Any, runs: dict[tuple[str, str], int], now: datetime) -> QueueFigures:
    completed, failed = runs.get((name, "completed"), 0), runs.get((name, "failed"), 0)
    if jobs is None:
        return QueueFigures(name, completed=completed, failed=failed)
    oldest = None if jobs["oldest"] is None else max(0.0, (now - jobs["oldest"]).total_seconds())
    return QueueFigures(
        name, jobs["queued"], jobs["scheduled"], jobs["backing_off"], jobs["running"], completed, failed, oldest
    )
