"""An ear on a read: notices one that is alive and deaf, for the stream holds more than it delivers."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from time import monotonic
from types import TracebackType
from typing import Final, Self

from pipeline.connectors import Connector, MessageBatch, Start
from pipeline.errors import Unavailable

__all__ = ["Deaf", "Ear"]

_NOTHING: Final = -1
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
        patience: After so many seconds without a batch the broker is asked, and then again and again.
        limit: After so many seconds without a batch, though there is something, the read is ended.
        answer: Seconds that the broker may take to answer.
        on_well: Called whenever the broker was asked, and holds nothing that was not delivered.
    """

    def __init__(
        self,
        connector: Connector,
        stream: str,
        start: Start,
        patience: float,
        limit: float,
        answer: float,
        on_well: Callable[[], None] = lambda: None,
    ) -> None:
        self._connector = connector
        self._stream = stream
        self._start = start
        self._patience = patience
        self._limit = limit
        self._answer = answer
        self._on_well = on_well
        self._last = {"offset": start.value - 1, "first": -1}.get(start.at)
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
        since, missed = self._since, await self._missing()
        if missed == _NOTHING:
            self._on_well()
        elif missed is not None and monotonic() - since >= self._limit:
            again = asyncio.get_running_loop().create_future()
            asyncio.get_running_loop().call_later(self._patience * _SURE, again.cancel)
            await asyncio.wait([again])
            missed = await self._missing()
            if missed not in (None, _NOTHING) and self._wait is not None and self._since == since:
                self._missed = missed
                self._wait.reschedule(asyncio.get_running_loop().time())
                return
        self._look_in(self._patience)

    async def _missing(self) -> int | None:
        """The last offset of the stream where it was not delivered; None where that can't be told."""
        try:
            async with asyncio.timeout(self._answer):
                last = (await self._connector.bounds(self._stream)).last
                if last is None:
                    return _NOTHING
                if self._last is None:
                    return await self._missing_of_first(last)
        except Exception:  # noqa: BLE001 - whatever it is, the read notices it by itself, and this must go on
            return None
        return last if last > self._last else _NOTHING

    async def _missing_of_first(self, last: int) -> int | None:
        """The same for a read that delivered nothing yet, and did not say at which offset it begins."""
        if self._start.at == "next":
            self._last = last  # it stands by now: all that comes behind this is to be delivered
            return _NOTHING
        newest = await self._connector.timestamp_at(self._stream, last)  # `last` has the value 0: it is to come at once
        if newest is None:
            return None
        return last if newest >= self._start.value else _NOTHING
