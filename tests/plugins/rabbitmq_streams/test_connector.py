"""The connector at a real broker: streams and groups, start positions, bounded memory, publishing."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import pytest

from pipeline.connectors import BrokerRefused, Message, Start, StreamBounds
from pipeline_plugins.rabbitmq_streams import RabbitMQStreamsConnector
from pipeline_plugins.rabbitmq_streams.cluster import subscribe
from pipeline_plugins.rabbitmq_streams.reader import MAX_BYTES, MAX_CHUNKS
from tests.conftest import RabbitMQ
from tests.plugins.rabbitmq_streams.support import (
    batches,
    channel,
    connected,
    delete,
    events,
    eventually,
    following,
    ids,
    read,
)


@pytest.fixture
async def connector(rabbitmq: RabbitMQ) -> AsyncIterator[RabbitMQStreamsConnector]:
    async with connected(rabbitmq.stream_url) as connector:
        yield connector


@pytest.fixture
async def stream(connector: RabbitMQStreamsConnector, stream_name: str) -> AsyncIterator[str]:
    await connector.create_stream(stream_name)
    yield stream_name
    await delete(connector, stream_name)


def test_registering_the_connector_imports_no_client_library() -> None:
    code = (
        "import sys, pipeline_plugins.rabbitmq_streams as p; p.pipeline_connectors()[0]('rabbitmq-stream://h');"
        "sys.exit(bool({'rstream', 'aio_pika'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# Streams and groups.


async def test_a_missing_stream_is_refused_with_how_to_create_it(connector: RabbitMQStreamsConnector) -> None:
    for asked in (
        anext(connector.read("test.none", Start("first"), name="test")),
        connector.publish("test.none", events(1, 1)),
        connector.bounds("test.none"),
        connector.timestamp_at("test.none", 0),
        connector.stored_offset("test.none", "group"),
    ):
        with pytest.raises(BrokerRefused, match=r"no stream 'test\.none'.*rabbitmqadmin declare.*create_streams"):
            await asked


async def test_a_stream_with_other_arguments_is_left_as_it_is(
    connector: RabbitMQStreamsConnector, stream_name: str, rabbitmq: RabbitMQ
) -> None:
    arguments: Any = {"x-queue-type": "stream", "x-max-length-bytes": 5_000_000}
    async with channel(rabbitmq.amqp_url) as amqp:
        await amqp.declare_queue(stream_name, durable=True, arguments=arguments)
        await connector.create_stream(stream_name)
        await amqp.declare_queue(stream_name, durable=True, arguments=arguments)  # would fail with others
    await delete(connector, stream_name)


async def test_a_queue_that_is_no_stream_is_refused(
    connector: RabbitMQStreamsConnector, stream_name: str, rabbitmq: RabbitMQ
) -> None:
    async with channel(rabbitmq.amqp_url) as amqp:
        await amqp.declare_queue(stream_name, durable=True)
        try:
            with pytest.raises(BrokerRefused):
                await following(batches(connector, stream_name))
        finally:
            await amqp.queue_delete(stream_name)


async def test_names_may_hold_any_letters(connector: RabbitMQStreamsConnector, stream_name: str) -> None:
    stream, group = f"{stream_name}.größe.🙂", "gruppe-ü"
    await connector.create_stream(stream)
    try:
        await connector.publish(stream, events(1, 3))
        assert ids(await read(connector, stream, 3)) == [1, 2, 3]
        await connector.store_offset(stream, group, 2)
        async with asyncio.timeout(20):
            while await connector.stored_offset(stream, group) != 2:
                await asyncio.sleep(0.02)
    finally:
        await delete(connector, stream)


@pytest.mark.parametrize("name", ["", "g" * 256, "\udc80"])
async def test_names_that_rabbitmq_would_drop_in_silence_are_refused(
    connector: RabbitMQStreamsConnector, stream: str, name: str
) -> None:
    for asked in (
        connector.store_offset(stream, name, 1),
        connector.stored_offset(stream, name),
        connector.create_stream(name),
        anext(connector.read(stream, Start("first"), name=name)),
    ):
        with pytest.raises(BrokerRefused):
            await asked


async def test_a_stream_with_nothing_but_a_stored_offset_is_empty(
    connector: RabbitMQStreamsConnector, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline_plugins.rabbitmq_streams.connector._PEEK_SECONDS", 0.2)
    await connector.store_offset(stream, "group", 5)
    async with asyncio.timeout(20):
        while await connector.stored_offset(stream, "group") != 5:
            await asyncio.sleep(0.02)
    assert await connector.bounds(stream) == StreamBounds(None, None)
    assert await connector.timestamp_at(stream, 0) is None


async def test_stored_offsets_leave_gaps_and_neither_bounds_nor_times_count_them(
    connector: RabbitMQStreamsConnector, stream: str
) -> None:
    for number in range(1, 6):
        await connector.publish(stream, events(number, number))
        await connector.store_offset(stream, "group", number)
        async with asyncio.timeout(20):
            while await connector.stored_offset(stream, "group") != number:
                await asyncio.sleep(0.02)

    messages = await read(connector, stream, 5)
    offsets = [message.offset for message in messages]
    assert ids(messages) == [1, 2, 3, 4, 5]
    assert offsets[-1] > 4  # the gaps
    assert await connector.bounds(stream) == StreamBounds(offsets[0], offsets[-1])
    times = [await connector.timestamp_at(stream, offset) for offset in range(offsets[-1] + 3)]
    expected = {message.offset: message.timestamp for message in messages}
    assert times == [expected.get(offset) for offset in range(offsets[-1] + 3)]


async def test_a_stream_that_was_trimmed_begins_where_its_oldest_segment_does(
    connector: RabbitMQStreamsConnector, stream_name: str, rabbitmq: RabbitMQ
) -> None:
    arguments: Any = {
        "x-queue-type": "stream", "x-max-length-bytes": 1_000_000, "x-stream-max-segment-size-bytes": 500_000,
    }  # fmt: skip
    async with channel(rabbitmq.amqp_url) as amqp:
        await amqp.declare_queue(stream_name, durable=True, arguments=arguments)
    for number in range(100):
        await connector.publish(stream_name, events(number, number, bytes(50_000)))
    async with asyncio.timeout(20):
        while not (await connector.bounds(stream_name)).first:
            await asyncio.sleep(0.05)

    bounds = await connector.bounds(stream_name)
    found = await read(connector, stream_name, 1, Start("offset", 3))
    assert found[0].offset == bounds.first
    assert bounds.last == 99
    assert await connector.timestamp_at(stream_name, 3) is None
    assert await connector.timestamp_at(stream_name, found[0].offset) == found[0].timestamp
    await delete(connector, stream_name)


# Reading.


async def test_an_offset_in_the_middle_of_a_chunk_is_exact(connector: RabbitMQStreamsConnector, stream: str) -> None:
    await connector.publish(stream, events(0, 4999))
    for offset in (0, 1, 2500, 4998):
        found = await read(connector, stream, 5000 - offset, Start("offset", offset))
        assert ids(found) == list(range(offset, 5000))


async def test_chunks_of_a_megabyte_are_all_delivered(connector: RabbitMQStreamsConnector, stream: str) -> None:
    # RabbitMQ holds chunks back where its credit is at most half of what the subscription began with, and so few large
    # ones are asked for at a time that it could come to that.
    for number in range(20):
        await connector.publish(stream, events(number, number, bytes(1_000_000)))
    assert ids(await read(connector, stream, 20)) == list(range(20))


async def test_a_reader_that_is_slow_holds_a_bounded_number_of_chunks(
    connector: RabbitMQStreamsConnector, stream: str
) -> None:
    for number in range(3 * MAX_CHUNKS):
        await connector.publish(stream, events(number, number))
    subscription = await subscribe(connector.address, "test", stream, Start("first"))
    try:
        found = await subscription.batch(1)
        for _ in range(20):
            found += await subscription.batch(1)
            assert subscription.granted + len(subscription.waiting) <= MAX_CHUNKS
        await eventually(lambda: subscription.granted == 0, "the broker has used its credit up")
        assert MAX_CHUNKS // 2 < len(subscription.waiting) <= MAX_CHUNKS
        while len(found) < 3 * MAX_CHUNKS:
            found += await subscription.batch(7)
            assert subscription.granted + len(subscription.waiting) <= MAX_CHUNKS
        assert ids(found) == list(range(3 * MAX_CHUNKS))
    finally:
        await subscription.link.close()


async def test_a_reader_that_is_slow_holds_a_bounded_number_of_bytes(
    connector: RabbitMQStreamsConnector, stream: str
) -> None:
    body = bytes(100_000)
    for number in range(0, 400, 5):
        await connector.publish(stream, events(number, number + 4, body))
    subscription = await subscribe(connector.address, "test", stream, Start("first"))
    try:
        found: list[Message] = []
        while len(found) < 400:
            found += await subscription.batch(7)
            if len(found) < 200:
                await eventually(lambda: subscription.granted == 0, "the broker has used its credit up")
            held = sum(chunk.size for chunk in subscription.waiting)
            assert held <= MAX_BYTES + max((chunk.size for chunk in subscription.waiting), default=0)
        assert ids(found) == list(range(400))
    finally:
        await subscription.link.close()


async def test_messages_wait_for_no_others(connector: RabbitMQStreamsConnector, stream: str) -> None:
    reader = batches(connector, stream)
    for number in range(20):
        await connector.publish(stream, events(number, number))
        assert ids(await asyncio.wait_for(anext(reader), 5)) == [number]
    await reader.aclose()


async def test_readers_and_publishers_keep_to_their_own_streams(
    connector: RabbitMQStreamsConnector, stream: str
) -> None:
    other = f"{stream}.other"
    await connector.create_stream(other)
    try:
        await asyncio.gather(connector.publish(stream, events(1, 50)), connector.publish(other, events(51, 100)))
        assert ids(await read(connector, stream, 50)) == list(range(1, 51))
        assert ids(await read(connector, other, 50)) == list(range(51, 101))
    finally:
        await delete(connector, other)


# Publishing.


async def test_a_call_with_a_message_that_is_too_large_is_refused_as_a_whole(
    connector: RabbitMQStreamsConnector, stream: str
) -> None:
    many = events(1, 5000)
    with pytest.raises(BrokerRefused, match="a message takes 11000"):
        await connector.publish(stream, [*many, *events(5001, 5001, bytes(1_100_000))])
    await connector.publish(stream, events(6000, 6000))
    assert ids(await read(connector, stream, 1)) == [6000]


async def test_many_large_messages_are_split_into_frames(connector: RabbitMQStreamsConnector, stream: str) -> None:
    await connector.publish(stream, events(1, 100, bytes(300_000)))
    assert ids(await read(connector, stream, 100)) == list(range(1, 101))


async def test_a_publish_that_is_cancelled_harms_no_other(connector: RabbitMQStreamsConnector, stream: str) -> None:
    await connector.publish(stream, events(1, 1))
    cancelled = asyncio.ensure_future(connector.publish(stream, events(2, 2000)))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    cancelled.cancel()
    await connector.publish(stream, events(3000, 3000))
    found = ids(await read(connector, stream, 2))
    while 3000 not in found:
        found = ids(await read(connector, stream, len(found) + 1))
    assert found[0] == 1
    assert (await asyncio.gather(cancelled, return_exceptions=True))[0] is not None
