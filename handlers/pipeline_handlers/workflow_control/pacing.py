"""Pacing: so many signals in a unit of time to each workflow, whichever events ask for them; the others get a turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from time import monotonic
from typing import Final

from pipeline.config.policies import RateLimit
from pipeline.errors import Throttled

__all__ = ["Pacer", "first_turn"]

_LATE: Final = 1.0
"""Seconds for which a turn is kept: whoever does not come by then, say because of an outage, stands in nobody's way."""
_TOGETHER: Final = 0.1
"""Seconds within which the turns of one event count as one: it comes again once for all of them."""
_FEW: Final = 1_000
"""Workflows that are kept without a look at which of them are idle."""


@dataclass(slots=True)
class _Line:
    """What is kept of one workflow.

    Attributes:
        full_at: When the bucket of each limit is full again.
        turns: The events that wait, in their order, and when the turn of each is.
    """

    full_at: list[float]
    turns: dict[str, float] = field(default_factory=dict)


class Pacer:
    """The limits of each workflow. Who asks first is first: nobody is let by while another one waits.

    A signal counts from when the server has answered, and the next one begins only then: so the workflow sees no more
    than the limit says, however long calls take, and in whatever order they are made.

    Args:
        limits: What each workflow is limited by.
        clock: The time in seconds.
    """

    def __init__(self, limits: Sequence[RateLimit], clock: Callable[[], float] = monotonic) -> None:
        self._limits = [(1 / limit.rate, (limit.size - 1) / limit.rate) for limit in limits]
        self._interval = max((interval for interval, _ in self._limits), default=0.0)
        self._clock = clock
        self._lines: dict[str, _Line] = {}
        self._look_at = _FEW

    def __len__(self) -> int:
        """How many workflows and turns are kept."""
        return sum(1 + len(line.turns) for line in self._lines.values())

    def wait(self, workflow_id: str, request: str) -> float:
        """Seconds until this event may signal the workflow, 0 for now; it has a turn from now on."""
        line = self._lines.get(workflow_id)
        if line is None:
            return 0.0
        now = self._clock()
        turn = line.turns.get(request, now)
        if turn > now:
            return turn - now
        free_at = max(full_at - slack for full_at, (_, slack) in zip(line.full_at, self._limits, strict=True))
        wait = max(0.0, free_at - now) + self._interval * _ahead(line.turns, request, now)
        if wait > 0:
            line.turns[request] = now + wait
        return wait

    def sent(self, workflow_id: str, request: str) -> None:
        """Count a signal, whose call has ended."""
        if not self._limits:
            return
        now = self._clock()
        line = self._lines.get(workflow_id)
        if line is None:
            line = self._lines[workflow_id] = _Line([now] * len(self._limits))
            self._forget_idle(now)
        line.full_at = [
            max(full_at, now) + interval for full_at, (interval, _) in zip(line.full_at, self._limits, strict=True)
        ]
        line.turns.pop(request, None)

    def _forget_idle(self, now: float) -> None:
        if len(self._lines) <= self._look_at:
            return
        for workflow_id, line in list(self._lines.items()):
            _drop_lost(line.turns, now)
            if not line.turns and max(line.full_at) < now:
                del self._lines[workflow_id]
        self._look_at = max(_FEW, 2 * len(self._lines))


def first_turn(throttled: Sequence[Throttled]) -> Throttled:
    """The wait of an event that waits for several workflows: until the first of them, and those right behind it."""
    first = min(throttled, key=lambda error: error.after)
    last = max(error.after for error in throttled)
    return Throttled(str(first), min(last, first.after + _TOGETHER))


def _ahead(turns: dict[str, float], request: str, now: float) -> int:
    """How many wait before this one, now that those have lost their turns that did not come."""
    _drop_lost(turns, now)
    if request not in turns:
        return len(turns)
    return next(place for place, other in enumerate(turns) if other == request)


def _drop_lost(turns: dict[str, float], now: float) -> None:
    while turns and turns[first := next(iter(turns))] < now - _LATE:
        del turns[first]
