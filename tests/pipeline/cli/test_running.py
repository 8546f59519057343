"""Signals to a command that runs something: the first one stops it, whatever it is at."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from contextlib import suppress

import pytest

from pipeline.cli.running import Run
from pipeline.life import Life

Starting = Callable[[Callable[[], None]], Awaitable[None]]


class _Life(Life):
    """Starts as it is told; its run gets the signal."""

    def __init__(self, starting: Starting) -> None:
        super().__init__()
        self._starting_by = starting
        self.run_of_it = _Run(self, 0.0)

    async def _start(self) -> None:
        await self._starting_by(lambda: self.run_of_it._on_signal(signal.SIGTERM))
        self._tasks = [asyncio.create_task(asyncio.sleep(60))]

    async def _end(self) -> None:
        self._tasks[0].cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


class _Run(Run):
    """Tells nothing."""

    def in_flight(self) -> int:
        return 0

    def tell_started(self) -> None:
        """Nothing to tell."""


async def within_a_timeout_that_fires(tell: Callable[[], None]) -> None:
    """Be told to stop at the very moment at which a time-out cancels this task for its own sake."""
    loop = asyncio.get_running_loop()
    with suppress(TimeoutError):
        async with asyncio.timeout(0):
            loop.call_soon(tell)  # behind the time-out's own call, before this task gets to run again
            await loop.create_future()
    await asyncio.sleep(60)


async def swallowing_the_cancellation(tell: Callable[[], None]) -> None:
    """Be told to stop amid what takes that for its own affair, as clients do now and then."""
    asyncio.get_running_loop().call_soon(tell)
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(60)


@pytest.mark.parametrize("starting", [within_a_timeout_that_fires, swallowing_the_cancellation])
async def test_a_stop_signal_while_it_starts_is_never_lost(starting: Starting) -> None:
    life = _Life(starting)
    running = asyncio.create_task(life.run_of_it.run())
    done, _ = await asyncio.wait([running], timeout=1)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.remove_signal_handler(number)
    running.cancel()
    assert done, "the signal was lost"
    assert running.result() == 0
    assert not life.is_running
