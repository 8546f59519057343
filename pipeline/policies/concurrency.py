"""Concurrency per key: so many events of one key at once, whatever route they came by."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Final

from pipeline.config.policies import ConcurrencyPolicy
from pipeline.policies.middleware import Call, Throttled, call_others, key_getter

if TYPE_CHECKING:
    from pipeline.handlers import Delivery

__all__ = ["KeyConcurrency"]

_LONGEST: Final = 30.0
"""Seconds after which those come again at the latest who can't be called when a place is free."""
_SHORTEST: Final = 0.05
_GUESS: Final = 0.05
"""Seconds that a call is expected to take before there was one."""
_SMOOTHING: Final = 0.2
"""How much the last call's time counts in the time that one is expected to take."""
_FEW: Final = 1_000
"""Keys that are kept without a look at which of them are idle."""


class KeyConcurrency:
    """The limit of one stage. The one of all keys together is the number of the stage's workers, and not here.

    What finds no free place for its key waits in a line, first come, first served; the next is called when an event of
    the key is done. Jobs wait in the database, and can't be called: each is told when its turn should be, one behind
    the other, by the time that calls took so far. An event that has no such key is not limited.

    Args:
        policy: Its limit of each key.
        clock: The time in seconds.
    """

    def __init__(self, policy: ConcurrencyPolicy, clock: Callable[[], float] = monotonic) -> None:
        if policy.per_key is None or policy.key is None:
            raise ValueError("there is no limit of each key")
        self._limit = policy.per_key
        self._key_of = key_getter(policy.key)
        self._running: dict[str, int] = {}
        self._lines: dict[str, deque[Callable[[], bool]]] = {}
        self._clock = clock
        self._takes = _GUESS
        self._calls = 0
        self._turns: dict[str, float] = {}  # when the last turn of each key is that was told
        self._reason = f"it waits for its turn: {policy.per_key} at once of each {policy.key}"

    @property
    def keys(self) -> int:
        """How many keys are in use."""
        return len(self._running)

    def wrap(self, call: Call) -> Call:
        """The call, behind this limit."""

        async def limited(batch: Sequence[Delivery]) -> Sequence[BaseException | None] | None:
            held: dict[int, BaseException] = {}
            taken: list[str] = []
            for place, delivery in enumerate(batch):
                key = self._key_of(delivery.event)
                if key is None:
                    continue
                if self._running.get(key, 0) < self._limit:
                    self._running[key] = self._running.get(key, 0) + 1
                    taken.append(key)
                else:
                    held[place] = Throttled(self._reason, self._turn(key), partial(self._park, key))
            began = self._clock()
            try:
                return await call_others(call, batch, held)
            finally:
                if taken:
                    self._calls += 1
                    share = max(_SMOOTHING, 1 / self._calls)
                    self._takes += share * (self._clock() - began - self._takes)
                for key in taken:
                    self._leave(key)

        return limited

    def _turn(self, key: str) -> float:
        """Seconds until one more that waits for this key should come again."""
        now = self._clock()
        turn = max(self._turns.get(key, now), now) + self._takes / self._limit
        if turn - now >= _LONGEST:  # nobody's place; who stands behind asks again
            return _LONGEST
        if len(self._turns) > _FEW:
            self._turns = {other: at for other, at in self._turns.items() if at > now}
        self._turns[key] = turn
        return max(_SHORTEST, turn - now)

    def _park(self, key: str, wake: Callable[[], bool]) -> None:
        if self._running.get(key, 0) < self._limit:  # a place has become free since it was asked for
            wake()
        else:
            self._lines.setdefault(key, deque()).append(wake)

    def _leave(self, key: str) -> None:
        self._running[key] -= 1
        if not self._running[key]:
            del self._running[key]
        line = self._lines.pop(key, None)
        while line:
            wake = line.popleft()
            if wake():
                break
        if line:
            self._lines[key] = line
