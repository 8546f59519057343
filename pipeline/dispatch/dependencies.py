"""Dependencies that are down: a stage that meets one rests, its source pauses, and a trial tells when it is back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.errors import Unavailable, text_of
from pipeline.policies.backoff import backoff
from pipeline.policies.circuit import CircuitOpen
from pipeline.policies.probing import why_down

if TYPE_CHECKING:
    from pipeline.dispatch.stage_queue import StageQueue

__all__ = ["Dependencies"]

_FIRST_WAIT = 0.2
_LONGEST_WAIT = 10.0
_log = logging.getLogger("pipeline.dependencies")


class Dependencies:
    """The breakers of one source, one for each dependency that has been reported down.

    An open breaker lets nothing through. After a growing wait, or the one that an open circuit asks for, the resource's
    own probe is asked, where there is one, and then one event is let through; when that event no longer meets the
    outage, all go on.

    Args:
        resources: The opened resources by name, for their probes.
        hold: Called with a dependency's name and the reason when it goes down, to pause the source.
        release: Called with its name when it is back.
        admit_one: Called with its name to let one batch in although it is down.
    """

    def __init__(
        self,
        resources: Mapping[str, Any],
        hold: Callable[[str, str], None],
        release: Callable[[str], None],
        admit_one: Callable[[str], None] = lambda name: None,
    ) -> None:
        self._resources = resources
        self._hold = hold
        self._release = release
        self._admit_one = admit_one
        self._down: dict[str, set[StageQueue]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._waits: dict[str, float] = {}

    @property
    def down(self) -> list[str]:
        """The names of those that are down now."""
        return list(self._down)

    def report(self, error: Unavailable, queue: StageQueue) -> None:
        """Take note that a stage met an outage: the stage rests until it is over."""
        name, said = error.dependency, text_of(error)
        queue.rest(name)
        self._hold(name, said)
        if isinstance(error, CircuitOpen):
            self._waits[name] = error.after
        if name in self._down:
            self._down[name].add(queue)
            return
        _log.warning("%s; its source pauses until it is back", said)
        self._down[name] = {queue}
        self._tasks[name] = asyncio.create_task(self._recover(name), name=f"recover {name}")

    async def is_down(self, name: str) -> str | None:
        """Why a resource does not answer its probe now; None where it does, or has no probe."""
        return await why_down(self._resources.get(name))

    async def _recover(self, name: str) -> None:
        failures = 0
        while True:
            failures += 1
            wait = self._waits.pop(name, 0.0)
            await asyncio.sleep(max(wait, backoff(failures, _FIRST_WAIT, wait or _LONGEST_WAIT, jitter=0.2)))
            try:
                if await self._is_back(name):
                    break
                self._let_others_in(name)
            except Exception:  # noqa: BLE001 - whatever it is, a stage must not rest for ever because of it
                _log.exception("%s: whether it is back could not be found out; it is looked at again", name)
        queues = self._down.pop(name)
        del self._tasks[name]
        _log.info("%s is back; its source goes on", name)
        self._release(name)
        for queue in queues:
            queue.wake(name)

    async def _is_back(self, name: str) -> bool:
        reason = await self.is_down(name)
        if reason is None:
            return await self._trial(name)
        self._hold(name, f"{name} is unavailable: {reason}")
        return False

    def _let_others_in(self, name: str) -> None:
        """Take one more batch in where a circuit stays open, and each event in hand has failed as its probe.

        Else a few events that fail for a fault of their own would keep the circuit open, and their source paused, for
        ever: none would be left to show that all is well.
        """
        is_circuit = name in self._waits  # a probe has just failed, and said when the next one may be made
        if is_circuit and all(queue.trials_are_exhausted for queue in self._down[name]):
            self._admit_one(name)

    async def _trial(self, name: str) -> bool:
        """Whether one event of each resting stage gets through (or there is none to try)."""
        return all([await queue.trial(name) for queue in list(self._down[name])])

    async def close(self) -> None:
        """End all waiting."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
