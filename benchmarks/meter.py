"""The clock of one measured process: wall and CPU time between two moments, and the collector's settings."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Sequence

from benchmarks.job import Job, Result

__all__ = ["Meter", "percentiles", "settle"]


class Meter:
    """Counts events that a program counts one by one; the clock runs from the last of the warm-up to the last of all.

    Args:
        job: Says how many there are.
    """

    def __init__(self, job: Job) -> None:
        self.count = 0
        self.done = asyncio.Event()
        self._job = job
        self._began = self._ended = (0.0, 0.0)
        # Where the next thing happens; one comparison an event is all that counting costs.
        self._mark = max(job.warmup, 1)
        self._first = self._mark

    def tick(self) -> None:
        """One more event is done."""
        self.count += 1
        if self.count == self._mark:
            self._reach()

    def _reach(self) -> None:
        now = (time.perf_counter(), time.process_time())
        if self.count == self._first and self.count < self._job.events:
            self._began = now
            self._mark = self._job.events
        else:
            self._ended = now
            self.done.set()

    async def result(self) -> Result:
        """What was measured, once all events are done."""
        await self.done.wait()
        wall, cpu = (end - begin for end, begin in zip(self._ended, self._began, strict=True))
        return Result(self.count, self._job.events - self._first, wall, cpu)


def settle() -> None:
    """The collector's settings of ``pipeline run``, given to every program alike, so that they make no difference."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


def percentiles(milliseconds: Sequence[float]) -> dict[str, float]:
    """p50, p95, p99 and the maximum, by the nearest rank."""
    ordered = sorted(milliseconds)
    last = len(ordered) - 1
    found = {f"p{rank}": ordered[round(last * rank / 100)] for rank in (50, 95, 99)}
    return {**found, "max": ordered[last]}
