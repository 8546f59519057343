"""How long `follow` waits between tries, and what counts as a success."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pipeline.connectors import MessageBatch
from pipeline.errors import Unavailable
from pipeline.streams.follow import Following
from pipeline_plugins.memory import MemoryConnector, MemoryStore
from tests.pipeline.streams.follower import Follower, publish


@pytest.fixture
def connector(store: MemoryStore) -> MemoryConnector:
    return MemoryConnector("memory://follow", store)


class Waits:
    """Takes the place of `asyncio.sleep`: passes at once, and stops for good after `stop` waits."""

    def __init__(self, stop: int) -> None:
        self.seconds: list[float] = []
        self.full = asyncio.Event()
        self._stop = stop
        self._sleep = asyncio.sleep

    async def __call__(self, seconds: float) -> None:
        if seconds:
            self.seconds.append(seconds)
            if len(self.seconds) == self._stop:
                self.full.set()
                await asyncio.Event().wait()
        await self._sleep(0)


async def test_waits_double_up_to_the_longest(
    store: MemoryStore, connector: MemoryConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = Waits(stop=6)
    monkeypatch.setattr("pipeline.streams.follow.asyncio.sleep", waits)
    store.fail()
    follower = Follower(connector, how=Following(first_wait=0.1, longest_wait=1.0, jitter=0.0))
    await asyncio.wait_for(waits.full.wait(), 5)
    await follower.end()

    assert waits.seconds == pytest.approx([0.1, 0.2, 0.4, 0.8, 1.0, 1.0])


async def test_a_read_that_delivered_begins_the_waits_anew(store: MemoryStore, monkeypatch: pytest.MonkeyPatch) -> None:
    class Lossy(MemoryConnector):
        reads = 0

        async def read(self, *args: Any, **kwargs: Any) -> AsyncIterator[MessageBatch]:
            self.reads += 1
            if self.reads in (3, 5):
                yield store.log("s").messages
            raise Unavailable("broker", "lost")

    waits = Waits(stop=7)
    monkeypatch.setattr("pipeline.streams.follow.asyncio.sleep", waits)
    publish(store, 1)
    how = Following(first_wait=0.1, longest_wait=1.0, jitter=0.0)
    follower = Follower(Lossy("memory://x", store), how=how)
    await asyncio.wait_for(waits.full.wait(), 5)
    await follower.end()

    assert waits.seconds == pytest.approx([0.1, 0.2, 0.1, 0.2, 0.1, 0.2, 0.4])
