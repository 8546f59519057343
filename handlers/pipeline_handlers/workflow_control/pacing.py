"""Pacing: so many signals in a unit of time to each workflow, whichever events ask for them; the others get a turn."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from math import inf
from time import monotonic
from typing import Final

from pipeline.config.policies import RateLimit
from pipeline.errors import Throttled

__all__ = ["Pacer", "first_turn"]

_LATE: Final = 1.0
"""Seconds for which others wait for a turn to be taken: whoever is late, say because of an outage, stands in nobody's
way, and keeps its place."""
_FORGOTTEN: Final = 60.0
"""Seconds for which the place of whoever is late is kept."""
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
        last: The last turn that was given.
    """

    full_at: list[float]
    turns: dict[str, float] = field(default_factory=dict)
    last: float = -inf


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
        self._met_outage = ("", "")
        self._look_at = _FEW

    def __len__(self) -> int:
        """How many workflows and turns are kept."""
        return sum(1 + len(line.turns) for line in self._lines.values())

    def wait(self, workflow_id: str, request: str) -> float:
        """Seconds until this event may signal the workflow, 0 for now; it has a turn from now on."""
        line = self._lines.get(workflow_id)
        if line is None:
            return 0.0
        if (workflow_id, request) == self._met_outage:
            self._met_outage = ("", "")
            return 0.0
        now = self._clock()
        turn = line.turns.get(request)
        if turn is not None and turn > now:
            return turn - now
        free_at = max(full_at - slack for full_at, (_, slack) in zip(line.full_at, self._limits, strict=True))
        if turn is not None:  # it has come, perhaps late: it keeps its place
            at = max(free_at, now) + self._interval * _due_before(line.turns, request, now)
        elif line.last >= now - _LATE:
            at = max(free_at, line.last + self._interval)
        else:  # all who waited have come, or lost their turns
            at = free_at
        if at <= now:
            return 0.0
        _forget_lost(line.turns, now)
        line.turns[request] = at
        line.last = max(line.last, at)
        return at - now

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

    def met_outage(self, workflow_id: str, request: str) -> None:
        """Let this event try again at once, once: with it is tried whether an outage is over."""
        self._met_outage = (workflow_id, request)

    def _forget_idle(self, now: float) -> None:
        if len(self._lines) <= self._look_at:
            return
        for workflow_id, line in list(self._lines.items()):
            _forget_lost(line.turns, now)
            if not line.turns and max(line.full_at) < now:
                del self._lines[workflow_id]
        self._look_at = max(_FEW, 2 * len(self._lines))


def first_turn(throttled: Sequence[Throttled]) -> Throttled:
    """The wait of an event that waits for several workflows: until the first of them, and those right behind it."""
    first = min(throttled, key=lambda error: error.after)
    last = max(error.after for error in throttled)
    return Throttled(str(first), min(last, first.after + _TOGETHER))


def _due_before(turns: dict[str, float], request: str, now: float) -> int:
    """How many before this one may come at any moment; not those that are late themselves."""
    before = takewhile(lambda other: other != request, turns)
    return sum(now - _LATE <= turns[other] <= now for other in before)


def _forget_lost(turns: dict[str, float], now: float) -> None:
    while turns and turns[first := next(iter(turns))] < now - _FORGOTTEN:
        del turns[first]
