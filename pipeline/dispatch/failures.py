"""Failures: what a failed try means for its event: filtered, dead, another try, or a wait for a dependency."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Protocol, TypeAlias

from pipeline.dispatch.dependencies import Dependencies
from pipeline.dispatch.flight import Flight
from pipeline.errors import HandlerError, Reject, Retry, Skip, Unavailable, describe, text_of
from pipeline.jobs.stage_event import EarlierFailure
from pipeline.ledger.units import Dead
from pipeline.policies.backoff import backoff
from pipeline.policies.coalesce import Coalesced
from pipeline.policies.middleware import Throttled
from pipeline.stages import Stage
from pipeline.where import told_from_handler, where_failed

if TYPE_CHECKING:
    from pipeline.dispatch.jobs_left import JobsLeft
    from pipeline.dispatch.stage_queue import StageQueue

__all__ = ["Failures", "Meet", "Stages"]

Meet: TypeAlias = "Callable[[Unavailable | Throttled], None]"
"""Hears of what kept a flight from being handled, and is no fault of its own."""
_log = logging.getLogger("pipeline.dispatch")


class Stages(Protocol):
    """What a queue tells its source."""

    group: str
    failed: Callable[[BaseException | None], None]
    jobs: JobsLeft

    def stage_done(self, flight: Flight) -> None:
        """The flight's stage is done: on to the next."""

    def stage_skipped(self, flight: Flight, reason: str, error: BaseException | None = None) -> None:
        """The flight's route ends as filtered; its ``finally`` stages see the error."""

    def stage_dead(self, flight: Flight, dead: Dead, error: BaseException) -> None:
        """The flight's stage failed for good."""

    def must_hold(self) -> bool:
        """Whether this runner may no longer be the source's owner, so that nothing must be started."""


class Failures:
    """Judges the failed tries of one stage, and keeps the flights that wait to come again.

    Args:
        stage: The stage.
        source: Hears of what is skipped or dead.
        dependencies: Knows what is down.
        queue: Gets the flights back that are tried again.
    """

    def __init__(self, stage: Stage, source: Stages, dependencies: Dependencies, queue: StageQueue) -> None:
        self._stage = stage
        self._source = source
        self._dependencies = dependencies
        self._queue = queue
        self._sleeping: dict[Flight, asyncio.TimerHandle] = {}
        self._throttled: set[Flight] = set()
        self._parked: dict[Flight, None] = {}  # in the order in which they came

    def waits_until(self, moment: float) -> bool:
        """Whether a flight that has begun comes again, for its turn or another try, before this time of the loop."""
        return any(flight.begun and timer.when() <= moment for flight, timer in self._sleeping.items())

    @property
    def waits_for_turns(self) -> bool:
        """Whether any flight does."""
        return bool(self._throttled)

    async def judge(self, flight: Flight, error: BaseException, meet: Meet) -> None:
        """Decide what becomes of a flight; `meet` hears of an outage, and of what makes it wait."""
        if isinstance(error, Throttled):
            self._wait(flight, error)
            meet(error)
            return
        if isinstance(error, Skip):
            self._source.stage_skipped(flight, text_of(error), error if isinstance(error, Coalesced) else None)
            return
        if isinstance(error, Reject):
            self._dead(flight, str(error.kind), error)
            return
        error = await self.outage_behind(error)
        if isinstance(error, Unavailable):
            self._queue.put_back(flight)
            meet(error)
            return
        self._try_again(flight, error)

    async def outage_behind(self, error: BaseException) -> BaseException:
        """The error itself; for a time-out the outage, where a resource of the handler does not answer its probe."""
        if isinstance(error, TimeoutError):
            for name in self._stage.resources:
                reason = await self._dependencies.is_down(name)
                if reason is not None:
                    return Unavailable(name, reason)
        return error

    def _try_again(self, flight: Flight, error: BaseException) -> None:
        retry = self._stage.policy.retry
        if flight.attempt >= retry.attempts:
            self._dead(flight, type(error).__name__, error)
            return
        wait = error.after if isinstance(error, Retry) else None
        if wait is None:
            wait = backoff(flight.attempt, retry.backoff, retry.max_backoff, retry.jitter)
        _log.warning(
            "stage %s: %r failed at try %d of %d (%s); next try in %.1f s",
            self._stage.name, flight.event, flight.attempt, retry.attempts, describe(error), wait,
            exc_info=None if isinstance(error, Retry) else told_from_handler(error),
        )  # fmt: skip
        flight.first_at = flight.first_at or datetime.now(UTC)
        flight.attempt += 1
        self._sleep(flight, wait)

    def _wait(self, flight: Flight, why: Throttled) -> None:
        """Let a flight come again when it may: that uses no attempt, and holds no worker."""
        if why.park is None:
            self._throttled.add(flight)
            self._sleep(flight, why.after)
        else:
            self._parked[flight] = None
            why.park(partial(self._unpark, flight))

    def _unpark(self, flight: Flight) -> bool:
        """Let a flight come whose turn it is; False where it does not, or has come already."""
        if flight not in self._parked:
            return False
        del self._parked[flight]
        return self._queue.put_first(flight)

    def unparked(self) -> list[Flight]:
        """Those that wait to be called: they come now, as whoever was to call them may be left by a stop."""
        flights, self._parked = list(self._parked), {}
        return flights

    def _sleep(self, flight: Flight, seconds: float) -> None:
        self._sleeping[flight] = asyncio.get_running_loop().call_later(seconds, self._awake, flight)

    def _awake(self, flight: Flight) -> None:
        del self._sleeping[flight]
        self._throttled.discard(flight)
        self._queue.put(flight)

    def _dead(self, flight: Flight, kind: str, error: BaseException) -> None:
        now = datetime.now(UTC)
        reason = text_of(error) or type(error).__name__
        _log.error(
            "stage %s: %r is dead at try %d (%s): %s", self._stage.name, flight.event, flight.attempt, kind, reason,
            exc_info=None if isinstance(error, HandlerError) else told_from_handler(error),
        )  # fmt: skip
        dead = Dead(
            flight.route_name, self._stage.name, kind, reason, flight.attempt, flight.first_at or now, now,
            where=where_failed(error, self._stage.handler),
        )  # fmt: skip
        self._source.stage_dead(flight, dead, _sayable(error))

    def close(self) -> None:
        """Stop waiting; what waits will be delivered again."""
        for handle in self._sleeping.values():
            handle.cancel()
        self._sleeping.clear()
        self._throttled.clear()
        self._parked.clear()


def _sayable(error: BaseException) -> BaseException:
    """The error as ``finally`` stages get it: they must be able to say what it was."""
    try:
        str(error)
    except Exception:  # noqa: BLE001 - a class of a handler's own may say anything
        return EarlierFailure(type(error).__name__, text_of(error))
    return error
