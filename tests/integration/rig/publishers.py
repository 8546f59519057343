"""Publishers: an AMQP 0.9.1 client through a topic exchange, and rstream natively; both wait for the confirms."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Protocol
from urllib.parse import unquote, urlsplit

import aio_pika
from aio_pika.abc import AbstractExchange
from rstream import AMQPMessage, ConfirmationStatus, Producer, Properties
from rstream.recovery import BackOffRecoveryStrategy
from yarl import URL

from tests.integration.rig.events import Sent

__all__ = ["Publisher", "by_amqp", "natively"]

_AT_ONCE = 250
_CONFIRM_SECONDS = 30.0


class Publisher(Protocol):
    """Appends events to the stream, in order."""

    async def publish(self, events: Sequence[Sent]) -> None:
        """Return when the broker has confirmed every one."""


class _AmqpPublisher:
    def __init__(self, exchange: AbstractExchange) -> None:
        self._exchange = exchange

    async def publish(self, events: Sequence[Sent]) -> None:
        for begin in range(0, len(events), _AT_ONCE):
            await asyncio.gather(*(self._publish(event) for event in events[begin : begin + _AT_ONCE]))

    async def _publish(self, event: Sent) -> None:
        message = aio_pika.Message(
            event.body,
            message_id=event.id,
            content_type="application/json",
            delivery_mode=aio_pika.DeliveryMode.PERSISTENT,
        )
        await self._exchange.publish(message, event.routing_key, timeout=_CONFIRM_SECONDS)


@asynccontextmanager
async def _connected(amqp_url: str) -> AsyncIterator[aio_pika.Connection]:
    """A connection that is closed also where connecting fails: left to the garbage collector, it would warn there."""
    connection = aio_pika.Connection(URL(amqp_url))
    try:
        await connection.connect()
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def by_amqp(amqp_url: str, stream: str) -> AsyncIterator[Publisher]:
    """An AMQP 0.9.1 client; declares the stream and a topic exchange that routes everything to it."""
    async with _connected(amqp_url) as connection:
        channel = await connection.channel()
        queue = await channel.declare_queue(stream, durable=True, arguments={"x-queue-type": "stream"})
        exchange = await channel.declare_exchange(f"{stream}.topic", aio_pika.ExchangeType.TOPIC, durable=True)
        await queue.bind(exchange, "#")
        yield _AmqpPublisher(exchange)


class _NativePublisher:
    def __init__(self, producer: Producer, stream: str) -> None:
        self._producer = producer
        self._stream = stream

    async def publish(self, events: Sequence[Sent]) -> None:
        for begin in range(0, len(events), _AT_ONCE):
            await self._publish([_message(event) for event in events[begin : begin + _AT_ONCE]])

    async def _publish(self, messages: Sequence[AMQPMessage | bytes]) -> None:
        confirmed: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        left = len(messages)

        async def on_confirm(status: ConfirmationStatus) -> None:
            nonlocal left
            left -= 1
            if confirmed.done():
                return
            if not status.is_confirmed:
                confirmed.set_exception(ConnectionError(f"not confirmed: code {status.response_code}"))
            elif not left:
                confirmed.set_result(None)

        await self._producer.send_batch(self._stream, list(messages), on_publish_confirm=on_confirm)
        await asyncio.wait_for(confirmed, _CONFIRM_SECONDS)


def _message(event: Sent) -> AMQPMessage | bytes:
    if event.raw:
        return event.body
    properties = Properties(message_id=event.id, subject=event.routing_key, content_type="application/json")
    return AMQPMessage(body=event.body, properties=properties)


@asynccontextmanager
async def natively(stream_url: str, stream: str, *, recovers: bool = True) -> AsyncIterator[Publisher]:
    """A client of the stream protocol; the stream is there already. The routing key is the message's subject.

    With `recovers` it tries to mend a lost connection by itself.
    """
    url = urlsplit(stream_url)
    producer = Producer(
        host=url.hostname or "127.0.0.1",
        port=url.port or 5552,
        vhost=unquote(url.path.removeprefix("/")) or "/",
        username=unquote(url.username or "guest"),
        password=unquote(url.password or "guest"),
        recovery_strategy=BackOffRecoveryStrategy(enable=recovers),
    )
    async with producer:
        yield _NativePublisher(producer, stream)


async def delete(amqp_url: str, stream: str) -> None:
    """Delete the stream and its exchange."""
    async with _connected(amqp_url) as connection:
        channel = await connection.channel()
        await channel.queue_delete(stream)
        await channel.exchange_delete(f"{stream}.topic")
