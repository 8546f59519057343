"""An ear on a read: notices one that is alive and deaf, for the stream holds more than it delivers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from time import monotonic
from types import TracebackType
from typing import Self

from pipeline.connectors import Connector, MessageBatch, Start
from pipeline.errors import Unavailable

__all__ = ["Deaf", "Ear"]

_SURE = 0.1
"""The part of the patience after which a read that seems deaf is looked at again, before that is said."""


class Deaf(Unavailable):
    """A read that delivers nothing, although there is something."""


class Ear:
    """Listens to one read.

    Only the time counts in which a batch is waited for: a consumer that takes none hears nothing, and is not deaf.

    Args:
        connector: Knows what the stream holds.
        stream: The stream's name.
        start: Where the read began.
        patience: After so many seconds without a batch the broker is asked.
        answer: Seconds that the broker may take to answer.
    """

    def __init__(self, connector: Connector, stream: str, start: Start, patience: float, answer: float) -> None:
        self._connector = connector
        self._stream = stream
        self._patience = patience
        self._answer = answer
        first = {"offset": start.value, "first": 0}.get(start.at)
        self._last = None if first is None else first - 1
        self._since = monotonic()
        self._wait: asyncio.Timeout | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._check: asyncio.Task[None] | None = None
        self._missed: int | None = None

    async def __aenter__(self) -> Self:
        self._look_in(self._patience)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._check is not None:
            self._check.cancel()
            await asyncio.gather(self._check, return_exceptions=True)

    async def next(self, reading: AsyncGenerator[MessageBatch, None]) -> MessageBatch | None:
        """The next batch; None at the read's end.

        Raises:
            Deaf: The read has been ended.
        """
        self._since = monotonic()
        try:
            async with asyncio.timeout(None) as self._wait:
                batch = await anext(reading, None)
        except TimeoutError:
            if self._missed is None:
                raise
            raise Deaf(
                "broker",
                f"nothing was delivered for {monotonic() - self._since:.0f} s, although the stream {self._stream} "
                f"holds messages up to {self._missed}: the connection is deaf, and made anew",
            ) from None
        finally:
            self._wait = None
        if batch:
            self._last = batch[-1].offset
        return batch

    def _look_in(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._look)

    def _look(self) -> None:
        patience = self._patience - (monotonic() - self._since) if self._wait is not None else self._patience
        if patience > 0:
            self._look_in(patience)
        else:
            self._check = asyncio.create_task(self._ask(), name=f"listen to {self._stream}")

    async def _ask(self) -> None:
        """Ask twice, as what the stream holds may be on its way."""
        since = self._since
        if await self._missing() is not None:
            again = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(self._patience * _SURE, again.cancel)
            await asyncio.wait([again])
            missed = await self._missing()
            if missed is not None and self._wait is not None and self._since == since:
                self._missed = missed
                self._wait.reschedule(asyncio.get_running_loop().time())
                return
        self._look_in(self._patience)

    async def _missing(self) -> int | None:
        """The last offset of the stream where it was not delivered; None where it was, or can't be told."""
        if self._last is None:
            return None
        try:
            async with asyncio.timeout(self._answer):
                bounds = await self._connector.bounds(self._stream)
        except Exception:  # noqa: BLE001 - whatever it is, the read notices it by itself, and this must go on
            return None
        return bounds.last if bounds.last is not None and bounds.last > self._last else None
