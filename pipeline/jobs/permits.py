"""Permits: how many of a queue's jobs a worker runs at once, taken for many jobs together, given back one by one."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import Final

__all__ = ["Permits"]

_LINGER: Final = 0.01
"""Seconds to wait for more permits than are free: jobs that are settled together give theirs back together, and a
batch that took the first few would stay small for good."""


class Permits:
    """So many jobs at once; whoever asks first is served first.

    Args:
        limit: How many.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._free = limit
        self._turn = asyncio.Lock()
        self._changed = asyncio.Event()
        self._closed = False

    async def take(self, wanted: int) -> int:
        """Wait for permits; returns how many were taken: at least 1, at most `wanted`, or 0 once this is closed."""
        wanted = min(wanted, self.limit)
        async with self._turn:
            while not self._free and not self._closed:
                await self._change()
            if self._free < wanted and not self._closed:
                with suppress(TimeoutError):
                    async with asyncio.timeout(_LINGER):
                        while self._free < wanted and not self._closed:
                            await self._change()
            if self._closed:
                return 0
            taken = min(self._free, wanted)
            self._free -= taken
            return taken

    async def wait(self) -> None:
        """Wait until a permit is free, or this is closed."""
        async with self._turn:
            while not self._free and not self._closed:
                await self._change()

    def give_back(self, count: int) -> None:
        """Give permits back."""
        self._free += count
        self._changed.set()

    def close(self) -> None:
        """Give no more permits, also to those who wait."""
        self._closed = True
        self._changed.set()

    async def _change(self) -> None:
        self._changed.clear()
        await self._changed.wait()
