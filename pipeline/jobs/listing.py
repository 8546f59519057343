"""Jobs as people look at them: which there are, how each stands, and how often it was tried."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sqlalchemy import and_, func, or_, select
from sqlmodel import col

from pipeline.ledger.database import Database
from pipeline.ledger.job_tables import JobRow, JobRun

__all__ = ["STATES", "JobListing", "list_failed_runs", "list_jobs"]

STATES: Final = ("queued", "scheduled", "backing_off", "running")
"""How a job may stand, as `QueueFigures` counts them."""


@dataclass(frozen=True, slots=True)
class JobListing:
    """Some jobs, and how many there are in all.

    Attributes:
        rows: By column: ``id``, ``queue``, ``stage``, ``state``, ``tries``, ``error``, and times (aware, in UTC).
        total: How many there are without the limit.
    """

    rows: Sequence[dict[str, Any]]
    total: int


async def list_jobs(
    database: Database,
    pipeline: str,
    now: datetime,
    *,
    queue: str | None = None,
    state: str | None = None,
    limit: int = 50,
) -> JobListing:
    """The jobs that are to be done or are being done, those first that are due first.

    Args:
        database: Where they are.
        pipeline: Whose jobs.
        now: The time by which jobs are due: `Clock.now()`.
        queue: Only of this queue.
        state: Only those that stand so: one of `STATES`.
        limit: How many at most.

    ``tries`` counts those that failed, and those whose worker was lost. Raises what `Database.read` raises.
    """
    conditions: list[Any] = [col(JobRow.pipeline) == pipeline]
    conditions += [col(JobRow.queue) == queue] if queue is not None else []
    conditions += [_stands(state, now)] if state is not None else []
    jobs = select(JobRow).where(*conditions).order_by(col(JobRow.due_at), col(JobRow.id)).limit(limit)
    found = await database.fetch(JobRow, jobs)
    total = await database.fetch(int, select(func.count()).select_from(JobRow).where(*conditions))
    return JobListing([_shown(job, now) for job in found], total[0])


async def list_failed_runs(
    database: Database, pipeline: str, *, queue: str | None = None, limit: int = 50
) -> JobListing:
    """The runs of jobs that failed and are kept, the newest first; arguments as for `list_jobs`."""
    conditions: list[Any] = [col(JobRun.pipeline) == pipeline, col(JobRun.state) == "failed"]
    conditions += [col(JobRun.queue) == queue] if queue is not None else []
    runs = select(JobRun).where(*conditions).order_by(col(JobRun.id).desc()).limit(limit)
    found = await database.fetch(JobRun, runs)
    total = await database.fetch(int, select(func.count()).select_from(JobRun).where(*conditions))
    rows = [
        {
            "id": run.job_id, "queue": run.queue, "stage": run.stage, "state": run.state, "tries": run.run,
            "started_at": run.started_at, "ended_at": run.ended_at, "worker": run.worker, "error": run.error,
        }
        for run in found
    ]  # fmt: skip
    return JobListing(rows, total[0])


def _stands(state: str, now: datetime) -> Any:
    queued = col(JobRow.state) == "queued"
    later = and_(queued, col(JobRow.due_at) > now)
    tried = or_(col(JobRow.failures) > 0, col(JobRow.error).is_not(None))
    return {
        "queued": and_(queued, col(JobRow.due_at) <= now),
        "scheduled": and_(later, ~tried),
        "backing_off": and_(later, tried),
        "running": col(JobRow.state) == "running",
    }[state]


def _shown(job: JobRow, now: datetime) -> dict[str, Any]:
    state = job.state
    if state == "queued" and job.due_at > now:
        state = "backing_off" if job.failures or job.error is not None else "scheduled"
    return {
        "id": job.id, "queue": job.queue, "stage": job.stage, "state": state, "tries": job.failures + job.lost,
        "due_at": job.due_at, "created_at": job.created_at, "owner": job.owner if state == "running" else None,
        "error": job.error,
    }  # fmt: skip
