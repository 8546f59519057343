"""A subscriber that fails stops and says so; one that is stopped stops at once."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from faststream.exceptions import SetupError, StopConsume
from faststream.middlewares import AckPolicy

from pipeline.connectors import BrokerRefused, Message, Outgoing
from pipeline.streams.broker import StreamBroker
from pipeline_plugins.memory import MemoryStore
from tests.pipeline.streams.inbox import Inbox, happens, publish, subscribe


async def test_a_handler_s_failure_stops_its_subscriber_and_is_exposed(
    store: MemoryStore, broker: StreamBroker, caplog: pytest.LogCaptureFixture
) -> None:
    publish(store, *"abc")
    handled: list[str | None] = []
    told: list[BaseException] = []

    async def handle(batch: list[Message]) -> None:
        if batch[0].id == "b":
            raise ValueError("no")
        handled.append(batch[0].id)

    subscriber = subscribe(broker, handle, max_batch=1, on_failure=told.append)
    await broker.start()
    await happens(lambda: told)

    assert handled == ["a"]
    assert isinstance(subscriber.failure, ValueError)
    assert told == [subscriber.failure]
    assert not subscriber.running
    assert await broker.connector.stored_offset("s", "g") == 0
    assert [record.message for record in caplog.records if record.levelno == logging.ERROR] == ["ValueError: no"]


async def test_a_stopped_subscriber_begins_again_with_what_failed(store: MemoryStore, broker: StreamBroker) -> None:
    publish(store, *"ab")
    broken = True
    handled: list[str | None] = []
    told: list[BaseException] = []

    async def handle(batch: list[Message]) -> None:
        if broken and batch[0].id == "b":
            raise ValueError("no")
        handled.append(batch[0].id)

    subscriber = subscribe(broker, handle, max_batch=1, on_failure=told.append)
    await broker.start()
    await happens(lambda: told)
    broken = False
    await subscriber.start()
    await happens(lambda: len(handled) == 2)

    assert handled == ["a", "b"]
    assert subscriber.failure is None


async def test_a_missing_stream_is_such_a_failure(store: MemoryStore, broker: StreamBroker) -> None:
    store.delete("s")
    told: list[BaseException] = []
    subscribe(broker, Inbox(), on_failure=told.append)
    await broker.start()
    await happens(lambda: told)

    assert isinstance(told[0], BrokerRefused)


async def test_one_subscriber_s_failure_leaves_the_others_alone(store: MemoryStore, broker: StreamBroker) -> None:
    store.create("t")
    publish(store, "a")
    inbox = Inbox()

    async def handle(batch: list[Message]) -> None:
        raise ValueError("no")

    failing = subscribe(broker, handle)
    broker.subscriber("t", group="g")(inbox.__call__)
    await broker.start()
    await happens(lambda: failing.failure)
    store.append("t", [Outgoing(b"{}", "a.b", "x")])
    await inbox.until(1)


async def test_a_handler_may_stop_its_subscriber(store: MemoryStore, broker: StreamBroker) -> None:
    publish(store, *"ab")
    begun = []

    async def handle(batch: list[Message]) -> None:
        begun.append(batch[0].id)
        raise StopConsume

    subscriber = subscribe(broker, handle, max_batch=1)
    await broker.start()
    await happens(lambda: not subscriber.running)
    await asyncio.sleep(0.01)

    assert begun == ["a"]
    assert subscriber.failure is None


@pytest.mark.parametrize("policy", [policy for policy in AckPolicy if policy is not AckPolicy.MANUAL])
def test_acknowledgement_policies_are_refused_at_declaration(broker: StreamBroker, policy: AckPolicy) -> None:
    with pytest.raises(SetupError, match="no acknowledgements"):
        broker.subscriber("s", group="g", ack_policy=policy)


async def test_a_handler_of_two_arguments_is_refused_at_the_start(broker: StreamBroker) -> None:
    @broker.subscriber("s", group="g")
    async def handle(batch: list[Message], more: Any) -> None: ...

    with pytest.raises(SetupError, match="'handle' takes more than one argument"):
        await broker.start()


async def test_stopping_ends_a_subscriber_that_waits_at_once(store: MemoryStore, broker: StreamBroker) -> None:
    subscriber = subscribe(broker, Inbox())
    before = asyncio.all_tasks()
    await broker.start()
    await happens(lambda: subscriber.state.status == "reading")

    await asyncio.wait_for(broker.stop(), 1)

    assert not subscriber.running
    assert subscriber.failure is None
    assert asyncio.all_tasks() == before


async def test_stopping_cancels_a_handler_that_waits_for_room(store: MemoryStore, broker: StreamBroker) -> None:
    publish(store, "a")
    events: list[str] = []

    async def handle(batch: list[Message]) -> None:
        events.append("begun")
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            events.append("cancelled")
            raise

    subscriber = subscribe(broker, handle)
    await broker.start()
    await happens(lambda: events)
    await asyncio.wait_for(subscriber.stop(), 1)

    assert events == ["begun", "cancelled"]
    assert subscriber.failure is None
    assert await broker.connector.stored_offset("s", "g") is None
    await broker.connector.probe()  # it is the broker's stop that closes the connector


async def test_stopping_the_broker_closes_the_connector(broker: StreamBroker) -> None:
    await broker.start()
    assert await broker.ping()
    await broker.stop()
    assert not await broker.ping()


async def test_a_stopped_broker_may_be_started_again(store: MemoryStore, broker: StreamBroker) -> None:
    publish(store, "a")
    inbox = Inbox()
    subscribe(broker, inbox)
    await broker.start()
    await inbox.until(1)
    await broker.stop()
    publish(store, "b")
    await broker.start()
    await inbox.until(2)

    assert inbox.ids == ["a", "b"]


async def test_ping_tells_whether_the_broker_answers(store: MemoryStore, broker: StreamBroker) -> None:
    await broker.connect()
    assert await broker.ping()
    store.fail()
    assert not await broker.ping()
