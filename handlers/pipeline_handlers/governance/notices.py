"""Notices of approvals: jobs that tell people what waits for them; the execution does not wait for that."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import select

from pipeline.errors import Reject, Retry, Unavailable
from pipeline.ledger.database import DatabaseRefused
from pipeline_handlers.governance.audit import audit_row
from pipeline_handlers.governance.deciding import Case, Deciding
from pipeline_handlers.governance.effects import Effects
from pipeline_handlers.governance.records import EXECUTIONS
from pipeline_handlers.governance.steering import Change
from pipeline_handlers.governance.transitions import APPROVALS
from pipeline_handlers.governance.tries import words

if TYPE_CHECKING:
    import logging

    from pipeline.jobs.contract import Job, Settlement, Work
    from pipeline_handlers.governance.actions.notify import NotifyAction
    from pipeline_handlers.governance.contract import Step

__all__ = ["Notices"]

_OUTAGE_WAIT: Final = 30.0
"""Seconds until the next try while what a notice needs is down, which counts as no failure."""


class Notices:
    """Sends notices.

    Args:
        deciding: Knows the definitions of approvals.
        log: Where what goes wrong is told.
    """

    def __init__(self, deciding: Deciding, log: logging.Logger) -> None:
        self._deciding = deciding
        self._log = log

    async def run(self, work: Work, jobs: Sequence[Job]) -> None:
        """Run jobs of the kind ``notice``, side by side. Raises what `Work.transaction` raises, once all have ended."""
        results = await asyncio.gather(*(self._run(work, job) for job in jobs), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def _run(self, work: Work, job: Job) -> None:
        found: tuple[Case, NotifyAction, Step] | None = None
        try:
            async with work.transaction([job]) as settlement:
                if job.id not in settlement.held:
                    return
                found = await self._find(settlement, job)
                if found is None:
                    settlement.done(job.id)
                    return
            _, action, step = found
            async with asyncio.timeout(action.timeout):
                await action.run(step)
        except DatabaseRefused:
            raise
        except Exception as error:  # noqa: BLE001 - a failed try, whatever it was
            await self._failed(work, job, error, None if found is None else found[0].record)
            return
        async with work.transaction([job]) as settlement:
            if job.id in settlement.held:
                for row in step.rows:
                    settlement.add(row)
                settlement.done(job.id)

    async def _find(self, settlement: Settlement, job: Job) -> tuple[Case, NotifyAction, Step] | None:
        """What is to be sent; None where nobody waits for it any more. Raises `Reject` where that can't be told."""
        connection = settlement.connection
        approval = (
            await connection.execute(select(APPROVALS).where(APPROVALS.c.id == job.payload.get("approval_id")))
        ).one_or_none()
        if approval is None or approval.status != "open" or approval.escalated != job.payload.get("escalated"):
            return None
        record = (await connection.execute(select(EXECUTIONS).where(EXECUTIONS.c.id == approval.execution_id))).one()
        case = Case(record, approval)
        notice = await self._deciding.notice(Change(connection, Effects(), settlement.now), case)
        return None if notice is None else (case, *notice)

    async def _failed(self, work: Work, job: Job, error: Exception, record: Any) -> None:
        """Try again as the queue says; tell the audit log where that was the last try."""
        reason = words(error)
        async with work.transaction([job]) as settlement:
            if job.id not in settlement.held:
                return
            after = _wait(error, work, job)
            if after is not None:
                settlement.again(job.id, after=after, error=reason, counts=not isinstance(error, Unavailable))
            else:
                settlement.failed(job.id, reason)
                if record is not None:
                    told = {"approval_id": job.payload.get("approval_id"), "error": reason}
                    settlement.add(
                        audit_row("approval_notice_failed", record, now=settlement.now, user_id=None, **told)
                    )
        approval = job.payload.get("approval_id")
        again = "nobody was told of it" if after is None else "it will be tried again"
        self._log.warning("approval %s: its notice could not be sent, %s: %s", approval, again, reason)


def _wait(error: Exception, work: Work, job: Job) -> float | None:
    """Seconds until the next try; None where that was the last."""
    if isinstance(error, Unavailable):
        return _OUTAGE_WAIT
    if isinstance(error, Reject):
        return None
    wait = work.retry_after(job.failures + 1)
    asked = error.after if isinstance(error, Retry) else None
    return asked if wait is not None and asked is not None else wait
