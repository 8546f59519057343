"""Retention: how many runs of each queue are kept for looking at."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from sqlalchemy import bindparam, delete, select
from sqlmodel import col

from pipeline.config.models import QueueTable
from pipeline.ledger.database import Database
from pipeline.ledger.job_tables import JobRun

__all__ = ["trim_runs"]


async def trim_runs(database: Database, queues: Mapping[str, QueueTable], pipeline: str) -> int:
    """Delete the oldest runs of each queue beyond those that it keeps, each queue in a short transaction.

    Args:
        database: Where they are.
        queues: The queues by name; a queue that has runs and is not among them keeps as many as by default.
        pipeline: Whose runs.

    Returns:
        How many were deleted.

    Raises what `Database.write` raises.
    """
    async with database.read() as connection:
        found = select(col(JobRun.queue)).where(col(JobRun.pipeline) == pipeline).distinct()
        kept = list((await connection.execute(found)).scalars())
    total = 0
    for queue in kept:
        table = queues.get(queue) or QueueTable()
        async with database.write() as connection:
            for state, keep in (("completed", table.keep_completed), ("failed", table.keep_failed)):
                parameters = {"of_pipeline": pipeline, "of_queue": queue, "of_state": state, "keep": keep}
                total += (await connection.execute(_TRIM, parameters)).rowcount
    return total


def _trim() -> Any:
    """The newest run that is not kept any more is found by the index, and all before it go."""
    of_pipeline = col(JobRun.pipeline) == bindparam("of_pipeline")
    of_queue = of_pipeline & (col(JobRun.queue) == bindparam("of_queue")) & (col(JobRun.state) == bindparam("of_state"))
    newest = select(col(JobRun.id)).where(of_queue).order_by(col(JobRun.id).desc()).limit(1).offset(bindparam("keep"))
    return delete(JobRun).where(of_queue, col(JobRun.id) <= newest.scalar_subquery())


_TRIM: Final = _trim()
