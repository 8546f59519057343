"""Dependencies that are down: a stage that meets one rests, its source pauses, and a trial tells when it is back."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from pipeline.errors import Unavailable
from pipeline.policies.backoff import backoff
from pipeline.policies.probing import why_down

if TYPE_CHECKING:
    from pipeline.dispatch.stage_queue import StageQueue

__all__ = ["Dependencies"]

_FIRST_WAIT = 0.2
_LONGEST_WAIT = 10.0
_log = logging.getLogger("pipeline.dependencies")


class Dependencies:
    """The breakers of one source, one for each dependency that has been reported down.

    An open breaker lets nothing through. After a growing wait it asks the resource's own probe, where there is one,
    then lets one event try; when that event no longer meets the outage, all go on.

    Args:
        resources: The opened resources by name, for their probes.
        hold: Called with a dependency's name and the reason when it goes down, to pause the source.
        release: Called with its name when it is back.
    """

    def __init__(
        self, resources: Mapping[str, Any], hold: Callable[[str, str], None], release: Callable[[str], None]
    ) -> None:
        self._resources = resources
        self._hold = hold
        self._release = release
        self._down: dict[str, set[StageQueue]] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    @property
    def down(self) -> list[str]:
        """The names of those that are down now."""
        return list(self._down)

    def report(self, error: Unavailable, queue: StageQueue) -> None:
        """Take note that a stage met an outage: the stage rests until it is over."""
        name = error.dependency
        queue.rest(name)
        self._hold(name, str(error))
        if name in self._down:
            self._down[name].add(queue)
            return
        _log.warning("%s; its source pauses until it is back", error)
        self._down[name] = {queue}
        self._tasks[name] = asyncio.create_task(self._recover(name), name=f"recover {name}")

    async def is_down(self, name: str) -> str | None:
        """Why a resource does not answer its probe now; None where it does, or has no probe."""
        return await why_down(self._resources.get(name))

    async def _recover(self, name: str) -> None:
        failures = 0
        while True:
            failures += 1
            await asyncio.sleep(backoff(failures, _FIRST_WAIT, _LONGEST_WAIT, jitter=0.2))
            reason = await self.is_down(name)
            if reason is None and await self._trial(name):
                break
            if reason is not None:
                self._hold(name, f"{name} is unavailable: {reason}")
        queues = self._down.pop(name)
        del self._tasks[name]
        _log.info("%s is back; its source goes on", name)
        self._release(name)
        for queue in queues:
            queue.wake(name)

    async def _trial(self, name: str) -> bool:
        """Whether one event of each resting stage gets through (or there is none to try)."""
        return all([await queue.trial(name) for queue in list(self._down[name])])

    async def close(self) -> None:
        """End all waiting."""
        for task in self._tasks.values():
            task.cancel()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
