"""What the memory connector offers beyond the contract: a shared store, and failures on demand."""

from __future__ import annotations

import asyncio
import gc
from importlib.metadata import entry_points
from typing import Any

import pytest

from pipeline.connectors import BrokerRefused, Outgoing, Start, StreamBounds
from pipeline.errors import Unavailable
from pipeline_plugins.memory import MemoryConnector, MemoryStore, pipeline_connectors


def events(*ids: str) -> list[Outgoing]:
    return [Outgoing(b"{}", "a.b", each) for each in ids]


async def test_connectors_of_one_url_share_their_streams() -> None:
    one, other = MemoryConnector("memory://shared"), MemoryConnector("memory://shared")
    await one.connect()
    await other.connect()
    await one.create_stream("s")
    await one.publish("s", events("a"))

    assert await other.bounds("s") == StreamBounds(0, 0)


async def test_connectors_of_other_urls_do_not() -> None:
    one, other = MemoryConnector("memory://one"), MemoryConnector("memory://other")
    await one.connect()
    await other.connect()
    await one.create_stream("s")

    with pytest.raises(BrokerRefused, match="'s'"):
        await other.bounds("s")


async def test_a_store_is_forgotten_with_its_last_connector() -> None:
    first = MemoryConnector("memory://forgotten")
    await first.connect()
    await first.create_stream("s")
    del first
    gc.collect()
    second = MemoryConnector("memory://forgotten")
    await second.connect()

    with pytest.raises(BrokerRefused):
        await second.bounds("s")


async def test_a_store_of_one_s_own_outlives_connectors_and_is_not_shared() -> None:
    store = MemoryStore()
    first = MemoryConnector("memory://x", store)
    await first.connect()
    await first.create_stream("s")
    del first
    gc.collect()
    second, stranger = MemoryConnector("memory://x", store), MemoryConnector("memory://x")
    await second.connect()
    await stranger.connect()

    assert await second.bounds("s") == StreamBounds(None, None)
    with pytest.raises(BrokerRefused):
        await stranger.bounds("s")


async def test_a_failing_store_is_out_of_reach_until_it_recovers() -> None:
    store = MemoryStore()
    connector = MemoryConnector("memory://x", store)
    await connector.connect()
    await connector.create_stream("s")
    store.fail("pulled out")

    for call in (connector.connect, connector.probe):
        with pytest.raises(Unavailable, match="pulled out"):
            await call()
    with pytest.raises(Unavailable, match="pulled out"):
        await connector.publish("s", events("a"))

    store.recover()
    with pytest.raises(Unavailable, match="the connection was lost"):
        await connector.publish("s", events("a"))
    await connector.connect()
    await connector.publish("s", events("a"))


async def test_a_trimmed_stream_begins_later() -> None:
    store = MemoryStore()
    connector = MemoryConnector("memory://x", store)
    await connector.connect()
    await connector.create_stream("s")
    await connector.publish("s", events("a", "b", "c", "d"))
    store.trim("s", 2)

    assert await connector.bounds("s") == StreamBounds(2, 3)
    assert await connector.timestamp_at("s", 1) is None
    assert await connector.timestamp_at("s", 2) is not None
    for start in (Start("first"), Start("last"), Start("offset", 1), Start("time", 0)):
        batch = await anext(connector.read("s", start, name="test"))
        assert [message.offset for message in batch] == [2, 3]
    await connector.publish("s", events("e"))
    assert await connector.bounds("s") == StreamBounds(2, 4)


async def test_a_stream_that_is_trimmed_while_it_is_read_goes_on_with_what_is_left() -> None:
    store = MemoryStore()
    connector = MemoryConnector("memory://x", store)
    await connector.connect()
    await connector.create_stream("s")
    await connector.publish("s", events("a", "b", "c", "d"))
    batches = connector.read("s", Start("first"), name="test", max_batch=1)
    assert [message.offset for message in await anext(batches)] == [0]
    store.trim("s", 3)

    assert [message.offset for message in await anext(batches)] == [3]


async def test_last_begins_with_the_first_message_of_the_newest_chunk() -> None:
    connector = MemoryConnector("memory://x", MemoryStore())
    await connector.connect()
    await connector.create_stream("s")
    await connector.publish("s", events("a", "b"))
    await connector.publish("s", events("c", "d"))

    batch = await anext(connector.read("s", Start("last"), name="test"))
    assert [message.id for message in batch] == ["c", "d"]


async def test_a_reader_that_always_finds_more_lets_other_tasks_run() -> None:
    connector = MemoryConnector("memory://x", MemoryStore())
    await connector.connect()
    await connector.create_stream("s")
    await connector.publish("s", events(*map(str, range(1000))))
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    counting = asyncio.create_task(count_turns())
    batches = connector.read("s", Start("first"), name="test", max_batch=1)
    for _ in range(1000):
        await anext(batches)
    counting.cancel()

    assert turns > 900


async def test_timestamps_never_fall(monkeypatch: pytest.MonkeyPatch) -> None:
    connector = MemoryConnector("memory://x", MemoryStore())
    await connector.connect()
    await connector.create_stream("s")
    for now in (2_000, 1_000, 3_000):
        monkeypatch.setattr("pipeline_plugins.memory.time.time_ns", lambda now=now: now * 1_000_000)
        await connector.publish("s", events("a"))

    assert [await connector.timestamp_at("s", offset) for offset in (0, 1, 2)] == [2_000, 2_000, 3_000]


async def test_headers_are_the_publisher_s_as_they_were() -> None:
    connector = MemoryConnector("memory://x", MemoryStore())
    await connector.connect()
    await connector.create_stream("s")
    headers = {"x": 1}
    await connector.publish("s", [Outgoing(b"{}", "a.b", "a", headers)])
    headers["x"] = 2

    (message,) = await anext(connector.read("s", Start("first"), name="test"))
    assert message.headers == {"x": 1}


async def test_what_is_not_connected_says_so() -> None:
    with pytest.raises(Unavailable, match="not connected"):
        await MemoryConnector("memory://x").probe()


def test_it_is_loaded_through_its_entry_point() -> None:
    (entry,) = entry_points(group="pipeline", name="memory")
    module: Any = entry.load()

    assert list(module.pipeline_connectors()) == list(pipeline_connectors()) == [MemoryConnector]
