"""Lanes: the events of one key run one after another, those of different keys side by side."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from itertools import dropwhile, islice
from typing import TYPE_CHECKING, Protocol

from pipeline.routing import Route

if TYPE_CHECKING:
    from pipeline.dispatch.flight import Flight
    from pipeline.expressions import Expression

__all__ = ["Lanes", "StageEntry"]


class StageEntry(Protocol):
    """Where flights enter a stage: its queue, or what makes jobs of them."""

    when: Expression | None

    def put(self, flight: Flight) -> None:
        """Take a flight that is ready for this stage."""


class Lanes:
    """One route of one source: its stages, and a lane for each ordering key that is in use.

    A flight joins its lanes in every route when it is admitted, so that order is the stream's order in all of them;
    it may run a route when it is at the head of its lane there, and leaves the lane when the route is done. As all
    flights join in stream order, the oldest one is at the head everywhere: there is no deadlock.

    Args:
        route: The compiled route.
        stages: Its stages, in order.
        closing: Its ``finally`` stages, in order.
    """

    def __init__(self, route: Route, stages: Sequence[StageEntry], closing: Sequence[StageEntry]) -> None:
        self.route = route
        self.name = route.name
        self.when = route.when
        self.ordered = bool(route.keys)
        self.key_of = route.key_of if route.keys else None
        self.stages = stages
        self.closing = closing
        # A lane is its only flight, or a queue of flights: most keys have one event in flight.
        self._lanes: dict[str, Flight | deque[Flight]] = {}

    def join(self, flight: Flight, key: str) -> bool:
        """Stand at the end of the key's lane; whether that is its head."""
        lanes = self._lanes
        lane = lanes.get(key)
        if lane is None:
            lanes[key] = flight
            return True
        if type(lane) is deque:
            lane.append(flight)
        else:
            lanes[key] = deque((lane, flight))  # type: ignore[arg-type]  # the type checker loses the class here
        return False

    def head(self, key: str) -> Flight | None:
        """The flight at the head of the key's lane; None where there is none."""
        lane = self._lanes.get(key)
        return lane[0] if type(lane) is deque else lane  # type: ignore[return-value]  # as above

    def is_head(self, flight: Flight, key: str) -> bool:
        """Whether the flight is at the head of the key's lane."""
        lane = self._lanes[key]
        return (lane[0] if type(lane) is deque else lane) is flight

    def leave(self, key: str) -> Flight | None:
        """Take the head out of the key's lane; the flight that is its head now."""
        lane = self._lanes[key]
        if type(lane) is not deque:
            del self._lanes[key]
            return None
        lane.popleft()
        if len(lane) == 1:
            self._lanes[key] = lane[0]
        return lane[0]

    def behind(self, flight: Flight, key: str) -> Iterator[Flight]:
        """The flights that have joined the key's lane after this one, in order; without redrives: they are no later."""
        lane = self._lanes[key]
        after = islice(dropwhile(lambda each: each is not flight, lane if type(lane) is deque else ()), 1, None)
        return (each for each in after if each.again is None)

    def __len__(self) -> int:
        """How many keys are in use."""
        return len(self._lanes)
