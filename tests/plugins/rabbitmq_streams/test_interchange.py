"""Messages of other clients arrive whole: an AMQP 0.9.1 client through an exchange, rstream, and our own."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from urllib.parse import urlsplit

import aio_pika
import pytest
import rstream
from rstream._pyamqp.message import Properties  # type: ignore[attr-defined]  # rstream has no public name for it

from pipeline.connectors import Outgoing
from pipeline_plugins.rabbitmq_streams import RabbitMQStreamsConnector
from tests.conftest import RabbitMQ
from tests.plugins.rabbitmq_streams.support import channel, connected, delete, ids, read


@pytest.fixture
async def connector(rabbitmq: RabbitMQ) -> AsyncIterator[RabbitMQStreamsConnector]:
    async with connected(rabbitmq.stream_url) as connector:
        yield connector


@pytest.fixture
async def stream(connector: RabbitMQStreamsConnector, stream_name: str) -> AsyncIterator[str]:
    await connector.create_stream(stream_name)
    yield stream_name
    await delete(connector, stream_name)


@pytest.fixture
async def producer(rabbitmq: RabbitMQ) -> AsyncIterator[rstream.Producer]:
    url = urlsplit(rabbitmq.stream_url)
    async with rstream.Producer(
        str(url.hostname), port=int(url.port or 0), username=str(url.username), password=str(url.password)
    ) as producer:
        yield producer


async def test_a_message_published_through_a_topic_exchange(
    connector: RabbitMQStreamsConnector, stream_name: str, rabbitmq: RabbitMQ
) -> None:
    message = aio_pika.Message(
        b'{"a": 1}',
        message_id="id-1",
        content_type="application/json",
        headers={"tenant": "acme", "x-trace": "t1", "tries": 3, "urgent": True, "ratio": 0.5},
        timestamp=datetime(2026, 1, 2, tzinfo=UTC),
        type="event",
        app_id="tests",
    )
    async with channel(rabbitmq.amqp_url) as amqp:
        exchange = await amqp.declare_exchange(f"x.{stream_name}", "topic", auto_delete=True)
        queue = await amqp.declare_queue(stream_name, durable=True, arguments={"x-queue-type": "stream"})
        await queue.bind(exchange, "admin.#")
        await exchange.publish(message, "admin.workflow.paused")
        await exchange.publish(aio_pika.Message(b""), "admin.ü")

        paused, empty = await read(connector, stream_name, 2)
        await queue.delete()

    assert paused.defect is None
    assert (paused.routing_key, paused.id, paused.content_type) == (
        "admin.workflow.paused", "id-1", "application/json",
    )  # fmt: skip
    assert paused.body == b'{"a": 1}'
    expected = {"tenant": "acme", "x-trace": "t1", "tries": 3, "urgent": True, "ratio": 0.5}
    assert {name: paused.headers[name] for name in expected} == expected
    assert not {"x-exchange", "x-routing-key"} & set(paused.headers)
    assert (empty.routing_key, empty.body, empty.content_type, empty.defect) == ("admin.ü", b"", None, None)
    assert len(empty.id or "") == 32  # aio-pika makes one up
    assert [paused.offset, empty.offset] == [0, 1]


async def test_a_message_published_by_rstream(
    connector: RabbitMQStreamsConnector, stream: str, producer: rstream.Producer
) -> None:
    id_ = uuid.uuid4()
    subject = rstream.AMQPMessage(
        body=b"1",
        properties=Properties(message_id=id_, subject="a.b", content_type="text/plain"),
        application_properties={"k": "v", "n": 7},
    )
    annotated = rstream.AMQPMessage(body=b"2", message_annotations={"x-routing-key": "c.d"})
    header = rstream.AMQPMessage(body=b"3", application_properties={"routing_key": "e.f"})
    for message in (subject, annotated, header, rstream.AMQPMessage(body=b"4"), b"raw"):
        await producer.send_wait(stream, message)

    found = await read(connector, stream, 5)

    assert [message.routing_key for message in found] == ["a.b", "c.d", "e.f", None, None]
    assert (found[0].id, found[0].content_type, found[0].headers) == (str(id_), "text/plain", {"k": "v", "n": 7})
    assert [message.body for message in found] == [b"1", b"2", b"3", b"4", b"raw"]
    assert [message.defect for message in found] == [None] * 4 + ["not an AMQP 1.0 message"]


async def test_messages_that_rstream_compresses_keep_their_offsets(
    connector: RabbitMQStreamsConnector, stream: str, producer: rstream.Producer
) -> None:
    def batch(first: int) -> list[rstream.AMQPMessage]:
        return [
            rstream.AMQPMessage(body=b"x", properties=Properties(message_id=str(number)))
            for number in range(first, first + 100)
        ]

    await producer.send_sub_entry(stream, batch(0), rstream.CompressionType.Gzip)
    await producer.send_sub_entry(stream, batch(100), rstream.CompressionType.No)
    async with asyncio.timeout(20):
        while (await connector.bounds(stream)).last != 199:
            await asyncio.sleep(0.05)

    found = await read(connector, stream, 200)
    assert [message.offset for message in found] == ids(found) == list(range(200))


async def test_our_own_message_is_read_by_an_amqp_client(
    connector: RabbitMQStreamsConnector, stream: str, rabbitmq: RabbitMQ
) -> None:
    await connector.publish(stream, [Outgoing(b'{"a": 1}', "a.b", "id-1", {"k": "v", "n": 7, "yes": True})])

    async with channel(rabbitmq.amqp_url) as amqp:
        await amqp.set_qos(prefetch_count=10)
        queue = await amqp.get_queue(stream)
        came: asyncio.Future[aio_pika.abc.AbstractIncomingMessage] = asyncio.get_running_loop().create_future()

        async def keep(message: aio_pika.abc.AbstractIncomingMessage) -> None:
            await message.ack()
            if not came.done():
                came.set_result(message)

        tag = await queue.consume(keep, arguments={"x-stream-offset": "first"})
        message = await asyncio.wait_for(came, 20)
        await queue.cancel(tag)

    assert message.body == b'{"a": 1}'
    assert (message.message_id, message.content_type) == ("id-1", "application/json")
    assert {name: message.headers[name] for name in ("k", "n", "yes")} == {"k": "v", "n": 7, "yes": True}
