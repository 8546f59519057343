"""Trials: flights that a resting stage tries one by one, to find out whether what it waits for is back."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from pipeline.dispatch.failures import Meet
from pipeline.dispatch.flight import Flight
from pipeline.errors import Unavailable
from pipeline.policies.middleware import Throttled

__all__ = ["Trials"]


class Trials:
    """The trials of one stage.

    Args:
        ready: The stage's flights in line. One that is tried is taken out, and put back as the first where it met an
            outage.
        start: Begins a try; what it is given hears what the flight met.
    """

    def __init__(self, ready: deque[Flight], start: Callable[[Flight, Meet], asyncio.Task[None]]) -> None:
        self._ready = ready
        self._start = start
        self._failed: set[Flight] = set()

    @property
    def are_exhausted(self) -> bool:
        """Whether each flight in line has failed at a trial, so that only others could show that all is well."""
        return self._failed.issuperset(self._ready)

    async def one(self, dependency: str) -> bool | None:
        """Whether a flight met no outage of this dependency; None where it had to wait before it could tell."""
        flight = self._take()
        flight.alone = True
        met: list[Unavailable | Throttled] = []
        await asyncio.wait([self._start(flight, met.append)])
        if any(isinstance(error, Unavailable) and error.dependency == dependency for error in met):
            self._failed.add(flight)
            self._ready.rotate(-1)  # another flight next time: it may be this one's own fault
            return False
        return None if any(isinstance(error, Throttled) for error in met) else True

    def over(self) -> None:
        """Forget which have failed: there is no outage any more."""
        self._failed.clear()

    def _take(self) -> Flight:
        """The first that has not failed; where all have, the one that did so longest ago."""
        ready = self._ready
        place = next((place for place, flight in enumerate(ready) if flight not in self._failed), 0)
        flight = ready[place]
        del ready[place]
        return flight
