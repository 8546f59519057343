"""Successors: which later event of a lane would come to a stage too, for the events that are with its handler now."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from pipeline.dispatch.flight import Flight
from pipeline.events import Event
from pipeline.expressions import Expression
from pipeline.handlers import Context, Delivery

__all__ = ["Successors"]


class Successors:
    """The flights that one stage is called with, by the context of the call.

    Args:
        when: The stage's condition.
    """

    def __init__(self, when: Expression | None) -> None:
        self._when = when
        self._flights: dict[Context, Flight] = {}

    @contextmanager
    def known(self, flights: Sequence[Flight], deliveries: Sequence[Delivery]) -> Iterator[None]:
        """Know the flights of these deliveries meanwhile."""
        contexts = [delivery.context for delivery in deliveries]
        self._flights.update(zip(contexts, flights, strict=True))
        try:
            yield
        finally:
            for context in contexts:
                del self._flights[context]

    def find(self, context: Context, matches: Callable[[Event[Any]], bool]) -> Event[Any] | None:
        """The next event of the lane that matches and meets the conditions of route and stage; None where none does."""
        flight = self._flights[context]
        lanes, key = flight.lanes[flight.at], flight.keys[flight.at]
        if key is None or flight.closing:
            return None
        conditions = [when for when in (lanes.when, self._when) if when is not None]
        for later in lanes.behind(flight, key):
            event = later.event
            if matches(event) and all(when.holds(event.variables())[0] for when in conditions):
                return event
        return None
