"""The engine: runs the jobs of workflows in rounds, SQL in batches, and lets nothing wait for a slow action."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import select

from pipeline.errors import ENDINGS, Reject, Unavailable
from pipeline.jobs.contract import NewJob
from pipeline.ledger.database import DatabaseRefused
from pipeline.ledger.faults import reason_of
from pipeline.ledger.rows import RowWriter
from pipeline.ledger.writing import blames_data
from pipeline_handlers.governance.approvals import Approvals
from pipeline_handlers.governance.deciding import Deciding
from pipeline_handlers.governance.effects import Effects
from pipeline_handlers.governance.journal import tell, warn
from pipeline_handlers.governance.notices import Notices
from pipeline_handlers.governance.planning import EXECUTION_JOB, timer_job_id
from pipeline_handlers.governance.records import Records
from pipeline_handlers.governance.rounds import Round
from pipeline_handlers.governance.steering import Steering
from pipeline_handlers.governance.transitions import APPROVALS, give_up, lock
from pipeline_handlers.governance.tries import Begun, Tried

if TYPE_CHECKING:
    import logging

    from pipeline.jobs.contract import Job, Settlement, Work
    from pipeline.ledger.database import Database
    from pipeline_handlers.governance.definitions import Definition, Definitions
    from pipeline_handlers.governance.options import GovernanceOptions

__all__ = ["Engine"]

_FIRST_WAIT: Final = 0.1
_LONGEST_WAIT: Final = 5.0
_TIMED_OUT_AGAIN: Final = 300.0
"""Seconds after which a time-out comes again whose job failed for good."""
_MOST_WAITS: Final = 8
"""How often, and how many seconds apart, results are offered to a database that does not answer: for 20 s, which is
shorter than the lease of a job. What ended outside is lost with its result, and would be done again."""


class Engine:
    """Runs executions, time-outs of approvals, and cancellations.

    Args:
        database: The pipeline's database.
        definitions: The stage's definitions.
        settings: The stage's options.
        log: Where what goes wrong is told.
        pipeline: The pipeline's name, which jobs are left with.
    """

    def __init__(
        self,
        database: Database,
        definitions: Definitions,
        settings: GovernanceOptions,
        log: logging.Logger,
        *,
        pipeline: str,
    ) -> None:
        self._definitions = definitions
        self._settings = settings
        self._log = log
        self._records = Records(database.dialect)
        self._writer = RowWriter(database.dialect)
        self._approvals = Approvals(database, definitions, settings, pipeline=pipeline)
        self._notices = Notices(Deciding(definitions, settings, self._records), log)
        self._steering = Steering(database, pipeline=pipeline)
        self._known: dict[str, Definition] = {}

    async def run_jobs(self, work: Work) -> None:
        """Run jobs of the kinds ``execute``, ``timeout``, ``notice`` and ``cancel``: what `Handler.run_jobs` is to do.

        Executions advance as far as SQL takes them, in one transaction for all; external actions then run outside,
        at the same time; whichever have ended are written together, and their executions go on, whatever the others
        do. A job may be taken away at any moment (`Settlement.held`): then nothing is written for it.
        """
        by_kind: dict[str, list[Job]] = {}
        for job in work.jobs:
            by_kind.setdefault(str(job.payload.get("kind")), []).append(job)
        executions = by_kind.pop("execute", [])
        notices = asyncio.create_task(self._notices.run(work, by_kind.pop("notice", [])))  # which may be slow
        try:
            for kind, jobs in by_kind.items():
                for job in jobs:
                    await self._settle_one(work, kind, job)
            if executions:
                await self._execute(work, executions)
            await notices
        finally:
            notices.cancel()
            await asyncio.gather(notices, return_exceptions=True)

    async def jobs_failed(self, settlement: Settlement, jobs: Sequence[Job], reason: str) -> None:
        """What `Handler.jobs_failed` is to do: executions whose jobs end without them have failed.

        An approval whose time-out could not be done is still open, and would wait for ever: its time-out comes again.
        """
        ids = [job.id.removeprefix(EXECUTION_JOB) for job in jobs if job.id.startswith(EXECUTION_JOB)]
        effects = Effects()
        for record in (await lock(settlement.connection, ids)).values() if ids else ():
            if record.status == "in_progress" and record.phase != "waiting":
                await give_up(settlement.connection, effects, record, settlement.now, reason=reason)
        await effects.write(settlement.connection, self._writer)
        await self._time_out_later(settlement, jobs, reason)

    async def _time_out_later(self, settlement: Settlement, jobs: Sequence[Job], reason: str) -> None:
        """Leave the failed time-outs anew whose approvals are still open."""
        timers = {job.id: job for job in jobs if job.payload.get("kind") == "timeout"}
        if not timers:
            return
        approvals = [str(job.payload.get("approval_id")) for job in timers.values()]
        open_ = select(APPROVALS.c.id, APPROVALS.c.escalated).where(
            APPROVALS.c.id.in_(approvals), APPROVALS.c.status == "open"
        )
        for row in (await settlement.connection.execute(open_)).all():
            if (job := timers.get(timer_job_id(row.id, row.escalated))) is None:
                continue
            due_at = settlement.now + timedelta(seconds=_TIMED_OUT_AGAIN)
            settlement.enqueue(NewJob(job.id, job.queue, dict(job.payload), due_at=due_at, stage=job.stage))
            self._log.error("approval %s: its time-out failed, and comes again in %g s: %s",
                            row.id, _TIMED_OUT_AGAIN, reason)  # fmt: skip

    async def _execute(self, work: Work, jobs: Sequence[Job]) -> None:
        running: dict[asyncio.Task[Tried], Job] = {}
        try:
            begun = await self._settle(work, jobs, {})
            while True:
                running |= {asyncio.create_task(_make(one)): one.job for one in begun}
                if not running:
                    return
                ended, _ = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                tried = {running[task].id: task.result() for task in ended}
                begun = await self._settle(work, [running.pop(task) for task in ended], tried)
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _settle(self, work: Work, jobs: Sequence[Job], tried: Mapping[str, Tried]) -> list[Begun]:
        """Write what tries came to, and go on; patient with the database, and wary of what one of them may have left.

        Whatever else goes wrong is taken for one execution's fault, and that one is looked for: the others go on.
        """
        waits = 0
        while True:
            try:
                return (await self._round(work, jobs, tried)).begun
            except Unavailable as error:
                waits += 1
                if waits > _MOST_WAITS:
                    raise
                self._log.warning("%s; trying again", error)
                await asyncio.sleep(min(_LONGEST_WAIT, _FIRST_WAIT * 2.0**waits))
            except DatabaseRefused:
                raise
            except Exception as error:  # noqa: BLE001 - one of them is to blame, whatever it is
                self._log.debug("%d jobs are run in parts: %s", len(jobs), error)
                break
        if middle := len(jobs) // 2:  # by halves: a batch may be of hundreds, and few of them are to blame
            halves = (jobs[:middle], jobs[middle:])
            return [one for half in halves for one in await self._settle(work, half, tried)]
        return await self._one_at_a_time(work, jobs[0], tried)

    async def _one_at_a_time(self, work: Work, job: Job, tried: Mapping[str, Tried]) -> list[Begun]:
        """Run the actions of one execution in transactions of their own, so that only the one to blame fails."""
        while True:
            try:
                result = await self._round(work, [job], tried, limit=1)
            except (Unavailable, DatabaseRefused):
                raise
            except Exception as error:  # noqa: BLE001 - it fails this execution, and no other
                return await self._blame(work, job, error)
            if not result.unfinished:
                return result.begun
            tried = {}

    async def _blame(self, work: Work, job: Job, error: Exception) -> list[Begun]:
        """Fail the action whose outcome could not be written: for good where its data are to blame."""
        failure = error
        if blames_data(error):
            failure = Reject(f"the database refused what the action left: {reason_of(error)}", kind="unwritable")
        self._log.warning("job %s: %s", job.id, failure)
        try:
            return (await self._round(work, [job], {job.id: Tried(None, error=failure)}, limit=1)).begun
        except (Unavailable, DatabaseRefused):
            raise
        except Exception as again:  # noqa: BLE001 - the others of its batch are to go on, whatever it is
            self._log.exception("job %s: its execution is given up, since not even its failure can be told", job.id)
            reason = f"{type(again).__name__}: {reason_of(again)}"
            async with work.transaction([job]) as settlement:
                if job.id in settlement.held:
                    await self.jobs_failed(settlement, [job], reason)
                    settlement.failed(job.id, reason)
            return []

    async def _round(
        self, work: Work, jobs: Sequence[Job], tried: Mapping[str, Tried], limit: int | None = None
    ) -> Round:
        async with work.transaction(jobs) as settlement:
            one = Round(
                work,
                settlement,
                records=self._records,
                writer=self._writer,
                definitions=self._definitions,
                settings=self._settings,
                known=self._known,
                limit=limit,
            )
            await one.run(jobs, tried)
        warn(self._log, one.failures)
        tell(self._log, one.changes or ())
        return one

    async def _settle_one(self, work: Work, kind: str, job: Job) -> None:
        """A job that is no execution; one that can't be done fails alone."""
        effects = Effects(changes=[] if self._settings.log else None)
        try:
            async with work.transaction([job]) as settlement:
                if job.id not in settlement.held:
                    return
                if problem := await self._do(kind, job.payload, settlement, effects):
                    settlement.failed(job.id, problem)
                else:
                    settlement.done(job.id)
            tell(self._log, effects.changes or ())
        except Exception as error:
            if not blames_data(error):
                raise
            self._log.warning("job %s: %s", job.id, reason_of(error))
            async with work.transaction([job]) as settlement:
                if job.id in settlement.held:
                    settlement.failed(job.id, reason_of(error))
                    await self._time_out_later(settlement, [job], reason_of(error))

    async def _do(self, kind: str, payload: Mapping[str, Any], settlement: Settlement, effects: Effects) -> str:
        """Do it; returns why it can't be done, for ever, or nothing."""
        if kind == "timeout":
            return await self._approvals.time_out(settlement, payload, effects)
        if kind == "cancel":
            return await self._steering.cancel_by_entity(settlement, payload, effects)
        return f"there are no jobs of the kind {kind!r}"


async def _make(begun: Begun) -> Tried:
    """Make one try of an external action, within its time."""
    planned = begun.planned
    try:
        async with asyncio.timeout(planned.timeout) as limit:
            result = await planned.action.run(begun.step)
    except TimeoutError as error:
        told = TimeoutError(f"took longer than {planned.timeout:g} s") if limit.expired() else error
        return Tried(begun.step, error=told)
    except asyncio.CancelledError as error:
        task = asyncio.current_task()
        if task is not None and task.cancelling():
            raise
        return Tried(begun.step, error=error)  # its own: a client's, say, whose scope was cancelled
    except ENDINGS:
        raise
    except BaseException as error:  # noqa: BLE001 - a failed try, whatever it was
        return Tried(begun.step, error=error)
    return Tried(begun.step, result)
