"""The contract of a job: what a handler leaves to be done later, and what a worker hands back to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from pipeline.connectors import Outgoing

__all__ = ["INLINE", "LOST_LIMIT", "Job", "NewJob", "Settlement", "Work"]

INLINE = "inline"
"""The queue that needs no worker: a runner runs its jobs itself, right after the commit that leaves them."""

LOST_LIMIT: Final = 10
"""A job on which so many workers died is what kills them: its handler is to end it, in its own way; one that goes on
and dies of it once more is ended without being asked."""


@dataclass(frozen=True, slots=True)
class NewJob:
    """Work to be done once the transaction that leaves it is committed.

    Attributes:
        id: Names the job for good; a job whose id is there already is left as it is.
        queue: The queue; `INLINE` for the runner's own.
        payload: What its handler needs to know, as JSON values.
        due_at: Not before this time (aware, UTC); None for at once.
        stage: The stage whose handler runs it; `Context.enqueue` fills it in.
    """

    id: str
    queue: str
    payload: Mapping[str, Any] = field(default_factory=dict)
    due_at: datetime | None = None
    stage: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """A job that this worker has claimed.

    Attributes:
        id: Its id.
        queue: Its queue.
        stage: The stage whose handler runs it.
        payload: As it was left.
        failures: How many of its runs failed before this one; outages count none.
        lost: How many of its workers died on it.
        created_at: When it was left.
        due_at: When it was to run.
    """

    id: str
    queue: str
    stage: str
    payload: dict[str, Any]
    failures: int
    lost: int
    created_at: datetime
    due_at: datetime


class Settlement(Protocol):
    """A transaction in which the effects of claimed jobs and what becomes of the jobs are written together.

    Attributes:
        connection: For reading and writing; committed at the end of the block, rolled back by an exception.
        held: The ids of those of the work's jobs that are still this worker's, locked until the end. What another
            worker took over, or somebody cancelled, is not among them: nothing may be written for it.
        now: The time, aware, in UTC, by the database's clock.
        worker: Who settles them, as `owner_id` names it.
    """

    connection: AsyncConnection
    held: frozenset[str]
    now: datetime
    worker: str

    def add(self, row: Any) -> None:
        """Leave a row (a SQLModel instance or a `Row`), written in bulk at the end of the block, parents first."""

    def done(self, job_id: str) -> None:
        """The job is finished: its row goes, a run ``completed`` is kept."""

    def failed(self, job_id: str, error: str) -> None:
        """The job is over without success: its row goes, a run ``failed`` is kept."""

    def again(self, job_id: str, *, after: float, error: str, counts: bool = True, quiet: bool = False) -> None:
        """Run the job again in `after` seconds; a run ``failed`` is kept.

        Args:
            job_id: The job.
            after: Seconds to wait.
            error: Why.
            counts: Whether this adds to its `failures`; an outage of a dependency does not.
            quiet: Whether no run is kept, as nothing was run.
        """

    def enqueue(self, job: NewJob) -> None:
        """Leave another job (its `stage` must be given)."""

    def withdraw(self, job_id: str) -> None:
        """Take back another job, claimed or not; a worker that has claimed it finds that it is not held any more."""

    def publish(self, stream: str, message: Outgoing) -> None:
        """Publish a message once this is committed; repeats of its id are published once."""


class Work(Protocol):
    """Jobs of one stage that this worker has claimed, at most a batch of them.

    A job that is not settled when `Handler.run_jobs` ends is run again after the queue's backoff, or is failed when
    its tries are used up.

    Attributes:
        jobs: The jobs.
        queue: Their queue.
        max_failures: After how many failed runs a job of this queue is over: a handler that settles a failing job
            itself asks `retry_after`.
    """

    jobs: Sequence[Job]
    queue: str
    max_failures: int

    def transaction(self, jobs: Sequence[Job] | None = None) -> AbstractAsyncContextManager[Settlement]:
        """A transaction over some of the jobs (all, by default); see `Settlement`.

        Raises `Unavailable` where the database can't be reached; what was settled is settled only when the block has
        ended without an exception.
        """

    def retry_after(self, failures: int) -> float | None:
        """Seconds to wait after the `failures`-th failed run; None where that was the last, by the queue's policy."""
