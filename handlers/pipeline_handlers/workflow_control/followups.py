"""Follow-ups: jobs that look, after an event is handled, whether its signals took effect, and how its batch ended."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from pipeline import Unavailable
from pipeline.jobs.contract import Job, NewJob, Settlement, Work
from pipeline.ledger.clean import clean_text
from pipeline.ledger.units import Row
from pipeline_handlers.workflow_control.checks import (
    Seen,
    Target,
    confirmed_row,
    look,
    superseded_row,
    unconfirmed_row,
)
from pipeline_handlers.workflow_control.jobs import FollowUp
from pipeline_handlers.workflow_control.options import WorkflowControlOptions
from pipeline_handlers.workflow_control.trail import audit_row, told

if TYPE_CHECKING:
    from pipeline_handlers.workflow_control.contract import BatchProgress, Signalled

__all__ = ["FollowUps"]

_SLICE: Final = 1.0
"""Seconds that a job looks at most before it makes room for others; the next one goes on."""
_SHORTEST_WAIT: Final = 0.05
"""Seconds between two looks of one job; doubled for each further one."""
_FIRST_WAIT: Final = 0.5
"""Seconds between two jobs; doubled for each further one."""
_LONGEST_WAIT: Final = 10.0


@dataclass(slots=True)
class _Step:
    """What one job came to: rows to leave, log lines, and what the next job goes on with."""

    rows: list[Row] = field(default_factory=list)
    left: FollowUp | None = None


class FollowUps:
    """Runs the jobs that `verify_job` and `batch_job` make.

    A job looks for a moment, then leaves the next one, which looks later: none holds a place for long, and a stop does
    not wait. While Temporal is away nothing is given up.

    Args:
        temporal: The resource.
        options: The stage's options.
        log: Where what was seen is told.
    """

    def __init__(self, temporal: Any, options: WorkflowControlOptions, log: logging.Logger) -> None:
        self._temporal = temporal
        self._log = log
        self._slots = asyncio.Semaphore(options.in_flight)

    async def run(self, work: Work) -> None:
        """Run jobs. Raises what one of them met unexpectedly, once the others are settled: it is tried again."""
        found = await asyncio.gather(*(self._advance(job) for job in work.jobs), return_exceptions=True)
        steps = {job.id: (job, step) for job, step in zip(work.jobs, found, strict=True) if isinstance(step, _Step)}
        if steps:
            held: list[_Step] = []
            async with work.transaction([job for job, _ in steps.values()]) as settlement:
                for job, step in steps.values():
                    if job.id in settlement.held:
                        _settle(settlement, job, step)
                        held.append(step)
            for step in held:
                self._tell(step.rows)
        for error in found:
            if isinstance(error, BaseException):
                raise error

    def failed(self, settlement: Settlement, jobs: Sequence[Job], reason: str) -> None:
        """Jobs end without having found out."""
        for job in jobs:
            order = FollowUp.read(job.payload)
            unseen = Seen(False, None, clean_text(reason), settlement.now)
            rows = (
                [_batch_row(order, None, reason)]
                if order.check is None
                else [_given_up(order, target, unseen) for target in order.targets]
            )
            for row in rows:
                settlement.add(row)

    async def _advance(self, job: Job) -> _Step:
        order = FollowUp.read(job.payload)
        return await (self._verify(order) if order.check is not None else self._follow(order))

    async def _verify(self, order: FollowUp) -> _Step:
        """Look at each workflow for a moment."""
        ends, wait = time.monotonic() + _SLICE, _SHORTEST_WAIT
        step, pending = _Step(), order.targets
        while True:
            late = order.is_late
            looks = await asyncio.gather(*(self._look(order, target) for target in pending))
            found = dict(zip(pending, looks, strict=True))
            step.rows += [_confirmed(order, target, seen) for target, seen in found.items() if seen and seen.confirmed]
            pending = tuple(target for target, seen in found.items() if not (seen and seen.confirmed))
            if late or not pending or time.monotonic() + wait > ends:
                break
            await asyncio.sleep(wait)
            wait *= 2
        last = {target: seen for target in pending if (seen := found[target])}
        over = await self._over(order, last, late)
        step.rows += over.values()
        pending = tuple(target for target in pending if target not in over)
        if pending:
            step.left = replace(order, targets=pending, round=order.round + 1)
        return step

    async def _over(self, order: FollowUp, last: Mapping[Target, Seen], late: bool) -> dict[Target, Row]:
        """The rows of signals that can't be confirmed any more, since others undid them or the time is over."""
        rows: dict[Target, Row] = {}
        undone = await asyncio.gather(*(self._undone(order, target) for target in last))
        for (target, seen), by in zip(last.items(), undone, strict=True):
            if by:
                rows[target] = _superseded(order, target, seen, by[0])
            elif late and by is not None:
                rows[target] = _given_up(order, target, seen)
        return rows

    async def _undone(self, order: FollowUp, target: Target) -> Sequence[Signalled] | None:
        """The signals that undid one; None while Temporal is away."""
        if not target.request_id or not order.undone_by:
            return ()
        async with self._slots:
            try:
                found: Sequence[Signalled] = await self._temporal.signals_after(
                    target.workflow_id, target.request_id, run_id=target.run_id
                )
            except Unavailable:
                return None
        return [later for later in found if later.signal in order.undone_by]

    async def _look(self, order: FollowUp, target: Target) -> Seen | None:
        """What is seen of a workflow; None while Temporal is away."""
        assert order.check is not None  # noqa: S101 - this is about signals
        async with self._slots:
            try:
                return await look(self._temporal, order.check, target)
            except Unavailable:
                return None

    async def _follow(self, order: FollowUp) -> _Step:
        """Look for a moment how far a batch operation is."""
        ends, wait = time.monotonic() + _SLICE, _SHORTEST_WAIT
        try:
            while True:
                found: BatchProgress = await self._temporal.batch(order.batch["batch_id"])
                if found.state != "running" or order.is_late or time.monotonic() + wait > ends:
                    break
                await asyncio.sleep(wait)
                wait *= 2
        except Unavailable:
            return _Step(left=replace(order, round=order.round + 1))
        if found.state == "running" and not order.is_late:
            return _Step(left=replace(order, round=order.round + 1))
        return _Step([_batch_row(order, found)])

    def _tell(self, rows: Sequence[Row]) -> None:
        for row in rows:
            values = row.values
            level = logging.WARNING if values["notes"] else logging.INFO
            self._log.log(level, "%s", _line(values))


