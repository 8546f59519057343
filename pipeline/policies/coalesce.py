"""Coalesce: an event waits a while for a later one of its key, which then replaces it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from pipeline.config.policies import CoalescePolicy
from pipeline.errors import Skip, Unavailable
from pipeline.policies.middleware import Call, FailedTogether, Throttled, call_others, results_of
from pipeline.topics import compile_pattern

if TYPE_CHECKING:
    from pipeline.events import Event
    from pipeline.handlers import Context, Delivery

__all__ = ["Coalesce", "Coalesced", "Successor"]

Successor: TypeAlias = "Callable[[Context, Callable[[Event[Any]], bool]], Event[Any] | None]"
"""The next event behind that of a context, in the lane of its ordering key, for which a condition holds; None where
none has come."""


_WAITED: Final = -1.0
"""Until when an event waits that has done so."""
_MOST: Final = 100_000
"""So many events may be known before those that have waited are forgotten: some ended unnoticed, by a last time-out."""


class Coalesced(Skip):
    """A later event of the same key stands for this one.

    Attributes:
        successor: The later event's id.
    """

    def __init__(self, successor: str) -> None:
        self.successor = successor
        super().__init__(f"coalesced into {successor}")


class Coalesce:
    """What one stage coalesces.

    An event that is tried again, or has waited once, is coalesced no more: it may have had an effect already.

    Args:
        policy: Its settings.
        successor: Finds the later event.
        clock: The time in seconds.
    """

    def __init__(self, policy: CoalescePolicy, successor: Successor, clock: Callable[[], float] = monotonic) -> None:
        self._window = policy.window
        self._patterns = [compile_pattern(text) for text in policy.match]
        self._successor = successor
        self._clock = clock
        self._until: dict[str, float] = {}

    def __len__(self) -> int:
        """How many events wait, or have waited and are not done."""
        return len(self._until)

    def wrap(self, call: Call) -> Call:
        """The call, for the events that nothing replaces."""

        async def coalesced(batch: Sequence[Delivery]) -> Sequence[BaseException | None] | None:
            held: dict[int, BaseException] = {}
            for place, delivery in enumerate(batch):
                if (why := self._ask(delivery)) is not None:
                    held[place] = why
            results = await results_of(lambda some: call_others(call, some, held), batch)
            self._forget(batch, results)
            return results

        return coalesced

    def _forget(self, batch: Sequence[Delivery], results: Sequence[BaseException | None] | None) -> None:
        """Keep nothing of the events that are done here, or were tried. A time-out may yet turn out to be an outage."""
        if not self._until:
            return
        for place, delivery in enumerate(batch):
            result = results[place] if results else None
            if not isinstance(result, Throttled | Unavailable | FailedTogether | TimeoutError):
                self._until.pop(delivery.context.request_id, None)
        while len(self._until) > _MOST and self._until[oldest := next(iter(self._until))] == _WAITED:
            del self._until[oldest]

    def _ask(self, delivery: Delivery) -> BaseException | None:
        event, context = delivery
        if not self._matches(event):
            return None
        request, now = context.request_id, self._clock()
        if context.attempt > 1:
            self._until.pop(request, None)
            return None
        until = self._until.get(request)
        if until == _WAITED:
            return None
        if (later := self._successor(context, self._matches)) is not None:
            return Coalesced(later.id)
        if until is None:
            until = self._until[request] = now + self._window
        if until > now:
            return Throttled("it waits for a later event of its key", until - now)
        self._until[request] = _WAITED
        return None

    def _matches(self, event: Event[Any]) -> bool:
        return any(pattern.matches(event.routing_key) for pattern in self._patterns)
