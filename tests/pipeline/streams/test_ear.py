"""A read that is alive and deaf is noticed and made anew; one that has nothing to deliver is left alone."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest

from pipeline.connectors import MessageBatch, Start, StreamBounds
from pipeline.streams.follow import follow
from pipeline_plugins.memory import MemoryConnector, MemoryStore
from tests.pipeline.dispatch.harness import eventually
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


class Silent(Listened):
    """Its first `silent` reads deliver nothing."""

    silent = 1

    async def read(self, stream: str, start: Start, **named: Any) -> AsyncIterator[MessageBatch]:
        self.reads += 1
        if self.reads <= self.silent:
            await asyncio.Event().wait()
        async for batch in MemoryConnector.read(self, stream, start, **named):
            yield batch


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
    publish(store, 1)
    follower = Follower(Silent("memory://x", store), how=KEEN)
    await follower.until(numbers=[1])
    await follower.end()


async def test_a_read_that_stays_deaf_stays_down_until_something_comes(store: MemoryStore) -> None:
    connector = Silent("memory://x", store)
    connector.silent = 3
    publish(store, 1)
    follower = Follower(connector, how=KEEN)
    await follower.until(numbers=[1])
    await follower.end()
    assert connector.reads == 4
    told = [state.partition(":")[0] for state in follower.states]
    assert (told[0], {*told[1:-1]}, told[-1]) == ("reading", {"down"}, "reading")


async def test_a_read_that_stays_deaf_is_made_anew_ever_less_often(
    store: MemoryStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    began: list[float] = []

    class Timed(Silent):
        silent = 100

        async def read(self, stream: str, start: Start, **named: Any) -> AsyncIterator[MessageBatch]:
            began.append(asyncio.get_running_loop().time())
            async for batch in super().read(stream, start, **named):
                yield batch

    publish(store, 1)
    follower = Follower(Timed("memory://x", store), how=KEEN)
    await eventually(lambda: len(began) == 4)
    await follower.end()
    lasted = [later - sooner for sooner, later in pairwise(began)]
    assert all(seconds > times * KEEN.deaf for seconds, times in zip(lasted, (1, 2, 4), strict=True)), lasted


async def test_a_read_of_which_nothing_is_missing_any_more_is_well_again(store: MemoryStore) -> None:
    connector = Silent("memory://x", store)
    connector.silent = 2
    publish(store, 1)
    follower = Follower(connector, how=KEEN)
    await follower.until(state="down")
    follower.position = 1  # as after a replay, or where another reader was lent the work
    await follower.until(state="reading")
    await follower.end()
    assert follower.numbers == []


@pytest.mark.parametrize("at", ["first", "last", "time", "next"])
async def test_a_read_that_did_not_begin_at_an_offset_is_listened_to_before_its_first_batch(
    store: MemoryStore, at: Any
) -> None:
    class Beginning(Follower):
        async def start(self) -> Start:
            return Start(at)

    publish(store, 1)
    connector = Silent("memory://x", store)
    follower = Beginning(connector, how=KEEN)
    await eventually(lambda: connector.asked > 1)  # what comes now is to be delivered, wherever it began
    publish(store, 2)
    await follower.until(state="down")
    await follower.end()


@pytest.mark.parametrize("start", [Start("time", 2**62), Start("next")])
async def test_what_lies_before_the_start_is_not_missed(store: MemoryStore, start: Start) -> None:
    class Beginning(Follower):
        async def start(self) -> Start:
            return start

    publish(store, 1)
    connector = Listened("memory://x", store)
    follower = Beginning(connector, how=KEEN)
    await eventually(lambda: connector.asked > 3)
    await follower.end()
    assert follower.states == ["reading"]


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
