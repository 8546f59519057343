"""Leftovers: jobs that their handler has not settled when it ends."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

from pipeline.errors import ENDINGS, PipelineError, Unavailable, text_of
from pipeline.jobs.contract import Job, Settlement
from pipeline.jobs.outages import Outage
from pipeline.jobs.work import ClaimedWork
from pipeline.ledger.database import DatabaseRefused

__all__ = ["Leftovers", "WorkersLost", "is_cancelled", "outcome_of"]

_NOT_SETTLED: Final = "its handler ended without settling it"
_log = logging.getLogger("pipeline.jobs")

Failed: TypeAlias = Callable[[Settlement, Sequence[Job], str], Awaitable[None]]
"""What a handler does about jobs that end without success: `Handler.jobs_failed`."""


class WorkersLost(PipelineError):
    """So many workers died on a job that no more are given to it."""

    def __init__(self, lost: int) -> None:
        super().__init__(f"{lost} workers died while they ran it")


async def outcome_of(call: Awaitable[None]) -> BaseException | None:
    """What a handler raises; a cancellation that is not meant for this task is a failure of its own."""
    try:
        await call
    except asyncio.CancelledError as error:
        if is_cancelled():
            raise
        return error
    except ENDINGS:
        raise
    except BaseException as error:  # noqa: BLE001 - a handler may raise anything
        return error
    return None


def is_cancelled() -> bool:
    """Whether somebody has asked the current task to end."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class Leftovers:
    """What becomes of the jobs that one run of a handler left: an outage counts no failure, anything else counts one.

    Logs what the handler raised, once.

    Args:
        work: The handler's work.
        stage: Its stage.
        error: What it raised; None where it just ended.
        outage: Whether the stage meets an outage now.
        failed: Called in the settlement that ends jobs without success, with the reason; None where nobody cares.
    """

    def __init__(
        self,
        work: ClaimedWork,
        stage: str,
        error: BaseException | None,
        outage: Outage,
        failed: Failed | None = None,
    ) -> None:
        self._work = work
        self._stage = stage
        self._error = error
        self._failed = failed
        self._jobs = list(work.unsettled.values())
        self._wait: float | None = None
        if isinstance(error, Unavailable):
            self._wait = outage.met(error)
        elif isinstance(error, DatabaseRefused):
            self._wait = outage.met(Unavailable("database", str(error)))
        elif error is not None:
            _log.error("stage %s: %d jobs of %s failed", stage, len(self._jobs), work.queue, exc_info=error)

    async def settle(self) -> None:
        """Settle those that are still held. Raises what `Work.transaction` raises; call it again then."""
        try:
            await self._settle()
        except (Unavailable, DatabaseRefused):
            raise
        except Exception:
            if self._failed is None:
                raise
            _log.exception("stage %s: it can't take note of jobs that failed; they end without that", self._stage)
            self._failed = None
            await self._settle()

    async def _settle(self) -> None:
        async with self._work.transaction(self._jobs) as settlement:
            held = [job for job in self._jobs if job.id in settlement.held]
            if held and self._error is None:
                _log.error("stage %s: its handler ended without settling %d jobs", self._stage, len(held))
            error = self._error
            reason = _NOT_SETTLED if error is None else text_of(error) or type(error).__name__
            over = [job for job in held if not self._again(settlement, job, reason)]
            if over:
                await self._end(settlement, over, reason)

    def _again(self, settlement: Settlement, job: Job, reason: str) -> bool:
        """Have a job run again; False where that was its last run."""
        if self._wait is not None:
            settlement.again(job.id, after=self._wait, error=reason, counts=False)
            return True
        wait = None if isinstance(self._error, WorkersLost) else self._work.retry_after(job.failures + 1)
        if wait is not None:
            settlement.again(job.id, after=wait, error=reason)
        return wait is not None

    async def _end(self, settlement: Settlement, jobs: Sequence[Job], reason: str) -> None:
        """End jobs without success."""
        for job in jobs:
            settlement.failed(job.id, reason)
        if self._failed is not None:
            await self._failed(settlement, jobs, reason)
