"""A stage's queue: flights that are ready for it, and the workers that run them through its handler."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Sequence
from time import monotonic

from pipeline.dispatch.dependencies import Dependencies
from pipeline.dispatch.failures import Failures, Meet, Stages
from pipeline.dispatch.flight import Flight
from pipeline.dispatch.stopping import Left
from pipeline.dispatch.successors import Successors
from pipeline.dispatch.trials import Trials
from pipeline.errors import ENDINGS, HandlerError, Unavailable, describe
from pipeline.handlers import Context, Delivery
from pipeline.jobs.ending import end_all
from pipeline.policies.compose import compose, has_more
from pipeline.policies.middleware import FailedTogether, Throttled, results_of
from pipeline.policies.timeout import Timeout
from pipeline.stages import Stage
from pipeline.where import told_from_handler

__all__ = ["StageQueue"]

_BATCHES_AT_ONCE = 4
_CLOSED = ""
"""What a closed queue rests on, for good; no dependency has this name."""
_TURN = 0.005
"""Seconds that a worker may run on without letting others have a turn."""
_LAST_WORDS = 2.0
"""Seconds that a handler which was cancelled may take for its leave, before that is asked for again."""
_log = logging.getLogger("pipeline.dispatch")


class StageQueue:
    """Runs one stage of one source.

    Workers are started as long as flights are ready and the stage's concurrency allows; a worker whose handler never
    waits drains the queue alone, so that a fast handler costs no task per event. A handler of single events whose stage
    has no further policies is called directly; all others by way of `pipeline.policies.compose`.
    """

    def __init__(self, stage: Stage, source: Stages, dependencies: Dependencies) -> None:
        self.stage = stage
        self.when = stage.when
        self._source = source
        self._dependencies = dependencies
        self._ready: deque[Flight] = deque()
        policy = stage.policy
        self._limit = _BATCHES_AT_ONCE if stage.takes_batches else policy.limit
        self._size = stage.max_batch if stage.takes_batches else 1
        self._probes = policy.circuit.half_open if policy.circuit else 1
        self._timeout = Timeout(policy.timeout or None, stage.name)
        self._successors = Successors(stage.when) if policy.coalesce else None
        self._call = compose(
            stage.call, policy, self._timeout, circuit=stage.circuit,
            successor=self._successors.find if self._successors else None,
        )  # fmt: skip
        self._workers: set[asyncio.Task[None]] = set()
        self._failures = Failures(stage, source, dependencies, self)
        self._trials = Trials(self._ready, self._start_trial)
        self._resting: set[str] = set()
        self._looking = False
        self._left: Left | None = None
        self._loop = asyncio.get_running_loop()
        self._work = self._work_batches if stage.takes_batches or has_more(policy) else self._work_singly

    # The queue

    def put_back(self, flight: Flight) -> bool:
        """Take a flight back that has been taken out, as the first; False where a stop leaves it."""
        if self._left is not None and self._left.takes(flight):
            return False
        self._ready.appendleft(flight)
        return True

    def put_first(self, flight: Flight) -> bool:
        """Take a flight that is ready for this stage, and has waited longer than all others; as `put_back`."""
        taken = self.put_back(flight)
        self.resume()
        return taken

    def put(self, flight: Flight) -> None:
        """Take a flight that is ready for this stage."""
        if self._left is not None and self._left.takes(flight):
            return
        self._ready.append(flight)
        if not self._looking and not self._resting:
            self._looking = True
            self._loop.call_soon(self._look)

    def leave(self, left: Left) -> None:
        """From now on run those flights only that have begun; the others are left."""
        self._left = left
        ready = self._ready
        ready.extend(self._failures.unparked())
        for _ in range(len(ready)):
            flight = ready.popleft()
            if not left.takes(flight):
                ready.append(flight)
        self.resume()

    def busy(self, until: float) -> bool:
        """Whether a stop waits for it: it works, or a flight that has begun comes again before this loop time."""
        return bool(self._workers or self._ready) or self._failures.waits_until(until)

    def rest(self, dependency: str) -> None:
        """Start nothing until `wake`."""
        self._resting.add(dependency)

    def wake(self, dependency: str) -> None:
        """Go on, where nothing else is down."""
        self._resting.discard(dependency)
        self._trials.over()
        self.resume()

    def resume(self) -> None:
        """Look for work."""
        if self._ready and not self._looking and not self._resting:
            self._looking = True
            self._loop.call_soon(self._look)

    async def trial(self, dependency: str) -> bool:
        """Run flights, one by one, although the stage rests; whether they met no outage of `dependency`."""
        passed = throttled = 0
        for _ in range(len(self._ready)):
            if passed == self._probes or not self._ready or self._resting != {dependency}:
                break
            if self._source.must_hold():
                return False
            tells = await self._trials.one(dependency)
            if tells is False:
                return False
            passed, throttled = passed + (tells is True), throttled + (tells is None)
        if self._resting != {dependency}:
            return True  # something else keeps it: this dependency is not to blame
        return bool(passed) or not (throttled or self._failures.waits_for_turns)

    @property
    def trials_are_exhausted(self) -> bool:
        """Whether each flight in line has failed at a trial; it may be their own fault."""
        return self._trials.are_exhausted

    def _start_trial(self, flight: Flight, meet: Meet) -> asyncio.Task[None]:
        task = asyncio.create_task(self._try(flight, meet), name=f"trial of {self.stage.name}")
        self._track(task)
        return task

    async def close(self) -> None:
        """Cancel every worker and timer; a worker whose handler answers its cancellation takes nothing more.

        One whose handler swallows every cancellation is left and told: a source must come to its end all the same.
        """
        self.rest(_CLOSED)
        for worker in self._workers:
            worker.set_name(f"stage {self.stage.name}: a try")  # for what is told of it
            worker.cancel()
        await end_all(self._workers, within=_LAST_WORDS)
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
                name, flight.lanes[flight.at].name, group, event.id, flight.attempt,
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
            except ENDINGS:
                raise
            except BaseException as error:  # noqa: BLE001 - a handler may raise anything
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
        ready, size = self._ready, self._size
        if ready[0].alone:
            return [ready.popleft()]
        taken: list[Flight] = []
        while ready and len(taken) < size and not ready[0].alone:
            taken.append(ready.popleft())
        return taken

    async def _try(self, flight: Flight, meet: Meet) -> None:
        """Run one flight; `meet` hears of an outage, beside the dependency's breaker."""

        def report(error: Unavailable | Throttled) -> None:
            meet(error)
            self._meet(error)

        await self._run_batch([flight], report)

    async def _run_batch(self, flights: list[Flight], meet: Meet) -> None:
        deliveries: list[Delivery] = []
        sound: list[Flight] = []
        for flight in flights:
            try:
                deliveries.append(self._delivery(flight))
                sound.append(flight)
            except ENDINGS:
                raise
            except BaseException as error:  # noqa: BLE001 - a model's validator may raise anything
                await self._failures.judge(flight, error, meet)
        if not sound:
            return
        try:
            results = await self._results(sound, deliveries)
        except asyncio.CancelledError:
            self._ready.extendleft(reversed(sound))
            raise
        together: dict[Flight, BaseException] = {}
        for flight, delivery, failure in zip(sound, deliveries, results or [None] * len(sound), strict=True):
            if failure is None:
                self._passed(flight, delivery.context)
            elif isinstance(failure, FailedTogether):
                together[flight] = failure.error
            else:
                await self._failures.judge(flight, failure, meet)
        if together:
            await self._failed_together(together, meet)

    async def _results(
        self, flights: Sequence[Flight], deliveries: Sequence[Delivery]
    ) -> Sequence[BaseException | None] | None:
        if self._successors is None:
            return await results_of(self._call, deliveries)
        with self._successors.known(flights, deliveries):
            return await results_of(self._call, deliveries)

    def _passed(self, flight: Flight, context: Context) -> None:
        flight.alone = False
        flight.keep(context.rows, context.statements)
        if context.jobs:
            self._source.jobs.leave(flight, context.jobs)
        self._source.stage_done(flight)

    def _delivery(self, flight: Flight) -> Delivery:
        event = flight.event
        context = Context(
            self.stage.name, flight.route_name, self._source.group, event.id, flight.attempt,
            flight.route_outcome if flight.closing else None, flight.route_error,
        )  # fmt: skip
        return Delivery(self.stage.validated(event) if self.stage.validates else event, context)

    async def _failed_together(self, flights: dict[Flight, BaseException], meet: Meet) -> None:
        """Run each of a failed batch on its own, so that only the one at fault uses up its tries."""
        error = next(iter(flights.values()))
        cause = await self._failures.outage_behind(error)
        if isinstance(cause, HandlerError):
            for flight in flights:
                await self._failures.judge(flight, cause, meet)
            return
        _log.warning(
            "stage %s: a batch of %d failed (%s); running each of its events on its own",
            self.stage.name, len(flights), describe(error), exc_info=told_from_handler(error),
        )  # fmt: skip
        for flight in flights:
            flight.alone = True
            self.put(flight)

    def _meet(self, error: Unavailable | Throttled) -> None:
        if isinstance(error, Unavailable):
            self._dependencies.report(error, self)
