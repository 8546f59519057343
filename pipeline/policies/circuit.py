"""Circuit: when too many calls fail, no more are made for a while; then a few probe whether it is over."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic
from typing import TYPE_CHECKING, Final, Literal

from pipeline.config.policies import CircuitPolicy
from pipeline.errors import HandlerError, Retry, Unavailable, describe
from pipeline.policies.middleware import Call, FailedTogether, Throttled, call_others, results_of

if TYPE_CHECKING:
    from pipeline.handlers import Delivery

__all__ = ["Circuit", "CircuitOpen", "Circuits"]

Results = Sequence[BaseException | None]

_SLICES: Final = 20
"""In how many parts the window is counted; a part is forgotten as a whole."""
_log = logging.getLogger("pipeline.policies")


class CircuitOpen(Unavailable):
    """The circuit is open, so that the dependency counts as down.

    Attributes:
        after: Seconds until it may be probed.
    """

    def __init__(self, dependency: str, reason: str, after: float) -> None:
        self.after = after
        super().__init__(dependency, reason)


class Circuit:
    """The circuit of one dependency; of all stages that have the same.

    A call fails by an unexpected error or a time-out; a batch that fails as a whole is one call. A return, `Reject` and
    `Skip` are answers. `Retry`, an outage that the handler itself reports, and what is throttled tell nothing.

    Once it is open, a failure is an outage, and uses no attempt: that of a probe, and of a call that was under way.

    Args:
        policy: Its settings.
        dependency: What counts as down while it is open.
        clock: The time in seconds.
    """

    def __init__(self, policy: CircuitPolicy, dependency: str, clock: Callable[[], float] = monotonic) -> None:
        self._policy = policy
        self._dependency = dependency
        self._clock = clock
        self._tally = _Tally(policy.window)
        self._probe_at: float | None = None
        self._probing = 0
        self._passed = 0
        self._why = ""

    @property
    def state(self) -> Literal["closed", "open", "half-open"]:
        """Whether calls are made; in ``half-open`` probes are."""
        if self._probe_at is None:
            return "closed"
        return "open" if self._clock() < self._probe_at else "half-open"

    def wrap(self, call: Call) -> Call:
        """The call, behind this circuit."""

        async def guarded(batch: Sequence[Delivery]) -> Results | None:
            if not self._is_closed():
                return await self._probe(call, batch)
            results = await results_of(call, batch)
            if not self._is_closed():  # it has opened meanwhile
                return None if results is None else [self._outage(result) for result in results]
            self._count(results, len(batch))
            return results

        return guarded

    def _is_closed(self) -> bool:
        return self._probe_at is None

    def _count(self, results: Results | None, calls: int) -> None:
        if results is None:
            self._tally.add(self._clock(), calls, 0)
            return
        answers = [_answered(result) for result in _calls(results)]
        failures = answers.count(False)
        now = self._clock()
        self._tally.add(now, answers.count(True) + failures, failures)
        calls, failed = self._tally.sums(now) if failures else (0, 0)
        if failed and calls >= self._policy.minimum and failed >= self._policy.ratio * calls:
            last = next(result for result in reversed(results) if _answered(result) is False)
            self._open(f"{failed} of {calls} calls failed within {self._policy.window:g} s, the last: {_said(last)}")

    async def _probe(self, call: Call, batch: Sequence[Delivery]) -> Results | None:
        """Let as many events through as there are probes to be made; for all others it is open."""
        half_open = self._policy.half_open
        room = max(0, half_open - self._passed - self._probing) if self.state == "half-open" else 0
        held = {place: self._refusal() for place in range(room, len(batch))}
        if not room:
            return list(held.values())

        async def probe(some: Sequence[Delivery]) -> Results | None:
            self._probing += len(some)
            try:
                results = await results_of(call, some)
            finally:
                self._probing -= len(some)
            return self._probed(results or [None] * len(some))

        return await call_others(probe, batch, held)

    def _probed(self, results: Results) -> Results:
        if self._is_closed():  # by another probe
            return results
        failure = next((each for each in results if _answered(each) is False or isinstance(each, Unavailable)), None)
        if failure is not None:
            self._open(f"a probe failed: {_said(failure)}")
            return [self._outage(result) for result in results]
        self._passed += sum(_answered(result) is True for result in results)
        if self._passed >= self._policy.half_open:
            self._probe_at = None
            _log.info("the circuit of %s closes", self._dependency)
        return results

    def _open(self, why: str) -> None:
        if self._probe_at is None:
            _log.warning("the circuit of %s opens: %s", self._dependency, why)
        self._why = why
        self._probe_at = self._clock() + self._policy.open_for
        self._passed = 0
        self._tally = _Tally(self._policy.window)

    def _outage(self, result: BaseException | None) -> BaseException | None:
        return self._refusal() if _answered(result) is False else result

    def _refusal(self) -> BaseException:
        after = 0.0 if self._probe_at is None else max(0.0, self._probe_at - self._clock())
        return CircuitOpen(self._dependency, self._why, after)


class Circuits:
    """The circuits of one process: one of each dependency, for all stages with the same settings of it.

    Args:
        clock: The time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._circuits: dict[tuple[str, CircuitPolicy], Circuit] = {}

    def of(self, policy: CircuitPolicy, dependency: str) -> Circuit:
        """The circuit of this dependency; settings that differ make another one."""
        known = self._circuits.get((dependency, policy))
        if known is None:
            known = self._circuits[dependency, policy] = Circuit(policy, dependency, self._clock)
        return known


class _Tally:
    """How many calls there were within the last so many seconds, and how many failed."""

    def __init__(self, window: float) -> None:
        self._window = window
        self._slices: deque[list[float]] = deque()  # since when, calls, failures

    def add(self, now: float, calls: int, failures: int) -> None:
        slices = self._slices
        if not slices or now - slices[-1][0] >= self._window / _SLICES:
            self._forget(now)
            slices.append([now, 0, 0])
        slices[-1][1] += calls
        slices[-1][2] += failures

    def sums(self, now: float) -> tuple[int, int]:
        self._forget(now)
        return int(sum(part[1] for part in self._slices)), int(sum(part[2] for part in self._slices))

    def _forget(self, now: float) -> None:
        while self._slices and self._slices[0][0] <= now - self._window:
            self._slices.popleft()


def _calls(results: Results) -> list[BaseException | None]:
    """The results, of which those of events that failed together are one."""
    together = {id(result.error): result for result in results if isinstance(result, FailedTogether)}
    return [*(result for result in results if not isinstance(result, FailedTogether)), *together.values()]


def _answered(result: BaseException | None) -> bool | None:
    """Whether a call got an answer; None where its result does not tell."""
    if isinstance(result, Throttled | Retry | Unavailable):
        return None
    return result is None or isinstance(result, HandlerError)


def _said(error: BaseException | None) -> str:
    error = error.error if isinstance(error, FailedTogether) else error
    return "nothing" if error is None else describe(error)
