"""A stage's queue: flights that are ready for it, and the workers that run them through its handler."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable
from time import monotonic

from pipeline.dispatch.dependencies import Dependencies
from pipeline.dispatch.failures import Failures, Stages, describe
from pipeline.dispatch.flight import Flight
from pipeline.errors import HandlerError, Unavailable
from pipeline.handlers import Context, Delivery
from pipeline.policies.timeout import Timeout
from pipeline.stages import Stage

__all__ = ["StageQueue"]

_BATCHES_AT_ONCE = 4
_CLOSED = ""
"""What a closed queue rests on, for good; no dependency has this name."""
_TURN = 0.005
"""Seconds that a worker may run on without letting others have a turn."""
_log = logging.getLogger("pipeline.dispatch")


class StageQueue:
    """Runs one stage of one source.

    Workers are started as long as flights are ready and the stage's concurrency allows; a worker whose handler never
    waits drains the queue alone, so that a fast handler costs no task per event.
    """

    def __init__(self, stage: Stage, source: Stages, dependencies: Dependencies) -> None:
        self.stage = stage
        self.when = stage.when
        self._source = source
        self._dependencies = dependencies
        self._ready: deque[Flight] = deque()
        self._limit = _BATCHES_AT_ONCE if stage.takes_batches else stage.policy.concurrency
        self._timeout = Timeout(stage.policy.timeout or None)
        self._workers: set[asyncio.Task[None]] = set()
        self._failures = Failures(stage, source, dependencies, self)
        self._resting: set[str] = set()
        self._looking = False
        self._loop = asyncio.get_running_loop()
        self._work = self._work_batches if stage.takes_batches else self._work_singly

    # The queue

    def put_back(self, flight: Flight) -> None:
        """Take a flight back that has been taken out, as the first."""
        self._ready.appendleft(flight)

    def put(self, flight: Flight) -> None:
        """Take a flight that is ready for this stage."""
        self._ready.append(flight)
        if not self._looking and not self._resting:
            self._looking = True
            self._loop.call_soon(self._look)

    @property
    def busy(self) -> bool:
        """Whether anything can still be done without waiting for a timer or a dependency."""
        return bool(self._workers) or bool(self._ready and not self._resting)

    def rest(self, dependency: str) -> None:
        """Start nothing until `wake`."""
        self._resting.add(dependency)

    def wake(self, dependency: str) -> None:
        """Go on, where nothing else is down."""
        self._resting.discard(dependency)
        self.resume()

    def resume(self) -> None:
        """Look for work."""
        if self._ready and not self._looking and not self._resting:
            self._looking = True
            self._loop.call_soon(self._look)

    async def trial(self, dependency: str) -> bool:
        """Run one flight (in a batch of its own) although the stage rests; whether it met no outage of `dependency`."""
        if not self._ready or self._resting != {dependency}:
            return True  # nothing to try, or something else keeps it: this dependency is not to blame
        if self._source.must_hold():
            return False
        flight = self._ready.popleft()
        flight.alone = True
        met: list[Unavailable] = []
        task = asyncio.create_task(self._try(flight, met.append), name=f"trial of {self.stage.name}")
        self._track(task)
        await asyncio.wait([task])
        return not any(error.dependency == dependency for error in met)

    async def close(self) -> None:
        """Cancel every worker and timer; a worker whose handler answers its cancellation takes nothing more."""
        self.rest(_CLOSED)
        workers = list(self._workers)
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        self._timeout.close()
        self._failures.close()

    # Workers

    def _look(self) -> None:
        """Start a worker where there is work; look again, as it may have stopped to wait with more work left."""
        self._looking = False
        if self._resting or not self._ready or len(self._workers) >= self._limit or self._source.must_hold():
            return
        self._track(self._loop.create_task(self._work()))
        self._looking = True
        self._loop.call_soon(self._look)

    def _track(self, task: asyncio.Task[None]) -> None:
        self._workers.add(task)
        task.add_done_callback(self._ended)

    def _ended(self, task: asyncio.Task[None]) -> None:
        self._workers.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.critical("stage %s: the engine itself failed", self.stage.name, exc_info=error)
            self._source.failed(error)
        self.resume()  # a flight may have come when this worker had ended, and still counted

    async def _work_singly(self) -> None:
        ready, stage, source = self._ready, self.stage, self._source
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a worker is a task
        handle, run, loop = stage.handler.handle, self._timeout.run, self._loop
        name, group, validates = stage.name, source.group, stage.validates
        turn = monotonic() + _TURN
        while ready and not self._resting and not source.must_hold():
            flight = ready.popleft()
            event = flight.event
            context = Context(
                name, flight.route_name, group, event.id, flight.attempt,
                flight.route_outcome if flight.closing else None, flight.route_error,
            )  # fmt: skip
            try:
                if validates:
                    event = stage.validated(event)
                await run(handle(event, context), task, loop)
            except asyncio.CancelledError as error:
                if task.cancelling():
                    ready.appendleft(flight)
                    raise
                await self._failures.judge(flight, error, self._meet)
            except Exception as error:  # noqa: BLE001 - a handler may raise anything
                await self._failures.judge(flight, error, self._meet)
            else:
                if context.rows or context.statements:
                    flight.keep(context.rows, context.statements)
                if context.jobs:
                    source.jobs.leave(flight, context.jobs)
                source.stage_done(flight)
            if monotonic() > turn:
                await asyncio.sleep(0)
                turn = monotonic() + _TURN

    async def _work_batches(self) -> None:
        while self._ready and not self._resting and not self._source.must_hold():
            await self._run_batch(self._take(), self._meet)
            await asyncio.sleep(0)

    def _take(self) -> list[Flight]:
        ready, size = self._ready, self.stage.max_batch
        if ready[0].alone:
            return [ready.popleft()]
        taken: list[Flight] = []
        while ready and len(taken) < size and not ready[0].alone:
            taken.append(ready.popleft())
        return taken

    async def _try(self, flight: Flight, meet: Callable[[Unavailable], None]) -> None:
        """Run one flight; `meet` hears of an outage, beside the dependency's breaker."""

        def report(error: Unavailable) -> None:
            meet(error)
            self._meet(error)

        await self._run_batch([flight], report)

    async def _run_batch(self, flights: list[Flight], meet: Callable[[Unavailable], None]) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - a worker is a task
        deliveries: list[Delivery] = []
        sound: list[Flight] = []
        for flight in flights:
            try:
                deliveries.append(self._delivery(flight))
                sound.append(flight)
            except Exception as error:  # noqa: BLE001 - a model's validator may raise anything
                await self._failures.judge(flight, error, meet)
        if not sound:
            return
        try:
            errors = await self._timeout.run(self.stage.call(deliveries), task, self._loop)
        except asyncio.CancelledError as error:
            if task.cancelling():
                self._ready.extendleft(reversed(sound))
                raise
            errors = [error] * len(sound)
        except Exception as raised:  # noqa: BLE001 - a handler may raise anything
            cause = await self._failures.outage_behind(raised)
            if len(sound) > 1 and not isinstance(cause, HandlerError):
                self._split(sound, raised)
                return
            errors = [cause] * len(sound)
        for flight, delivery, failure in zip(sound, deliveries, errors or [None] * len(sound), strict=True):
            if failure is None:
                context = delivery.context
                flight.alone = False
                flight.keep(context.rows, context.statements)
                if context.jobs:
                    self._source.jobs.leave(flight, context.jobs)
                self._source.stage_done(flight)
            else:
                await self._failures.judge(flight, failure, meet)

    def _delivery(self, flight: Flight) -> Delivery:
        event = flight.event
        context = Context(
            self.stage.name, flight.route_name, self._source.group, event.id, flight.attempt,
            flight.route_outcome if flight.closing else None, flight.route_error,
        )  # fmt: skip
        return Delivery(self.stage.validated(event) if self.stage.validates else event, context)

    def _split(self, flights: list[Flight], error: Exception) -> None:
        """Run each of a failed batch on its own, so that only the one at fault uses up its tries."""
        _log.warning(
            "stage %s: a batch of %d failed (%s); running each of its events on its own",
            self.stage.name, len(flights), describe(error), exc_info=error,
        )  # fmt: skip
        for flight in flights:
            flight.alone = True
            self.put(flight)

    def _meet(self, error: Unavailable) -> None:
        self._dependencies.report(error, self)
