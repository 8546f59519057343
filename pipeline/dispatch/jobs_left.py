"""Jobs that flights leave: written with what else a message leaves, and announced once that is committed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from pipeline.dispatch.flight import Flight
from pipeline.jobs.contract import NewJob
from pipeline.jobs.outbox import job_row

__all__ = ["JobsLeft"]


class JobsLeft:
    """The jobs of one source's flights.

    Args:
        on_jobs: Called after a commit that had jobs in it, so that they need not wait until somebody looks for them.
        now: The time, aware, in UTC.
        pipeline: The pipeline's name.
    """

    def __init__(self, on_jobs: Callable[[], None], now: Callable[[], datetime], pipeline: str) -> None:
        self._on_jobs = on_jobs
        self._now = now
        self._pipeline = pipeline
        self._uncommitted: set[Flight] = set()

    def leave(self, flight: Flight, jobs: Sequence[NewJob]) -> None:
        """Keep what a successful try left, for the flight's unit."""
        now = self._now()
        flight.keep([job_row(job, now, self._pipeline) for job in jobs], [])
        self._uncommitted.add(flight)

    def committed(self, flights: Sequence[Flight]) -> None:
        """Take note that these are committed."""
        waiting = self._uncommitted
        if waiting and not waiting.isdisjoint(flights):
            waiting.difference_update(flights)
            self._on_jobs()
