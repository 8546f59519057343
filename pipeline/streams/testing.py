"""FastStream's way to test handlers: `publish` calls them at once, without a connector."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any, cast

from faststream._internal.testing.broker import EnterType, TestBroker, change_producer

from pipeline.connectors import Connector, Message
from pipeline.streams.broker import StreamBroker
from pipeline.streams.producer import StreamProducer, StreamPublishCommand
from pipeline.streams.publisher import StreamPublisher
from pipeline.streams.subscriber import StreamSubscriber

__all__ = ["TestStreamBroker"]


class TestStreamBroker(TestBroker[StreamBroker, EnterType], broker=StreamBroker):
    """Use as ``async with TestStreamBroker(broker) as broker:``, then publish and look at ``handler.mock``.

    A handler gets each publish as one batch, in the publisher's task: what it raises, `publish` raises. To test
    against a stream that keeps its messages, use a broker over ``memory://`` instead.
    """

    @contextmanager
    def _patch_producer(self, broker: StreamBroker) -> Generator[None, None, None]:
        with change_producer(broker.config.broker_config, _CallingProducer(broker.connector, self.brokers)):
            yield

    def create_publisher_fake_subscriber(
        self, broker: StreamBroker, publisher: StreamPublisher
    ) -> tuple[StreamSubscriber, bool]:
        """The subscriber of the publisher's stream; a new one where there is none."""
        for subscriber in _subscribers(self.brokers):
            if subscriber.stream == publisher.stream:
                return subscriber, True
        return broker.subscriber(publisher.stream, group="test", persistent=False), False

    async def _fake_connect(self, broker: StreamBroker, *args: Any, **kwargs: Any) -> Connector:  # type: ignore[override]
        return broker.connector


class _CallingProducer(StreamProducer):
    """Calls the subscribers of the stream in place of publishing to it."""

    def __init__(self, connector: Connector, brokers: tuple[StreamBroker, ...]) -> None:
        super().__init__(connector)
        self._brokers = brokers
        self._next = 0

    async def publish(self, cmd: StreamPublishCommand) -> None:
        batch = self._delivered(cmd)
        for subscriber in _subscribers(self._brokers):
            if subscriber.stream == cmd.destination and subscriber.calls and batch:
                await subscriber.process_message(batch)

    publish_batch = publish

    def _delivered(self, cmd: StreamPublishCommand) -> list[Message]:
        now = time.time_ns() // 1_000_000
        outgoing = cmd.outgoing()
        first, self._next = self._next, self._next + len(outgoing)
        return [
            Message(offset, now, out.body, out.routing_key, out.id, out.headers, out.content_type)
            for offset, out in enumerate(outgoing, first)
        ]


def _subscribers(brokers: tuple[StreamBroker, ...]) -> list[StreamSubscriber]:
    return [cast("StreamSubscriber", subscriber) for broker in brokers for subscriber in broker.subscribers]
