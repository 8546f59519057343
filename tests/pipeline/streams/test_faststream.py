"""FastStream's own: middlewares, routers, applications, injection."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from faststream import BaseMiddleware, Context, FastStream
from faststream._internal.broker.router import SubscriberRoute
from faststream.exceptions import FeatureNotSupportedException

from pipeline.connectors import Message, Outgoing
from pipeline.streams.broker import StreamBroker
from pipeline.streams.message import StreamBatch
from pipeline.streams.registrator import StreamRouter
from pipeline_plugins.memory import MemoryConnector, MemoryStore
from tests.pipeline.streams.inbox import Inbox, happens, publish, subscribe


class Recorder(BaseMiddleware):
    """A middleware that notes what passes it."""

    notes: list[str]

    async def consume_scope(self, call_next: Any, msg: Any) -> Any:
        assert isinstance(msg, StreamBatch)
        self.notes.append(f"consume {len(msg.raw_message)} of {msg.stream} for {msg.group}: {await msg.decode()!r}")
        result = await super().consume_scope(call_next, msg)
        self.notes.append("consumed")
        return result

    async def publish_scope(self, call_next: Any, cmd: Any) -> Any:
        self.notes.append(f"publish {len(cmd.batch_bodies)} to {cmd.destination}")
        cmd.headers["trace"] = "t"
        return await super().publish_scope(call_next, cmd)


async def test_middlewares_see_batches_and_publishes(store: MemoryStore) -> None:
    notes: list[str] = []
    recorder: Any = type("Recorder", (Recorder,), {"notes": notes})
    broker = StreamBroker(MemoryConnector("memory://broker", store), middlewares=[recorder])
    inbox = Inbox()
    subscribe(broker, inbox)
    await broker.start()
    await broker.publish_batch(Outgoing(b"{}", "k", "1", {"own": 1}), Outgoing(b"{}", "k", "2"), stream="s")
    await inbox.until(2)
    await happens(lambda: "consumed" in notes)
    await broker.stop()

    assert notes[0] == "publish 2 to s"
    assert notes[1].startswith("consume 2 of s for g: [<Message 0 'k' id='1'")
    assert [message.headers for message in inbox.batches[0]] == [{"trace": "t", "own": 1}, {"trace": "t"}]


async def test_a_batch_tells_middlewares_its_bodies_and_headers(store: MemoryStore) -> None:
    store.append("s", [Outgoing(b"1", "k", "a", {"x": 1}), Outgoing(b"22", "k", "b")])
    batch = StreamBatch(store.log("s").messages, "s", "g")

    assert batch.body == [b"1", b"22"]
    assert batch.batch_headers == [{"x": 1}, {}]
    assert batch.message_id == "s@0-1"


async def test_a_router_s_prefix_and_middlewares_belong_to_its_subscribers(store: MemoryStore) -> None:
    store.create("prod.in")
    store.create("prod.out")
    notes: list[str] = []
    recorder: Any = type("Recorder", (Recorder,), {"notes": notes})
    router = StreamRouter("prod.", middlewares=[recorder])
    inbox = Inbox()
    router.publisher("out")(router.subscriber("in", group="g")(inbox.__call__))
    broker = StreamBroker(MemoryConnector("memory://broker", store))
    broker.include_router(router)
    await broker.start()
    await broker.publish({}, stream="prod.in")
    await inbox.until(1)
    await broker.stop()

    assert notes[0].startswith("consume 1 of prod.in")


async def test_a_router_takes_handlers_when_it_is_made(store: MemoryStore) -> None:
    inbox = Inbox()
    router = StreamRouter(handlers=[SubscriberRoute(inbox.__call__, "s", group="g")])
    broker = StreamBroker(MemoryConnector("memory://broker", store), routers=[router])
    publish(store, "a")
    await broker.start()
    await inbox.until(1)
    await broker.stop()


async def test_it_runs_in_a_faststream_application(store: MemoryStore) -> None:
    publish(store, "a")
    broker = StreamBroker(MemoryConnector("memory://broker", store))
    app = FastStream(broker)
    inbox = Inbox()

    async def handle(batch: list[Message]) -> None:
        await inbox(batch)
        app.exit()

    subscribe(broker, handle)
    await asyncio.wait_for(app.run(), 5)

    assert inbox.ids == ["a"]


async def test_arguments_are_injected_where_that_is_asked_for(store: MemoryStore) -> None:
    publish(store, "a")
    broker = StreamBroker(MemoryConnector("memory://broker", store), apply_types=True)
    got: list[Any] = []

    @broker.subscriber("s", group="g")
    async def handle(batch: list[Message], message: StreamBatch = Context()) -> None:  # noqa: B008 - FastStream's way
        got.append((batch, message))

    await broker.start()
    await happens(lambda: got)
    await broker.stop()

    assert isinstance(got[0][1], StreamBatch)
    assert got[0][0] == got[0][1].raw_message


async def test_one_message_at_a_time_is_refused_with_what_to_do(broker: StreamBroker) -> None:
    subscriber = broker.subscriber("s", group="g")
    with pytest.raises(FeatureNotSupportedException, match="with a handler"):
        await subscriber.get_one()
    with pytest.raises(FeatureNotSupportedException, match="with a handler"):
        aiter(subscriber)
