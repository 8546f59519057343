"""Jobs, clocks and runners that the tests of jobs share."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import select

from pipeline.config.models import QueueRetry, QueueTable
from pipeline.jobs.contract import Job, NewJob, Work
from pipeline.jobs.outbox import enqueue
from pipeline.ledger.database import Database
from pipeline.ledger.job_tables import JobRow, JobRun, OutboxMessage
from tests.pipeline.ledger.samples import NOON

__all__ = ["NOON", "PIPELINE", "Done", "Moment", "Runner", "job", "jobs", "leave", "messages", "quick", "runs"]


PIPELINE = "p"
"""The pipeline whose jobs they are."""


class Moment:
    """A clock that stands still until the test moves it."""

    def __init__(self, at: datetime = NOON) -> None:
        self.at = at

    def __call__(self) -> datetime:
        return self.at

    def pass_by(self, seconds: float) -> None:
        self.at += timedelta(seconds=seconds)


class Runner:
    """Runs jobs by a function of the test, and remembers them."""

    def __init__(self, call: Callable[[Work], Awaitable[None]]) -> None:
        self._call = call
        self.works: list[list[Job]] = []

    async def run_jobs(self, work: Work) -> None:
        self.works.append(list(work.jobs))
        await self._call(work)

    @property
    def ids(self) -> list[str]:
        return [job.id for work in self.works for job in work]


class Done(Runner):
    """Is done with every job at once, or when it may go on."""

    def __init__(self) -> None:
        super().__init__(self._finish)
        self.may_go_on = asyncio.Event()
        self.may_go_on.set()

    async def _finish(self, work: Work) -> None:
        await self.may_go_on.wait()
        async with work.transaction() as settlement:
            for job_id in settlement.held:
                settlement.done(job_id)


def job(name: str, queue: str = "queue", **fields: Any) -> NewJob:
    return NewJob(name, queue, **({"stage": "stage"} | fields))


async def leave(db: Database, *new: NewJob, at: datetime = NOON) -> list[str]:
    """Leave jobs in a transaction of their own. Returns their ids."""
    async with db.write() as connection:
        await enqueue(connection, db.dialect, new, at, pipeline=PIPELINE)
    return [each.id for each in new]


async def jobs(db: Database) -> dict[str, JobRow]:
    return {row.id: row for row in await db.fetch(JobRow, select(JobRow))}


async def runs(db: Database) -> list[JobRun]:
    return await db.fetch(JobRun, select(JobRun).order_by(JobRun.id))


async def messages(db: Database) -> Sequence[OutboxMessage]:
    return await db.fetch(OutboxMessage, select(OutboxMessage).order_by(OutboxMessage.id))


def quick(attempts: int = 3, concurrency: int = 100, **fields: Any) -> QueueTable:
    """A queue whose waits are 2, 4, 8 … seconds."""
    return QueueTable(concurrency=concurrency, retry=QueueRetry(attempts=attempts, backoff=2.0), **fields)
