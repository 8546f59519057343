"""Wakes readers that wait for a log to grow, whichever event loop and thread each of them runs on."""

from __future__ import annotations

import asyncio
from contextlib import suppress

__all__ = ["Wakeup"]


class Wakeup:
    """A count of changes, and the readers that wait for it to move on.

    A reader notes `count`, looks for data and, where it finds none, waits until the count is another one: a change
    between the look and the wait is not missed.

    Attributes:
        count: How often `notify` was called.
    """

    def __init__(self) -> None:
        self.count = 0
        self._waiting: set[asyncio.Future[None]] = set()

    def notify(self) -> None:
        """Wake every reader that waits now; safe from any thread."""
        self.count += 1
        for future in tuple(self._waiting):
            with suppress(RuntimeError):  # the reader's loop is closed
                future.get_loop().call_soon_threadsafe(_wake, future)

    async def wait(self, seen: int, timeout: float | None = None) -> None:
        """Return when the count is no longer `seen`, or after `timeout` seconds."""
        future = asyncio.get_running_loop().create_future()
        self._waiting.add(future)
        try:
            if self.count == seen:
                with suppress(TimeoutError):
                    async with asyncio.timeout(timeout):
                        await future
        finally:
            self._waiting.discard(future)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
