"""What the tests of the bridge are written with."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from pipeline.connectors import Message, Outgoing
from pipeline.streams.broker import StreamBroker
from pipeline.streams.follow import Following
from pipeline_plugins.memory import MemoryStore

QUICK = Following(first_wait=0.001, longest_wait=0.004, jitter=0.0)


class Inbox:
    """A handler that keeps what it gets."""

    def __init__(self) -> None:
        self.batches: list[list[Message]] = []
        self._changed = asyncio.Event()

    async def __call__(self, batch: list[Message]) -> None:
        self.batches.append(batch)
        self._changed.set()

    @property
    def ids(self) -> list[str | None]:
        return [message.id for batch in self.batches for message in batch]

    async def until(self, count: int) -> None:
        async with asyncio.timeout(5):
            while len(self.ids) < count:
                self._changed.clear()
                await self._changed.wait()


def subscribe(broker: StreamBroker, inbox: Callable[[list[Message]], Awaitable[Any]], **options: Any) -> Any:
    options = {"group": "g", "how": QUICK, **options}
    subscriber = broker.subscriber("s", **options)

    async def handle(batch: list[Message]) -> Any:
        return await inbox(batch)

    subscriber(handle)
    return subscriber


def publish(store: MemoryStore, *ids: str) -> None:
    store.append("s", [Outgoing(b"{}", "a.b", each) for each in ids])


async def happens(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(5):
        while not condition():
            await asyncio.sleep(0.001)
