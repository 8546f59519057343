"""While a stream is read: retention cuts it, its leader moves. Nothing is passed over silently."""

from __future__ import annotations

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator

import pytest

from pipeline.connectors import Message, Start
from pipeline.errors import Unavailable
from pipeline.streams.follow import StreamState, follow
from pipeline_plugins.rabbitmq_streams import RabbitMQStreamsConnector
from tests.conftest import RabbitMQ
from tests.plugins.rabbitmq_streams.support import (
    PATIENCE,
    batches,
    channel,
    connected,
    delete,
    events,
    eventually,
    following,
    ids,
    read_on,
)

STREAM_NOT_AVAILABLE = 6
BODY = bytes(4000)


@pytest.fixture
async def connector(rabbitmq: RabbitMQ) -> AsyncIterator[RabbitMQStreamsConnector]:
    async with connected(rabbitmq.stream_url) as connector:
        yield connector


def moved(stream: str) -> bytes:
    """The frame `MetadataUpdate`, by which RabbitMQ says that a stream's leader or replicas changed."""
    name = stream.encode()
    return struct.pack(">HHHH", 0x0010, 1, STREAM_NOT_AVAILABLE, len(name)) + name


async def test_a_stream_whose_leader_moved_is_read_on_without_a_gap_or_a_repeat(
    connector: RabbitMQStreamsConnector, stream_name: str
) -> None:
    await connector.create_stream(stream_name)
    await connector.publish(stream_name, events(1, 5))
    found: list[Message] = []
    states: list[StreamState] = []

    async def start() -> Start:
        return Start("offset", found[-1].offset + 1) if found else Start("first")

    async def publish_once_it_is_noticed() -> None:
        await eventually(lambda: states[-1].status == "down", "the reader is told")
        await connector.publish(stream_name, events(6, 10))

    async with contextlib.aclosing(
        follow(connector, stream_name, start, name="test", on_state=states.append)
    ) as reading, asyncio.timeout(PATIENCE):  # fmt: skip
        async for batch in reading:
            found += batch
            if len(found) == 5:
                [link] = connector._readers
                link.received(moved(stream_name))
                later = asyncio.create_task(publish_once_it_is_noticed())
            if len(found) >= 10:
                break
    await later
    assert ids(found) == list(range(1, 11))
    assert [state.status for state in states] == ["reading", "down", "reading"]
    assert "has moved to another node" in states[1].reason
    await delete(connector, stream_name)


async def test_what_retention_removes_under_a_reader_is_not_passed_over_silently(
    rabbitmq: RabbitMQ, connector: RabbitMQStreamsConnector, stream_name: str
) -> None:
    small = {"x-queue-type": "stream", "x-max-length-bytes": 1_000_000, "x-stream-max-segment-size-bytes": 250_000}
    async with channel(rabbitmq.amqp_url) as amqp:
        await amqp.declare_queue(stream_name, durable=True, arguments=small)
    await connector.publish(stream_name, events(1, 20, BODY))
    reader = batches(connector, stream_name, max_batch=5)
    found = await following(reader)
    last, removed = 20, 0
    async with asyncio.timeout(PATIENCE):
        while removed < 2500:  # more than the reader may have been sent before it paused
            await connector.publish(stream_name, events(last + 1, last + 250, BODY))
            last += 250
            removed = (await connector.bounds(stream_name)).first or 0
    with pytest.raises(Unavailable, match=r"retention removed offsets \d+ to \d+ of the stream"):
        await read_on(reader, found)
    assert ids(found) == list(range(1, len(found) + 1))
    assert len(found) < removed
    await delete(connector, stream_name)


async def test_offsets_that_the_broker_takes_for_itself_are_not_taken_for_a_loss(
    connector: RabbitMQStreamsConnector, stream_name: str
) -> None:
    await connector.create_stream(stream_name)
    await connector.publish(stream_name, events(1, 1))
    reader = batches(connector, stream_name)
    found = await following(reader)
    async with asyncio.timeout(PATIENCE):
        while found[-1].offset < len(found):  # until a stored offset lies between two messages
            await connector.store_offset(stream_name, "group", found[-1].offset)
            await connector.publish(stream_name, events(len(found) + 1, len(found) + 1))
            found += await following(reader)
    assert ids(found) == list(range(1, len(found) + 1))
    await reader.aclose()
    await delete(connector, stream_name)
