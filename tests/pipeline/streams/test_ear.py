"""A read that is alive and deaf is noticed and made anew; one that has nothing to deliver is left alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest

from pipeline.connectors import MessageBatch, Start, StreamBounds
from pipeline.streams.follow import follow
from pipeline_plugins.memory import MemoryConnector, MemoryStore
from tests.pipeline.streams.follower import QUICK, Follower, publish

KEEN = replace(QUICK, deaf=0.02)


class Listened(MemoryConnector):
    """Counts reads and questions; the first `deaf` reads deliver one batch, and nothing ever after."""

    reads = 0
    deaf = 0
    asked = 0

    async def read(self, stream: str, start: Start, **named: Any) -> AsyncIterator[MessageBatch]:
        self.reads += 1
        deaf = self.reads <= self.deaf
        async for batch in super().read(stream, start, **named):
            yield batch
            if deaf:
                await asyncio.Event().wait()

    async def bounds(self, stream: str) -> StreamBounds:
        self.asked += 1
        return await super().bounds(stream)


@pytest.fixture
def connector(store: MemoryStore) -> Listened:
    return Listened("memory://follow", store)


async def test_a_deaf_read_is_made_anew_and_that_is_said(
    store: MemoryStore, connector: Listened, caplog: pytest.LogCaptureFixture
) -> None:
    connector.deaf = 1
    publish(store, 1)
    follower = Follower(connector, how=KEEN)
    await follower.until(numbers=[1])
    publish(store, 2, 3)
    await follower.until(numbers=[1, 2, 3])
    await follower.end()
    assert connector.reads == 2
    assert "although the stream s holds messages up to 2: the connection is deaf" in caplog.text
    assert [state.partition(":")[0] for state in follower.states] == ["reading", "down", "reading"]


async def test_a_read_that_is_deaf_from_the_start_is_noticed(store: MemoryStore) -> None:
    class Silent(Listened):
        async def read(self, stream: str, start: Start, **named: Any) -> AsyncIterator[MessageBatch]:
            if not self.reads:
                self.reads += 1
                await asyncio.Event().wait()
            async for batch in super().read(stream, start, **named):
                yield batch

    publish(store, 1)
    follower = Follower(Silent("memory://x", store), how=KEEN)
    await follower.until(numbers=[1])
    await follower.end()


async def test_an_idle_stream_is_not_taken_for_a_deaf_read(store: MemoryStore, connector: Listened) -> None:
    publish(store, 1)
    follower = Follower(connector, how=KEEN)
    await follower.until(numbers=[1])
    async with asyncio.timeout(5):
        while connector.asked < 4:  # once before the read, and then again and again
            await asyncio.sleep(0.005)
    publish(store, 2)
    await follower.until(numbers=[1, 2])
    await follower.end()
    assert connector.reads == 1


async def test_a_consumer_that_takes_its_time_is_not_taken_for_a_deaf_read(
    store: MemoryStore, connector: Listened
) -> None:
    async def start() -> Start:
        return Start("first")

    publish(store, 1, 2)
    async with contextlib.aclosing(follow(connector, "s", start, name="test", max_batch=1, how=KEEN)) as batches:
        first = await anext(batches)
        await asyncio.sleep(5 * KEEN.deaf)
        second = await anext(batches)
    assert [message.id for message in (*first, *second)] == ["1", "2"]
    assert (connector.reads, connector.asked) == (1, 1)
