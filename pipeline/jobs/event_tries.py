"""Tries of an asynchronous stage's events: the same policies as in a runner, but what waits, waits in the database."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pipeline.errors import ENDINGS, HandlerError, Reject, Retry, Skip, Unavailable, describe, text_of
from pipeline.handlers import Delivery
from pipeline.jobs.contract import LOST_LIMIT, Job
from pipeline.jobs.outages import Outage
from pipeline.jobs.stage_event import StageEvent, stage_event
from pipeline.jobs.verdicts import Again, Broken, Died, Passed, Verdict, died
from pipeline.policies.backoff import backoff
from pipeline.policies.compose import compose
from pipeline.policies.middleware import FailedTogether, Throttled, results_of
from pipeline.policies.probing import why_down
from pipeline.policies.timeout import Timeout
from pipeline.stages import Stage
from pipeline.where import told_from_handler, where_failed

__all__ = ["EventTries", "Try"]

_log = logging.getLogger("pipeline.jobs")


@dataclass(frozen=True, slots=True)
class Try:
    """One event that is to be tried now."""

    job: Job
    event: StageEvent

    @property
    def attempt(self) -> int:
        """1 for the first try."""
        return self.job.failures + 1


class EventTries:
    """Runs events through one stage's handler. Made in an event loop.

    Args:
        stage: The stage, started.
        resources: The opened resources by name, to tell a time-out from an outage.
    """

    def __init__(self, stage: Stage, resources: Mapping[str, Any]) -> None:
        self._stage = stage
        self._resources = resources
        self._timeout = Timeout(stage.policy.timeout or None, stage.name)
        self._call = compose(stage.call, stage.policy, self._timeout, circuit=stage.circuit)
        self._outage = Outage(stage.name)

    def begin(self, jobs: Sequence[Job]) -> tuple[list[list[Try]], list[Verdict]]:
        """Batches of events to be run, each in a task of its own; and verdicts on those that can't be run at all."""
        tries: list[Try] = []
        verdicts: list[Verdict] = []
        for job in jobs:
            try:
                attempt = Try(job, stage_event(job))
            except (KeyError, TypeError, ValueError) as error:
                verdicts.append(Broken(job, f"the job holds no event that can be read: {type(error).__name__} {error}"))
                continue
            if job.lost >= LOST_LIMIT:
                verdicts.append(self._dead(attempt, "worker_lost", f"{job.lost} workers died while they ran it"))
            else:
                tries.append(attempt)
        size = self._stage.max_batch if self._stage.takes_batches else 1
        return list(_batches(tries, size)), verdicts

    async def run(self, batch: Sequence[Try]) -> list[Verdict]:
        """Try a batch, in the current task, which must have nothing else to do."""
        verdicts: list[Verdict] = []
        deliveries: list[Delivery] = []
        sound: list[Try] = []
        for attempt in batch:
            try:
                deliveries.append(self._delivery(attempt))
                sound.append(attempt)
            except ENDINGS:
                raise
            except BaseException as error:  # noqa: BLE001 - a model's validator may raise anything
                verdicts.append(await self._judge(attempt, error))
        if not sound:
            return verdicts
        results = await results_of(self._call, deliveries)
        together: list[tuple[Try, BaseException]] = []
        for attempt, delivery, failure in zip(sound, deliveries, results or [None] * len(sound), strict=True):
            if failure is None:
                self._outage.passed()
                verdicts.append(Passed(attempt.job, attempt.event, delivery.context))
            elif isinstance(failure, FailedTogether):
                together.append((attempt, failure.error))
            else:
                verdicts.append(await self._judge(attempt, failure))
        if together:
            tries, errors = zip(*together, strict=True)
            verdicts += await self._failed_together(tries, errors[0])
        return verdicts

    def close(self) -> None:
        """Stop the timer of time-outs."""
        self._timeout.close()

    def _delivery(self, attempt: Try) -> Delivery:
        stage, event = self._stage, attempt.event
        context = event.context(stage.name, attempt.attempt)
        return Delivery(stage.validated(event.event) if stage.validates else event.event, context)

    async def _failed_together(self, tries: Sequence[Try], error: BaseException) -> list[Verdict]:
        """Run each of a failed batch on its own, so that only the one at fault uses up its tries."""
        cause = await self._outage_behind(error)
        if isinstance(cause, HandlerError):
            return [await self._judge(attempt, cause) for attempt in tries]
        _log.warning(
            "stage %s: a batch of %d failed (%s); running each of its events on its own",
            self._stage.name, len(tries), describe(error), exc_info=told_from_handler(error),
        )  # fmt: skip
        async with asyncio.TaskGroup() as group:
            alone = [group.create_task(self.run([attempt])) for attempt in tries]
        return [verdict for task in alone for verdict in task.result()]

    async def _judge(self, attempt: Try, error: BaseException) -> Verdict:
        if isinstance(error, Throttled):
            return Again(attempt.job, error.after, text_of(error), counts=False, quiet=True)
        if isinstance(error, Skip):
            return Passed(attempt.job, attempt.event, None)
        if isinstance(error, Reject):
            return self._dead(attempt, str(error.kind), text_of(error), error)
        error = await self._outage_behind(error)
        if isinstance(error, Unavailable):
            return Again(attempt.job, self._outage.met(error), text_of(error), counts=False)
        self._outage.passed()
        return self._try_again(attempt, error)

    async def _outage_behind(self, error: BaseException) -> BaseException:
        """The error itself; for a time-out the outage, where a resource of the handler does not answer its probe."""
        if isinstance(error, TimeoutError):
            for name in self._stage.resources:
                reason = await why_down(self._resources.get(name))
                if reason is not None:
                    return Unavailable(name, reason)
        return error

    def _try_again(self, attempt: Try, error: BaseException) -> Verdict:
        retry = self._stage.policy.retry
        if attempt.attempt >= retry.attempts:
            return self._dead(attempt, type(error).__name__, text_of(error) or type(error).__name__, error)
        wait = error.after if isinstance(error, Retry) else None
        if wait is None:
            wait = backoff(attempt.attempt, retry.backoff, retry.max_backoff, retry.jitter)
        _log.warning(
            "stage %s: %r failed at try %d of %d (%s); next try in %.1f s",
            self._stage.name, attempt.event.event, attempt.attempt, retry.attempts, describe(error), wait,
            exc_info=None if isinstance(error, Retry) else told_from_handler(error),
        )  # fmt: skip
        return Again(attempt.job, wait, describe(error), counts=True)

    def _dead(self, attempt: Try, kind: str, reason: str, error: BaseException | None = None) -> Died:
        _log.error(
            "stage %s: %r is dead at try %d (%s): %s",
            self._stage.name, attempt.event.event, attempt.attempt, kind, reason,
            exc_info=None if error is None or isinstance(error, HandlerError) else told_from_handler(error),
        )  # fmt: skip
        where = None if error is None else where_failed(error, self._stage.handler)
        return died(attempt.job, attempt.event, kind, reason, where)


def _batches(tries: Sequence[Try], size: int) -> Sequence[list[Try]]:
    """Batches of at most this size, none of which holds two events of one ordering key of a route."""
    batches: list[list[Try]] = []
    if size == 1:
        return [[attempt] for attempt in tries]
    waiting = list(tries)
    while waiting:
        batch: list[Try] = []
        rest: list[Try] = []
        keys: set[tuple[str, str, str]] = set()
        for attempt in waiting:
            event = attempt.event
            key = None if event.key is None else (event.group, event.route, event.key)
            if len(batch) == size or key in keys:
                rest.append(attempt)
                continue
            batch.append(attempt)
            if key is not None:
                keys.add(key)
        batches.append(batch)
        waiting = rest
    return batches
