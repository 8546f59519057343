"""The pace of a replay: at most so many events per second, in small steps."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from time import monotonic
from typing import Final

from pipeline.connectors import Message, MessageBatch

__all__ = ["Pace"]

_STEP: Final = 0.1
"""Seconds that one step stands for, so that a batch of the broker's does not come as one burst."""


class Pace:
    """Lets messages pass in steps of a tenth of a second.

    What was not used while the replay was held up is not made up for.

    Args:
        rate: Events per second; None for no limit.
        counts: Whether a message is an event that the limit is for; those that no route takes are not.
        clock: Rising seconds.
        sleep: Waits for some seconds.
    """

    def __init__(
        self,
        rate: float | None,
        counts: Callable[[Message], bool] = lambda message: True,
        *,
        clock: Callable[[], float] = monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._rate = rate
        self._counts = counts
        self._clock = clock
        self._sleep = sleep
        self._free_at = clock()

    def steps(self, batch: MessageBatch) -> Iterator[tuple[MessageBatch, int]]:
        """The batch in pieces, each with the number of its messages that count."""
        if self._rate is None:
            yield batch, 0
            return
        most = max(1, int(self._rate * _STEP))
        piece: MessageBatch = []
        counted = 0
        for message in batch:
            piece.append(message)
            counted += self._counts(message)
            if counted == most:
                yield piece, counted
                piece, counted = [], 0
        if piece:
            yield piece, counted

    async def wait(self, counted: int) -> None:
        """Return when a piece with so many messages that count may pass."""
        if self._rate is None or not counted:
            return
        now = self._clock()
        if self._free_at > now:
            await self._sleep(self._free_at - now)
        self._free_at = max(self._free_at, now) + counted / self._rate
