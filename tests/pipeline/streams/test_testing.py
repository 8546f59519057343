"""`TestStreamBroker`: FastStream's way to test handlers, on this broker."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.connectors import Message
from pipeline.streams.broker import StreamBroker
from pipeline.streams.testing import TestStreamBroker
from pipeline_plugins.memory import MemoryConnector


@pytest.fixture
def broker() -> StreamBroker:
    return StreamBroker(MemoryConnector("memory://testing"))


async def test_a_publish_calls_the_handler_at_once(broker: StreamBroker) -> None:
    got: list[Message] = []

    @broker.subscriber("s", group="g")
    async def handle(batch: list[Message]) -> None:
        got.extend(batch)

    async with TestStreamBroker(broker) as testing:
        await testing.publish({"n": 1}, stream="s", routing_key="a.b", id="1")
        await testing.publish_batch({"n": 2}, {"n": 3}, stream="s")
        handle.mock.assert_called()

    assert [message.body for message in got] == [b'{"n":1}', b'{"n":2}', b'{"n":3}']
    assert [message.offset for message in got] == [0, 1, 2]
    assert got[0].routing_key == "a.b"


async def test_what_the_handler_raises_the_publisher_sees(broker: StreamBroker) -> None:
    @broker.subscriber("s", group="g")
    async def handle(batch: list[Message]) -> None:
        raise ValueError("no")

    async with TestStreamBroker(broker) as testing:
        with pytest.raises(ValueError, match="no"):
            await testing.publish({}, stream="s")


async def test_other_streams_handlers_are_not_called(broker: StreamBroker) -> None:
    @broker.subscriber("other", group="g")
    async def handle(batch: list[Message]) -> None:
        raise AssertionError

    async with TestStreamBroker(broker) as testing:
        await testing.publish({}, stream="s")


async def test_a_publisher_s_messages_can_be_looked_at(broker: StreamBroker) -> None:
    publisher = broker.publisher("out")

    @publisher
    @broker.subscriber("s", group="g")
    async def handle(batch: list[Message]) -> dict[str, Any]:
        return {"count": len(batch)}

    async with TestStreamBroker(broker) as testing:
        await testing.publish({}, stream="s")
        (batch,) = publisher.mock.call_args.args

    assert [message.body for message in batch] == [b'{"count":1}']
