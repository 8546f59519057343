"""Rounds: work that is done again and again, when it is woken or some time has passed, whatever is away meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection
from contextlib import suppress
from typing import Final

from pipeline.errors import PipelineError, Unavailable
from pipeline.jobs.ending import end_all
from pipeline.policies.backoff import backoff

__all__ = ["Rounds", "rested"]

_FIRST_WAIT: Final = 0.2
_LONGEST_WAIT: Final = 5.0
_LAST_WAIT: Final = 2.0
_REST: Final = 20
_log = logging.getLogger("pipeline.jobs")


def rested(took: float, every: float) -> float:
    """In how many seconds a round is due again: one that takes long is followed by a rest of twenty times that long.

    Args:
        took: How many seconds it has taken.
        every: The seconds between two rounds otherwise.
    """
    return max(every, _REST * took)


class Rounds:
    """Does rounds from `start` to `stop`. A failure is said once, and the next round waits a little longer each time.

    Args:
        name: What this is, for the log.
        work: One round. Returns in how many seconds the next one is due; None for `every`.
        every: Seconds between rounds that nothing asks for.
        apart: Seconds between two rounds at least, so that what comes meanwhile is done together.
        silent: Dependencies whose outages others tell of, so that one outage is not told of many times.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], Awaitable[float | None]],
        *,
        every: float,
        apart: float = 0.0,
        silent: Collection[str] = (),
    ) -> None:
        self._name = name
        self._work = work
        self._every = every
        self._apart = apart
        self._silent = silent
        self._woken = asyncio.Event()
        self._failures = 0
        self._said = ""
        self._end = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin."""
        self._task = asyncio.create_task(self._run(), name=self._name)

    async def stop(self) -> None:
        """End; a round that is being done comes to its own end, within a few seconds: it may be amid a transaction."""
        self._end.set()
        self._woken.set()
        if self._task is not None:
            await end_all([self._task], within=_LAST_WAIT)

    def wake(self) -> None:
        """Do a round now; where one is being done, another one right after it."""
        self._woken.set()

    async def _run(self) -> None:
        while not self._end.is_set():
            self._woken.clear()
            rest, wait = await self._round()
            await self._sleep(rest, self._end)
            await self._sleep(wait - rest, self._woken)

    async def _sleep(self, seconds: float, until: asyncio.Event) -> None:
        """Sleep, at most until something happens."""
        if seconds > 0 and not self._end.is_set():
            with suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await until.wait()

    async def _round(self) -> tuple[float, float]:
        """Do one. Returns how many seconds there must be until the next, and how many at most."""
        try:
            wait = await self._work()
        except Exception as error:  # noqa: BLE001 - whatever it is, the next round may do better, and must come
            self._failures += 1
            self._say(error)
            wait = backoff(self._failures, _FIRST_WAIT, _LONGEST_WAIT, jitter=0.2)
            return wait, wait
        if self._said:
            _log.info("%s: goes on", self._name)
        self._failures, self._said = 0, ""
        wait = self._every if wait is None else wait
        return min(self._apart, wait), wait

    def _say(self, error: Exception) -> None:
        said = f"{type(error).__name__}: {error}"
        if said == self._said or (isinstance(error, Unavailable) and error.dependency in self._silent):
            return
        self._said = said
        if isinstance(error, PipelineError):
            _log.warning("%s: %s; it goes on when this is over", self._name, error)
        else:
            _log.error("%s failed, and will be tried again", self._name, exc_info=error)