def _settle(settlement: Settlement, job: Job, step: _Step) -> None:
    for row in step.rows:
        settlement.add(row)
    settlement.done(job.id)
    if step.left is None:
        return
    left = step.left
    wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2.0 ** min(left.round - 1, 10))
    until = max(0.0, (left.deadline - datetime.now(UTC)).total_seconds())
    due_at = settlement.now + timedelta(seconds=min(wait, until) if until else wait)
    first = job.id.partition("#")[0]
    settlement.enqueue(NewJob(f"{first}#{left.round}", job.queue, left.as_json(), due_at, job.stage))


def _confirmed(order: FollowUp, target: Target, seen: Seen) -> Row:
    assert order.check is not None  # noqa: S101 - this is about signals
    return confirmed_row(order.cause, order.signal, order.check, target, order.requested, seen)


def _superseded(order: FollowUp, target: Target, seen: Seen, by: Signalled) -> Row:
    assert order.check is not None  # noqa: S101 - this is about signals
    return superseded_row(order.cause, order.signal, order.check, target, order.requested, seen, by)


def _given_up(order: FollowUp, target: Target, seen: Seen) -> Row:
    """The row of a signal that was not confirmed."""
    assert order.check is not None  # noqa: S101 - this is about signals
    return unconfirmed_row(order.cause, order.signal, order.check, target, order.requested, seen)


def _batch_row(order: FollowUp, found: BatchProgress | None, reason: str | None = None) -> Row:
    """The row of a batch operation that has ended, or is followed up no more."""
    details = {**order.batch, "signal": order.signal, "requested_at": told(order.requested)}
    state, notes, ended_at = "not_finished", reason, None
    if found is not None:
        state, notes = _judged(found)
        ended_at = found.ended_at
        details |= {
            "effective_at": told(ended_at),
            "total": found.total,
            "complete": found.complete,
            "failed": found.failed,
        }
    entity = ("workflow_batch", str(order.batch["batch_id"]))
    return audit_row(f"workflow_batch_{state}", order.cause, details, entity=entity, notes=notes, at=ended_at)


def _judged(found: BatchProgress) -> tuple[str, str | None]:
    """How a batch operation ended, and what there is to say about it."""
    if found.state == "running":
        return "not_finished", "it still runs, and is followed up no more: see batch.timeout"
    if found.state == "unknown":
        return "failed", "Temporal has no such batch operation any more"
    if found.state != "completed":
        return "failed", "Temporal gave it up: the query may name a search attribute that the namespace does not have"
    failed = f"it failed for {found.failed} of {found.total} workflows" if found.failed else None
    return "completed", failed


def _line(values: Mapping[str, Any]) -> str:
    details = values["details"]
    what = str(values["action"]).removeprefix("workflow_").replace("_", " ").removeprefix("signal ")
    notes = f": {values['notes']}" if values["notes"] else ""
    if "query" in details:
        return f"{details['signal']} by {what}, {details.get('complete', 0)} of {details.get('total', 0)}{notes}"
    by = f" by {details['superseded_by']['signal']}" if "superseded_by" in details else ""
    return f"{details['signal']} of {details['workflow_id']}: {what}{by}{notes}"
