"""The producer: publishes at a steady rate, and repeats with the same id whatever the broker did not confirm."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack, suppress

from tests.chaos.entries import Entry, Ledger
from tests.chaos.mix import Mix
from tests.integration.rig.publishers import Publisher, natively

__all__ = ["Producer", "publish_steadily"]

_CONFIRM_SECONDS = 6.0
_PAUSE = 0.2
_MOST_AT_ONCE = 250
_TICK = 0.05


class Producer:
    """Publishes to one stream, in order, and enters in the ledger what was confirmed.

    A piece is published again until all of it is confirmed, and the next one only then: so the first copies of all
    events lie in the stream in their order, however often some came twice.

    Args:
        url: The broker, by the stream protocol; past every proxy.
        stream: The stream's name.
        ledger: Where what was confirmed is entered.
    """

    def __init__(self, url: str, stream: str, ledger: Ledger) -> None:
        self._url = url
        self._stream = stream
        self._ledger = ledger
        self._stack = AsyncExitStack()
        self._publisher: Publisher | None = None

    async def publish(self, entries: Sequence[Entry]) -> None:
        """Return when the broker has confirmed every one."""
        if not entries:
            return
        events = [entry.event for entry in entries]
        while True:
            try:
                async with asyncio.timeout(_CONFIRM_SECONDS):
                    if self._publisher is None:
                        connecting = natively(self._url, self._stream, recovers=False)
                        self._publisher = await self._stack.enter_async_context(connecting)
                    await self._publisher.publish(events)
            except Exception:
                self._ledger.uncertain += len(entries)
                await self.close()
                await asyncio.sleep(_PAUSE)
            else:
                self._ledger.confirm(entries)
                return

    async def close(self) -> None:
        """Let go of the connection, also of one that does not answer."""
        stack, self._stack, self._publisher = self._stack, AsyncExitStack(), None
        with suppress(Exception):
            async with asyncio.timeout(1.0):
                await stack.aclose()


async def publish_steadily(
    mix: Mix,
    producers: Mapping[str, Producer],
    rate: float,
    total: int,
) -> None:
    """Publish so many events a second, and catch up after an outage.

    Args:
        mix: What to publish.
        producers: By source.
        rate: Events a second.
        total: How many there are, repeats left out.
    """
    began, published = time.monotonic(), 0
    while published < total:
        due = int((time.monotonic() - began) * rate) - published
        if due <= 0:
            await asyncio.sleep(_TICK)
            continue
        count = min(due, _MOST_AT_ONCE, total - published)
        entries = mix.take(count)
        by_source = {name: [entry for entry in entries if entry.source == name] for name in producers}
        await asyncio.gather(*(producers[name].publish(part) for name, part in by_source.items()))
        published += count
