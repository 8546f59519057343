"""Settling events: what a handler left, dead letters, and the ends of their jobs, in one transaction."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from typing import Final

from pipeline.errors import Unavailable
from pipeline.events import Outcome
from pipeline.handlers import Context
from pipeline.jobs.contract import Job, Settlement, Work
from pipeline.jobs.letter_ends import LetterEnds
from pipeline.jobs.outbox import job_row
from pipeline.jobs.stage_event import StageEvent, stage_event, told_error
from pipeline.jobs.verdicts import Again, Broken, Died, Passed, Verdict, died
from pipeline.ledger.copies import Copies
from pipeline.ledger.database import Database, DatabaseRefused
from pipeline.ledger.seen import SeenIds
from pipeline.ledger.units import Dead, SourceKey, Unit
from pipeline.ledger.writing import UNWRITABLE, Scope, UnitWriter, blames_data
from pipeline.policies.backoff import backoff

__all__ = ["EventSettler"]

_FIRST_WAIT: Final = 0.1
_LONGEST_WAIT: Final = 5.0
_log = logging.getLogger("pipeline.jobs")


class EventSettler:
    """Writes the verdicts of one stage's events.

    Args:
        database: Where they are written.
        stage: The stage's name.
        pipeline: Its pipeline's.
        copies: Copies dead letters to streams; None for no copies.
    """

    def __init__(self, database: Database, stage: str, pipeline: str, copies: Copies | None = None) -> None:
        self._writer = UnitWriter(database, SeenIds(database), copies)
        self._stage = stage
        self._pipeline = pipeline

    async def settle(self, work: Work, verdicts: Sequence[Verdict]) -> None:
        """Write verdicts, however long the database is away; what is not held any more is not written.

        A unit whose own data the database refuses leaves a dead letter in place of its rows, and stops no other.
        """
        failures, isolating = 0, False
        while True:
            try:
                async with work.transaction([verdict.job for verdict in verdicts]) as settlement:
                    held = [verdict for verdict in verdicts if verdict.job.id in settlement.held]
                    await self._write(settlement, held, isolating)
            except (Unavailable, DatabaseRefused) as error:
                failures += 1
                if failures == 1:
                    _log.warning("stage %s: %s; finished events wait until it is back", self._stage, error)
                await asyncio.sleep(backoff(failures, _FIRST_WAIT, _LONGEST_WAIT, jitter=0.2))
            except Exception as error:  # noqa: BLE001 - whatever it is, it must stop no other event
                if isolating or not blames_data(error):
                    await self._settle_alone(work, verdicts, error)
                    return
                isolating = True
            else:
                return

    async def _settle_alone(self, work: Work, verdicts: Sequence[Verdict], error: Exception) -> None:
        """Settle each verdict in a transaction of its own: something failed that nobody foresaw, for one of them.

        That one counts it as a failure of its try, and leaves a dead letter in the end.
        """
        _log.error("stage %s: finished events could not be written", self._stage, exc_info=error)
        if len(verdicts) > 1:
            for verdict in verdicts:
                await self.settle(work, [verdict])
            return
        (verdict,) = verdicts
        if not isinstance(verdict, Passed):
            raise error
        job, reason = verdict.job, f"what the stage left could not be written: {type(error).__name__}: {error}"
        wait = work.retry_after(job.failures + 1)
        await self.settle(
            work, [died(job, verdict.event, UNWRITABLE, reason) if wait is None else Again(job, wait, reason, True)]
        )

    async def bury(self, settlement: Settlement, jobs: Sequence[Job], reason: str) -> None:
        """Leave a dead letter for each event whose job ends without success."""
        by_scope: dict[tuple[SourceKey, int], list[Passed | Died]] = {}
        for job in jobs:
            try:
                event = stage_event(job)
            except (KeyError, TypeError, ValueError) as error:
                _log.warning("stage %s: the job %s holds no event that can be read: %s", self._stage, job.id, error)
            else:
                by_scope.setdefault(_scope_of(event), []).append(died(job, event, "job_failed", reason))
        for (key, incarnation), those in by_scope.items():
            await self._write_units(settlement, Scope(key, incarnation, settlement.now), those, isolating=False)

    async def _write(self, settlement: Settlement, verdicts: Sequence[Verdict], isolating: bool) -> None:
        by_scope: dict[tuple[SourceKey, int], list[Passed | Died]] = {}
        for verdict in verdicts:
            match verdict:
                case Again(job, after, error, counts, quiet):
                    settlement.again(job.id, after=after, error=error, counts=counts, quiet=quiet)
                case Broken(job, error):
                    _log.error("stage %s: the job %s failed: %s", self._stage, job.id, error)
                    settlement.failed(job.id, error)
                case Passed(job, event, None) if not event.redrive:
                    settlement.done(job.id)
                case Passed(job, event, _) | Died(job, event):
                    by_scope.setdefault(_scope_of(event), []).append(verdict)
                    if isinstance(verdict, Died):
                        settlement.failed(job.id, f"{verdict.kind}: {verdict.reason}")
                    else:
                        settlement.done(job.id)
        for (key, incarnation), those in by_scope.items():
            await self._write_units(settlement, Scope(key, incarnation, settlement.now), those, isolating)

    async def _write_units(
        self, settlement: Settlement, scope: Scope, verdicts: Sequence[Passed | Died], isolating: bool
    ) -> None:
        connection = settlement.connection
        letters = LetterEnds(settlement, scope, self._stage)
        # Only in isolation it turns out which others fail: these have a dead letter only if they failed before.
        await letters.find([each for each in verdicts if isolating or isinstance(each, Died) or each.event.redrive])
        job_of: dict[int, str] = {}
        units: list[Unit] = []
        for verdict in verdicts:
            unit = self._unit(scope, verdict)
            if unit is not None:
                units.append(unit)
                job_of[id(unit)] = verdict.job.id
        unwritable: dict[str, str] = {}
        if not isolating and units:
            await self._writer.write(connection, scope, units)
        for refused in () if not isolating else await self._writer.isolate(connection, scope, units):
            reason = refused.dead.reason
            _log.error(
                "stage %s: %s@%d is dead: %s", self._stage, scope.key.stream, refused.unit.message.offset, reason
            )
            unwritable[job_of[id(refused.unit)]] = reason
            settlement.failed(job_of[id(refused.unit)], reason)
        await letters.write(verdicts, unwritable)

    def _unit(self, scope: Scope, verdict: Passed | Died) -> Unit | None:
        """What an event leaves behind; None for nothing. Its id is not remembered: the runner has done that."""
        event = verdict.event
        key = event.event.routing_key
        if isinstance(verdict, Died):
            return Unit(event.message, None, key, Outcome.DEAD, dead=(self._dead(event, verdict),))
        context = verdict.context
        rows = self._rows_of(context, scope) if context else ()
        if context is None or not (rows or context.statements):
            return None
        refused = self._dead(event, died(verdict.job, event, UNWRITABLE, ""))
        return Unit(event.message, None, key, Outcome.HANDLED, rows, context.statements, as_dead=refused)

    def _dead(self, event: StageEvent, verdict: Died) -> Dead:
        """The stage's own dead letter, beside that which the route may have left where the event came in."""
        closing = None
        if event.outcome is not None:
            closing = {"outcome": event.outcome.value, "error": told_error(event.error)}
        return Dead(
            event.route, self._stage, verdict.kind, verdict.reason, verdict.attempts, verdict.first_at,
            verdict.last_at, event.key, order_known=not event.ordered, job=self._stage, closing=closing,
            where=verdict.where,
        )  # fmt: skip

    def _rows_of(self, context: Context, scope: Scope) -> list[object]:
        return [*context.rows, *(job_row(job, scope.at, self._pipeline) for job in context.jobs)]


def _scope_of(event: StageEvent) -> tuple[SourceKey, int]:
    return SourceKey(event.event.source, event.group, event.event.stream), event.incarnation
