"""What the tests against a real RabbitMQ share."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import NoReturn, cast

import aio_pika
from rstream import schema

from pipeline.connectors import Message, MessageBatch, Outgoing, Start
from pipeline_plugins.rabbitmq_streams import RabbitMQStreamsConnector
from pipeline_plugins.rabbitmq_streams.frames import Text
from pipeline_plugins.rabbitmq_streams.link import Link

PATIENCE = 30.0
"""Seconds after which what has not happened never will."""
FIRST = Start("first")


def events(first: int, last: int, body: bytes = b"{}") -> list[Outgoing]:
    """Messages with the ids `first` to `last`."""
    return [Outgoing(body, "a.b", str(number)) for number in range(first, last + 1)]


def ids(messages: list[Message]) -> list[int]:
    return [int(message.id or "-1") for message in messages]


def batches(
    connector: RabbitMQStreamsConnector, stream: str, start: Start = FIRST, max_batch: int = 500
) -> AsyncGenerator[MessageBatch, None]:
    """A reader, as the generator that it is."""
    return cast("AsyncGenerator[MessageBatch, None]", connector.read(stream, start, name="test", max_batch=max_batch))


async def following(reader: AsyncGenerator[MessageBatch, None]) -> MessageBatch:
    """The reader's next batch."""
    return await asyncio.wait_for(anext(reader), PATIENCE)


async def read_on(reader: AsyncGenerator[MessageBatch, None], messages: list[Message]) -> NoReturn:
    """Add all that the reader still gives; ends with what ends the reader."""
    while True:
        messages += await following(reader)


async def read(connector: RabbitMQStreamsConnector, stream: str, count: int, start: Start = FIRST) -> list[Message]:
    """That many messages from the start, or a few more."""
    messages: list[Message] = []
    reader = batches(connector, stream, start)
    try:
        while len(messages) < count:
            messages += await following(reader)
    finally:
        await reader.aclose()
    return messages


async def eventually(condition: Callable[[], bool], what: str) -> None:
    """Wait until it is so."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    while not condition():
        assert loop.time() - began < PATIENCE, f"it never came to pass that {what}"
        await asyncio.sleep(0.01)


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[RabbitMQStreamsConnector]:
    connector = RabbitMQStreamsConnector(url)
    await connector.connect()
    try:
        yield connector
    finally:
        await connector.close()


@asynccontextmanager
async def channel(amqp_url: str) -> AsyncIterator[aio_pika.abc.AbstractChannel]:
    """A channel of an AMQP 0.9.1 client."""
    connection = await aio_pika.connect(amqp_url)
    async with connection:
        yield await connection.channel()


async def delete(connector: RabbitMQStreamsConnector, stream: str) -> None:
    """Delete the stream; AMQP clients could not, where its name is not ASCII."""
    link = await Link.open(connector.address, "test")
    await link.request(schema.Delete, stream=Text(stream))
    await link.close()
