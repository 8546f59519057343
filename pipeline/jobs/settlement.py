"""Settlement: the transaction that writes the effects of claimed jobs together with what becomes of the jobs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Table, bindparam, delete, insert, literal, select, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from pipeline.connectors import Outgoing
from pipeline.jobs.claims import held
from pipeline.jobs.clock import Clock
from pipeline.jobs.contract import Job, NewJob
from pipeline.jobs.outbox import enqueue, publish
from pipeline.jobs.statements import listed, one_of
from pipeline.ledger.clean import clean_text
from pipeline.ledger.columns import UTCDateTime
from pipeline.ledger.database import Database
from pipeline.ledger.job_tables import JobRow, JobRun
from pipeline.ledger.rows import RowWriter

__all__ = ["OpenSettlement", "Settled", "Settler"]

_JOBS: Final[Table] = JobRow.__table__  # type: ignore[attr-defined]
_RUNS: Final[Table] = JobRun.__table__  # type: ignore[attr-defined]


@dataclass(slots=True)
class _Again:
    after: float
    error: str
    counts: bool
    quiet: bool


@dataclass(frozen=True, slots=True)
class Settled:
    """What a committed settlement did.

    Attributes:
        jobs: The jobs that are not this worker's any more.
        left_more: Whether it left jobs or messages that the relay is to look for.
    """

    jobs: frozenset[str]
    left_more: bool


@dataclass(slots=True)
class OpenSettlement:
    """A `pipeline.jobs.contract.Settlement` that collects what its block decides, and writes it in bulk at the end.

    `done`, `failed` and `again` raise `RuntimeError` for a job that is not held; the last of them counts.
    """

    connection: AsyncConnection
    held: frozenset[str]
    now: datetime
    worker: str
    rows: list[Any] = field(default_factory=list)
    finished: dict[str, str | _Again | None] = field(default_factory=dict)
    new_jobs: list[NewJob] = field(default_factory=list)
    withdrawn: list[str] = field(default_factory=list)
    messages: dict[str, list[Outgoing]] = field(default_factory=dict)

    def add(self, row: Any) -> None:
        """See `Settlement.add`."""
        self.rows.append(row)

    def done(self, job_id: str) -> None:
        """See `Settlement.done`."""
        self._finish(job_id, None)

    def failed(self, job_id: str, error: str) -> None:
        """See `Settlement.failed`."""
        self._finish(job_id, clean_text(error))

    def again(self, job_id: str, *, after: float, error: str, counts: bool = True, quiet: bool = False) -> None:
        """See `Settlement.again`."""
        self._finish(job_id, _Again(after, clean_text(error), counts, quiet))

    def enqueue(self, job: NewJob) -> None:
        """See `Settlement.enqueue`; raises `ValueError` for a job without a stage."""
        if not job.stage:
            raise ValueError(f"the job {job.id!r} names no stage, so no handler would run it")
        self.new_jobs.append(job)

    def withdraw(self, job_id: str) -> None:
        """See `Settlement.withdraw`."""
        self.withdrawn.append(job_id)

    def publish(self, stream: str, message: Outgoing) -> None:
        """See `Settlement.publish`."""
        self.messages.setdefault(stream, []).append(message)

    def _finish(self, job_id: str, end: str | _Again | None) -> None:
        if job_id not in self.held:
            raise RuntimeError(f"the job {job_id!r} is not held: another worker has it, or it was withdrawn")
        self.finished[job_id] = end

    def settled(self) -> Settled:
        """What this did, once it is committed."""
        again = any(isinstance(end, _Again) for end in self.finished.values())
        return Settled(frozenset(self.finished), bool(self.new_jobs or self.messages or again))


class Settler:
    """Opens the settlements of one worker.

    Args:
        database: Where the jobs are.
        owner: The worker.
        clock: The time by which jobs are due.
        pipeline: Whose jobs they are.
    """

    def __init__(self, database: Database, owner: str, clock: Clock, *, pipeline: str) -> None:
        self._database = database
        self._owner = owner
        self._clock = clock
        self._pipeline = pipeline
        self._writer = RowWriter(database.dialect)
        dialect = database.dialect
        self._hold = _hold(dialect)
        self._keep_completed = _keep_completed(dialect)
        self._keep_failed = insert(_RUNS)
        self._again = _again()
        self._delete = delete(_JOBS).where(one_of(_JOBS.c.id, "ids", dialect))

    @asynccontextmanager
    async def settle(
        self, jobs: Mapping[str, Job], started_at: datetime, committed: Callable[[Settled], None], keep: int
    ) -> AsyncIterator[OpenSettlement]:
        """A transaction over claimed jobs.

        Args:
            jobs: The jobs by id.
            started_at: When their run began.
            committed: Called when it is committed.
            keep: How many completed runs the queue keeps: of those that complete together, no more are written down.

        Raises what `Database.write` raises, and what the database says of the rows that the block added.
        """
        now = self._clock.now()
        async with self._database.write() as connection:
            found = await connection.execute(self._hold, {"ids": self._listed(jobs), "me": self._owner})
            settlement = OpenSettlement(connection, frozenset(found.scalars()), now, self._owner)
            yield settlement
            await self._write(settlement, jobs, started_at, keep)
        committed(settlement.settled())

    async def _write(
        self, settlement: OpenSettlement, jobs: Mapping[str, Job], started_at: datetime, keep: int
    ) -> None:
        connection, ends = settlement.connection, settlement.finished
        if settlement.rows:
            await self._writer.write_rows(connection, settlement.rows)
        done = [job for job, end in ends.items() if end is None][:keep]
        if done:
            await connection.execute(
                self._keep_completed,
                {"ids": self._listed(done), "worker": self._owner, "started": started_at, "ended": settlement.now},
            )
        if failed := [(jobs[job], end) for job, end in ends.items() if end is not None]:
            await self._write_failed(connection, failed, started_at, settlement.now)
        gone = [job for job, end in ends.items() if not isinstance(end, _Again)] + settlement.withdrawn
        if gone:
            await connection.execute(self._delete, {"ids": self._listed(gone)})
        dialect = self._database.dialect
        await enqueue(connection, dialect, settlement.new_jobs, settlement.now, pipeline=self._pipeline)
        for stream, messages in settlement.messages.items():
            await publish(connection, dialect, stream, messages, settlement.now, pipeline=self._pipeline)

    async def _write_failed(
        self,
        connection: AsyncConnection,
        failed: Sequence[tuple[Job, str | _Again]],
        started_at: datetime,
        now: datetime,
    ) -> None:
        """Keep the runs that failed, and put back what is to be run again."""
        shared = {
            "pipeline": self._pipeline, "state": "failed", "worker": self._owner, "started_at": started_at,
            "ended_at": now,
        }  # fmt: skip
        runs = [
            shared
            | {
                "job_id": job.id, "queue": job.queue, "stage": job.stage, "run": job.failures + job.lost + 1,
                "error": end if isinstance(end, str) else end.error,
            }
            for job, end in failed
            if isinstance(end, str) or not end.quiet
        ]  # fmt: skip
        if runs:
            await connection.execute(self._keep_failed, runs)
        again = [
            {
                "at_id": job.id, "due": now + timedelta(seconds=end.after), "why": end.error,
                "failed_runs": job.failures + end.counts,
            }
            for job, end in failed
            if not isinstance(end, str)
        ]  # fmt: skip
        if again:
            await connection.execute(self._again, again)

    def _listed(self, ids: Iterable[str]) -> Any:
        return listed(ids, self._database.dialect)


def _hold(dialect: str) -> Any:
    """Lock the jobs that are still this worker's, in the order of their ids."""
    return select(col(JobRow.id)).where(held(dialect)).order_by(col(JobRow.id)).with_for_update()


def _keep_completed(dialect: str) -> Any:
    """Completed runs, made of the jobs' rows before these are deleted: nothing but ids travels."""
    jobs = _JOBS.c
    rows = select(
        jobs.id,
        jobs.pipeline,
        jobs.queue,
        jobs.stage,
        jobs.failures + jobs.lost + 1,
        literal("completed"),
        bindparam("worker"),
        bindparam("started", type_=UTCDateTime()),
        bindparam("ended", type_=UTCDateTime()),
    ).where(one_of(jobs.id, "ids", dialect))
    names = ["job_id", "pipeline", "queue", "stage", "run", "state", "worker", "started_at", "ended_at"]
    return insert(_RUNS).from_select(names, rows)


def _again() -> Any:
    return (
        update(_JOBS)
        .where(_JOBS.c.id == bindparam("at_id"))
        .values(
            state="queued", owner=None, claimed_until=None, hinted_at=None, due_at=bindparam("due"),
            error=bindparam("why"), failures=bindparam("failed_runs"),
        )
    )  # fmt: skip
