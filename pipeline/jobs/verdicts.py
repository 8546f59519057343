"""Verdicts: what became of one try of an asynchronous stage's event."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TypeAlias

from pipeline.handlers import Context
from pipeline.jobs.contract import Job
from pipeline.jobs.stage_event import StageEvent
from pipeline.ledger.columns import utcnow
from pipeline.where import Where

__all__ = ["Again", "Broken", "Died", "Passed", "Verdict", "died"]


@dataclass(frozen=True, slots=True)
class Passed:
    """The handler is done with the event, or has skipped it: then it left nothing.

    Attributes:
        job: The event's job.
        event: The event.
        context: Holds what the handler left; None where it skipped the event.
    """

    job: Job
    event: StageEvent
    context: Context | None


@dataclass(frozen=True, slots=True)
class Died:
    """The event failed for good.

    Attributes:
        job: The event's job.
        event: The event.
        kind: A short word for grouping dead letters.
        reason: Why.
        attempts: How often it was tried.
        first_at: When it was tried first, or was left where that is not known any more.
        last_at: When it was tried last.
        where: Where in the code it failed; None where no handler did.
    """

    job: Job
    event: StageEvent
    kind: str
    reason: str
    attempts: int
    first_at: datetime
    last_at: datetime
    where: Where | None = None


@dataclass(frozen=True, slots=True)
class Again:
    """The event is to be tried again.

    Attributes:
        job: The event's job.
        after: Seconds to wait.
        error: Why.
        counts: Whether this was a failure; an outage is none.
        quiet: Whether no run is kept, since nothing was run.
    """

    job: Job
    after: float
    error: str
    counts: bool
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class Broken:
    """The job holds no event that could be read: written by other software, or changed by hand.

    Attributes:
        job: The job.
        error: What is wrong.
    """

    job: Job
    error: str


Verdict: TypeAlias = Passed | Died | Again | Broken


def died(job: Job, event: StageEvent, kind: str, reason: str, where: Where | None = None) -> Died:
    """The verdict on an event that fails for good at this try, now."""
    now = utcnow()
    first_at = job.created_at if job.failures or job.lost else now
    return Died(job, event, kind, reason, job.failures + 1, first_at, now, where)
