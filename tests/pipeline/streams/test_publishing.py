"""Publishing through the broker."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from faststream.exceptions import FeatureNotSupportedException
from pydantic import BaseModel

from pipeline.connectors import BrokerRefused, Message, Outgoing
from pipeline.streams.broker import StreamBroker
from pipeline_plugins.memory import MemoryStore
from tests.pipeline.streams.inbox import Inbox, happens, publish


class Order(BaseModel):
    number: int


@pytest.mark.parametrize(
    ("body", "encoded", "content_type"),
    [
        (b"raw", b"raw", "application/octet-stream"),
        ("text ü", "text ü".encode(), "text/plain"),
        ({"a": [1, None]}, b'{"a":[1,null]}', "application/json"),
        (Order(number=1), b'{"number":1}', "application/json"),
        (None, b"", "application/octet-stream"),
    ],
)
async def test_a_body_is_encoded_by_its_type(
    store: MemoryStore, broker: StreamBroker, body: Any, encoded: bytes, content_type: str
) -> None:
    await broker.connect()
    await broker.publish(body, stream="s", routing_key="a.b", id="1", headers={"x": 1})

    (message,) = store.log("s").messages
    assert (message.body, message.content_type) == (encoded, content_type)
    assert (message.routing_key, message.id, message.headers) == ("a.b", "1", {"x": 1})


async def test_a_message_without_id_gets_one(store: MemoryStore, broker: StreamBroker) -> None:
    await broker.connect()
    await broker.publish({}, stream="s")
    await broker.publish_batch({}, {}, stream="s")

    ids = {message.id for message in store.log("s").messages}
    assert len(ids) == 3
    assert all(ids)


async def test_a_batch_is_published_in_one_call(store: MemoryStore, broker: StreamBroker) -> None:
    await broker.connect()
    await broker.publish_batch({"n": 1}, Outgoing(b"2", "own.key", "own"), stream="s", routing_key="a.b")

    first, second = store.log("s").messages
    assert (first.body, first.routing_key) == (b'{"n":1}', "a.b")
    assert (second.body, second.routing_key, second.id) == (b"2", "own.key", "own")


async def test_publishing_to_a_missing_stream_is_refused(broker: StreamBroker) -> None:
    await broker.connect()
    with pytest.raises(BrokerRefused, match="'missing'"):
        await broker.publish({}, stream="missing")


async def test_requests_are_refused_with_the_reason(broker: StreamBroker) -> None:
    await broker.connect()
    for request in (broker.request, broker.publisher("s").request):
        with pytest.raises(FeatureNotSupportedException, match="no replies"):
            await request({})


async def test_a_publisher_has_its_stream_key_and_headers(store: MemoryStore, broker: StreamBroker) -> None:
    publisher = broker.publisher("s", routing_key="a.b", headers={"x": 1})
    await broker.connect()
    await publisher.publish({}, headers={"y": 2})
    await publisher.publish({}, routing_key="c.d")

    first, second = store.log("s").messages
    assert (first.routing_key, first.headers) == ("a.b", {"x": 1, "y": 2})
    assert second.routing_key == "c.d"


@pytest.mark.parametrize(("batch", "bodies"), [(False, [b"[1,2]"]), (True, [b"1", b"2"])])
async def test_what_a_decorated_handler_returns_is_published(
    store: MemoryStore, broker: StreamBroker, batch: bool, bodies: list[bytes]
) -> None:
    store.create("out")
    publish(store, "a")

    @broker.publisher("out", routing_key="done", batch=batch)
    @broker.subscriber("s", group="g")
    async def handle(batch: list[Message]) -> list[int]:
        return [1, 2]

    await broker.start()
    await happens(lambda: store.log("out").messages)

    assert [message.body for message in store.log("out").messages] == bodies
    assert store.log("out").messages[0].routing_key == "done"


async def test_a_handler_that_returns_nothing_publishes_nothing(store: MemoryStore, broker: StreamBroker) -> None:
    store.create("out")
    publish(store, "a")
    inbox = Inbox()
    broker.publisher("out")(broker.subscriber("s", group="g")(inbox.__call__))
    await broker.start()
    await inbox.until(1)
    await asyncio.sleep(0.01)

    assert store.log("out").messages == []
