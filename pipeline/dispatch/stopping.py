"""Stopping: what has begun is brought to its end, and what has not is left for the next start."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.dispatch.flight import Flight

__all__ = ["Left", "in_the_way"]


class Left:
    """The flights that a stop leaves: no stage has finished any of them, so that the next start repeats nothing."""

    def __init__(self) -> None:
        self._flights: set[Flight] = set()

    def takes(self, flight: Flight) -> bool:
        """Leave a flight that is about to begin something; False for one that has begun, and may go on."""
        if not flight.begun:
            self._flights.add(flight)
        return not flight.begun

    def let_begin(self, flights: Iterable[Flight]) -> list[Flight]:
        """Those of these flights that were left, so that they begin all the same."""
        found = []
        for flight in flights:
            flight.begun = True  # also one that waits for its turn, and is not here
            if flight in self._flights:
                self._flights.discard(flight)
                found.append(flight)
        return found


def in_the_way(flights: Iterable[Flight]) -> list[Flight]:
    """The flights that have not begun, and that keep others, which have, from their next route: in a lane before them.

    As the oldest flight is at the head of all its lanes, there is one wherever there is such another.
    """
    found = (_before(flight) for flight in flights if flight.begun)
    return list(dict.fromkeys(flight for flight in found if flight is not None))


def _before(flight: Flight) -> Flight | None:
    """The flight that must begin for this one to go on; None where it waits in no lane, or for one that has begun."""
    waits = flight
    while True:
        key = waits.keys[waits.at]
        head = None if key is None else waits.lanes[waits.at].head(key)
        if head is None or head is waits:
            return None if waits is flight else waits
        if head.begun:
            return None
        waits = head
