"""Claimed jobs of one stage, as its handler gets them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from typing import TYPE_CHECKING, Protocol

from pipeline.config.models import QueueTable
from pipeline.jobs.contract import Job, Settlement, Work
from pipeline.policies.backoff import backoff

if TYPE_CHECKING:
    from pipeline.jobs.settlement import Settled, Settler

__all__ = ["ClaimedWork", "JobRunner", "PartOfWork"]


class JobRunner(Protocol):
    """What runs the jobs of a stage."""

    async def run_jobs(self, work: Work) -> None:
        """Run claimed jobs of the stage; see `Handler.run_jobs`.

        Where the runner has a method `jobs_failed`, as `Handler` has, it is called with jobs that end without success.
        """


class ClaimedWork:
    """A `pipeline.jobs.contract.Work`.

    Args:
        jobs: The jobs.
        queue: Their queue's name.
        table: The queue's configuration.
        settler: Opens the transactions.
        started_at: When the run of these jobs began.
        settled: Called after each commit.
    """

    def __init__(
        self,
        jobs: Sequence[Job],
        queue: str,
        table: QueueTable,
        settler: Settler,
        started_at: datetime,
        settled: Callable[[Settled], None],
    ) -> None:
        self.jobs: Sequence[Job] = tuple(jobs)
        self.queue = queue
        self.max_failures = table.retry.attempts
        self.unsettled = {job.id: job for job in jobs}
        self._retry = table.retry
        self._keep = table.keep_completed
        self._settler = settler
        self._started_at = started_at
        self._settled = settled

    def transaction(self, jobs: Sequence[Job] | None = None) -> AbstractAsyncContextManager[Settlement]:
        """See `Work.transaction`."""
        # A settled job may already be run anew by this very worker, in other work: then it is not this work's.
        chosen = {job.id: job for job in (self.jobs if jobs is None else jobs) if job.id in self.unsettled}
        return self._settler.settle(chosen, self._started_at, self._committed, self._keep)

    def retry_after(self, failures: int) -> float | None:
        """See `Work.retry_after`."""
        retry = self._retry
        if failures >= retry.attempts:
            return None
        return backoff(failures, retry.backoff, retry.max_backoff, retry.jitter)

    def _committed(self, settled: Settled) -> None:
        for job in settled.jobs:
            del self.unsettled[job]
        self._settled(settled)


class PartOfWork:
    """Some of the jobs of a `Work`, as a `Work` of their own."""

    def __init__(self, whole: Work, jobs: Sequence[Job]) -> None:
        self.jobs: Sequence[Job] = tuple(jobs)
        self.queue = whole.queue
        self.max_failures = whole.max_failures
        self._whole = whole

    def transaction(self, jobs: Sequence[Job] | None = None) -> AbstractAsyncContextManager[Settlement]:
        """See `Work.transaction`."""
        return self._whole.transaction(self.jobs if jobs is None else jobs)

    def retry_after(self, failures: int) -> float | None:
        """See `Work.retry_after`."""
        return self._whole.retry_after(failures)
