"""Connections: asks every system that a process depends on, again and again, whether it answers; says what changed.

Whoever uses a connection makes it anew by itself, for ever. This tells people, also while nothing uses it: a system
that takes what it is sent and never answers shows here within 15 seconds.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from pipeline.stats import ConnectionStats

__all__ = ["Connections", "Probe"]

Probe = Callable[[], Awaitable[None]]
"""Returns when the other system answers; whatever it raises says that it does not."""

_EVERY: Final = 5.0
_WHILE_DOWN: Final = 1.0
_ANSWER: Final = 10.0
_log = logging.getLogger("pipeline.connections")


class Connections:
    """The states of connections, kept up to date from `start` to `stop`.

    Args:
        probes: What asks each system, by the dependency's name.
        every: Seconds between two questions to one system.
        answer: Seconds within which it must answer.
    """

    def __init__(self, probes: Mapping[str, Probe], *, every: float = _EVERY, answer: float = _ANSWER) -> None:
        self._probes = probes
        self._every = every
        self._answer = answer
        self.states = {name: ConnectionStats("connecting", datetime.now(UTC)) for name in probes}

    def start(self) -> list[asyncio.Task[None]]:
        """Begin; the tasks go on until they are cancelled."""
        return [
            asyncio.create_task(self._watch(name, probe), name=f"watch {name}") for name, probe in self._probes.items()
        ]

    async def _watch(self, name: str, probe: Probe) -> None:
        while True:
            self._note(name, await self._ask(probe))
            # While it is down it is asked more often: that it is back is news, too.
            await asyncio.sleep(self._every if self.states[name].state == "up" else min(_WHILE_DOWN, self._every))

    async def _ask(self, probe: Probe) -> str:
        """Why there is no answer; empty where there is one."""
        try:
            async with asyncio.timeout(self._answer):
                await probe()
        except TimeoutError:
            return f"no answer within {self._answer:g} s"
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            return "its probe was cancelled from within"
        except Exception as error:  # noqa: BLE001 - whatever a probe raises says that there is no answer
            return str(error).strip().partition("\n")[0] or type(error).__name__
        return ""

    def _note(self, name: str, problem: str) -> None:
        before, now = self.states[name], datetime.now(UTC)
        if problem:
            if before.state == "down":
                before.reason = problem
                return
            _log.warning("connection to %s: down (%s)", name, problem)
            self.states[name] = ConnectionStats("down", now, problem)
        elif before.state != "up":
            if before.state == "down":
                _log.info("connection to %s: up again, after %.0f s", name, (now - before.since).total_seconds())
            self.states[name] = ConnectionStats("up", now)
