"""Rate limit: so many events in a unit of time, of a stage or of each key; what is over it is given a turn.

This is the generic cell rate algorithm: all that is kept of a key is the time at which its bucket is full again. The
libraries at hand make the caller wait, and so hold its worker, or only say no, and so have all that wait come back
together. Here an event that is over the limit is told when its turn is, and nobody else gets that turn.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Final

from pipeline.config.policies import RateLimit
from pipeline.errors import Unavailable
from pipeline.policies.middleware import Call, FailedTogether, Throttled, call_others, key_getter, results_of

if TYPE_CHECKING:
    from pipeline.handlers import Delivery

__all__ = ["Buckets", "RateLimits"]

_LATE: Final = 1.0
"""Seconds for which a turn is kept. Who comes later passes if those that really passed leave room, else asks anew: all
would come at once after an outage."""
_FORGOTTEN: Final = 10.0
"""Seconds after which a turn that nobody took may be forgotten."""
_FEW: Final = 1_000
"""Keys that are kept without a look at which of them are idle."""


class RateLimits:
    """The rate limits of one stage: an event passes where all of them let it.

    An event that the handler itself lets wait keeps what it was given. The one that met an outage last does so, too: it
    is with this one that is tried whether the outage is over, and a long wait for its next turn would make it longer. A
    time-out may have been one: then the event comes again at the same try.

    Args:
        limits: The limits.
        clock: The time in seconds.
    """

    def __init__(self, limits: Sequence[RateLimit], clock: Callable[[], float] = monotonic) -> None:
        self._limits = [(Buckets(limit), key_getter(limit.key) if limit.key else None, str(limit)) for limit in limits]
        self._clock = clock
        self._met_outage = ("", 0)  # the request, and its try

    def wrap(self, call: Call) -> Call:
        """The call, behind these limits."""

        async def limited(batch: Sequence[Delivery]) -> Sequence[BaseException | None] | None:
            held: dict[int, BaseException] = {}
            for place, delivery in enumerate(batch):
                if (throttled := self._ask(delivery)) is not None:
                    held[place] = throttled
            results = await results_of(lambda some: call_others(call, some, held), batch)
            for place, result in enumerate(results or ()):
                if isinstance(result, FailedTogether):  # a whole batch may have timed out
                    result = result.error  # noqa: PLW2901
                if place not in held and isinstance(result, Throttled | Unavailable | TimeoutError):
                    self._give_back(batch[place], result)
            return results

        return limited

    def _give_back(self, delivery: Delivery, result: Throttled | Unavailable | TimeoutError) -> None:
        event, context = delivery
        if not isinstance(result, Throttled):
            self._met_outage = (context.request_id, context.attempt)
            return
        turn = self._clock() + result.after
        for buckets, key_of, _ in self._limits:
            if key_of is None or key_of(event) is not None:
                buckets.give_back(context.request_id, turn)

    def _ask(self, delivery: Delivery) -> Throttled | None:
        event, context = delivery
        now, request = self._clock(), context.request_id
        if (request, context.attempt) == self._met_outage:
            self._met_outage = ("", 0)
            return None
        asked: list[tuple[Buckets, str]] = []
        longest, slowest, name = 0.0, -1, ""
        for buckets, key_of, named in self._limits:
            key = "" if key_of is None else key_of(event)
            if key is None:  # nothing to count it by
                continue
            wait = buckets.wait(key, request, now)
            if wait > longest:
                longest, slowest, name = wait, len(asked), named
            asked.append((buckets, key))
        if slowest < 0:
            for buckets, key in asked:
                buckets.take(key, request, now)
            return None
        buckets, key = asked[slowest]
        buckets.reserve(key, request, now)
        return Throttled(f"it waits for its turn: {name}", longest)


class Buckets:
    """One limit's buckets by key, and the turns that were given. Those of idle keys are forgotten.

    There are two buckets of each key: one of the turns, by which the next one is given, and one of those that really
    passed. Where all come late, as a worker was busy with others, the second one tells that there is room.

    Args:
        limit: The limit.
    """

    def __init__(self, limit: RateLimit) -> None:
        self._interval = 1 / limit.rate
        self._tolerance = (limit.size - 1) * self._interval
        self._full_at: dict[str, float] = {}
        self._passed: dict[str, float] = {}
        self._turns: dict[str, float] = {}
        self._given_back: set[str] = set()
        self._look_at = _FEW

    def __len__(self) -> int:
        """How many keys and turns are kept."""
        return len(self._full_at) + len(self._turns)

    def wait(self, key: str, request: str, now: float) -> float:
        """Seconds until this request may pass; 0 for now."""
        turn = self._turns.get(request)
        if turn is not None:
            if now - turn <= _LATE:
                return max(0.0, turn - now)
            if self._passed.get(key, now) - self._tolerance <= now:
                return 0.0
        return max(0.0, self._full_at.get(key, now) - self._tolerance - now)

    def take(self, key: str, request: str, now: float) -> None:
        """Let a request pass that need not wait."""
        turn = self._turns.pop(request, None)
        if request in self._given_back:  # it was counted when it first passed
            self._given_back.discard(request)
            return
        if turn is None:
            self._add(key, now)
        passed = self._passed[key] = max(self._passed.get(key, now), now) + self._interval
        self._full_at[key] = max(self._full_at.get(key, now), passed)

    def reserve(self, key: str, request: str, now: float) -> None:
        """Give a request that must wait the turn that `wait` told, unless it has it already."""
        turn = self._turns.get(request)
        if turn is None or now - turn > _LATE:
            self._turns[request] = now + self.wait(key, request, now)
            self._add(key, now)

    def give_back(self, request: str, turn: float) -> None:
        """Let a request that has passed do so again, when it comes for this turn."""
        self._turns[request] = turn
        self._given_back.add(request)

    def _add(self, key: str, now: float) -> None:
        self._full_at[key] = max(self._full_at.get(key, now), now) + self._interval
        if len(self) > self._look_at:
            self._full_at = {key: at for key, at in self._full_at.items() if at > now}
            self._passed = {key: at for key, at in self._passed.items() if at > now}
            self._turns = {request: turn for request, turn in self._turns.items() if now - turn <= _FORGOTTEN}
            self._given_back &= self._turns.keys()
            self._look_at = max(_FEW, 2 * len(self))
