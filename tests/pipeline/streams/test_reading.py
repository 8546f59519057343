"""A subscriber hands batches on, from where it is told to, for as long as there is a broker."""

from __future__ import annotations

import asyncio

from pipeline.connectors import Message, Start
from pipeline.streams.broker import StreamBroker
from pipeline.streams.follow import StreamState
from pipeline_plugins.memory import MemoryConnector, MemoryStore
from tests.pipeline.streams.inbox import Inbox, happens, publish, subscribe


async def test_a_handler_gets_batches_of_messages(store: MemoryStore, broker: StreamBroker) -> None:
    publish(store, *"abcde")
    inbox = Inbox()
    subscribe(broker, inbox, max_batch=2)
    await broker.start()
    await inbox.until(5)

    assert inbox.ids == list("abcde")
    assert [len(batch) for batch in inbox.batches] == [2, 2, 1]
    assert inbox.batches[0][0].offset == 0


async def test_a_group_goes_on_after_its_stored_offset(store: MemoryStore) -> None:
    publish(store, "a", "b")
    for expected in (["a", "b"], ["c"]):
        broker = StreamBroker(MemoryConnector("memory://broker", store))
        inbox = Inbox()
        subscribe(broker, inbox, start="first")
        await broker.start()
        await inbox.until(len(expected))
        connector = broker.connector
        while await connector.stored_offset("s", "g") != inbox.batches[-1][-1].offset:
            await asyncio.sleep(0)
        await broker.stop()
        assert inbox.ids == expected
        publish(store, "c")


async def test_a_caller_that_keeps_progress_itself_is_asked_at_each_start(
    store: MemoryStore, broker: StreamBroker
) -> None:
    publish(store, "a", "b", "c")
    inbox = Inbox()
    asked = []

    async def start() -> Start:
        asked.append(len(inbox.ids))
        return Start("offset", 1 + len(inbox.ids))

    subscriber = subscribe(broker, inbox, start=start)
    await broker.start()
    await inbox.until(2)
    store.cut()
    await happens(lambda: len(asked) == 2)
    publish(store, "d")
    await inbox.until(3)

    assert inbox.ids == ["b", "c", "d"]
    assert asked == [0, 2]
    assert await broker.connector.stored_offset("s", "g") is None
    assert subscriber.state.status == "reading"


async def test_after_an_outage_a_plain_subscriber_goes_on_where_it_was(
    store: MemoryStore, broker: StreamBroker
) -> None:
    states: list[str] = []
    inbox = Inbox()
    subscriber = subscribe(broker, inbox, start="next", on_state=lambda state: states.append(state.status))
    await broker.start()
    await happens(lambda: states == ["reading"])
    await asyncio.sleep(0.01)
    publish(store, "a")
    await inbox.until(1)
    store.fail("gone")
    await happens(lambda: subscriber.state == StreamState("down", "broker is unavailable: gone"))
    publish(store, "b")
    store.recover()
    await inbox.until(2)

    assert inbox.ids == ["a", "b"]
    assert states == ["reading", "down", "reading"]


async def test_a_plain_subscriber_reads_a_stream_that_is_created_anew_from_its_first_message(
    store: MemoryStore, broker: StreamBroker
) -> None:
    publish(store, *"abc")
    inbox = Inbox()
    subscriber = subscribe(broker, inbox)
    await broker.start()
    await inbox.until(3)
    store.delete("s")
    await happens(lambda: subscriber.state.status == "refused")
    store.create("s")
    publish(store, "d")
    await inbox.until(4)

    assert inbox.ids == list("abcd")


async def test_a_handler_that_waits_for_room_holds_the_reader(store: MemoryStore, broker: StreamBroker) -> None:
    publish(store, *"abc")
    room = asyncio.Semaphore(0)
    begun = []

    async def handle(batch: list[Message]) -> None:
        begun.append(batch[0].id)
        await room.acquire()

    subscribe(broker, handle, max_batch=1)
    await broker.start()
    await happens(lambda: begun)
    await asyncio.sleep(0.01)
    assert begun == ["a"]
    room.release()
    await happens(lambda: begun == ["a", "b"])


async def test_a_broker_that_is_down_does_not_stop_the_start(store: MemoryStore, broker: StreamBroker) -> None:
    store.fail()
    inbox = Inbox()
    subscriber = subscribe(broker, inbox)
    await broker.start()
    await happens(lambda: subscriber.state.status == "down")
    publish(store, "a")
    store.recover()
    await inbox.until(1)


async def test_a_subscriber_without_handler_reads_nothing(store: MemoryStore, broker: StreamBroker) -> None:
    publish(store, "a")
    subscriber = broker.subscriber("s", group="g")
    await broker.start()
    await asyncio.sleep(0.01)
    assert subscriber.state.status == "connecting"
