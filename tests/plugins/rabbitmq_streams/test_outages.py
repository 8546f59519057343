"""What goes wrong with a broker is noticed, said, and leaves nothing behind."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from pipeline.connectors import BrokerRefused, Start
from pipeline.errors import Unavailable
from pipeline_plugins.rabbitmq_streams import RabbitMQStreamsConnector, publisher
from pipeline_plugins.rabbitmq_streams.amqp_writer import encode_message
from pipeline_plugins.rabbitmq_streams.wire import SILENT_TICKS, Wire
from tests.conftest import RabbitMQ
from tests.plugins.rabbitmq_streams.chunk_frames import block
from tests.plugins.rabbitmq_streams.raw_entries import publish_entries
from tests.plugins.rabbitmq_streams.relay import Relay, relayed
from tests.plugins.rabbitmq_streams.support import (
    PATIENCE,
    batches,
    connected,
    delete,
    events,
    eventually,
    following,
    ids,
    read,
    read_on,
)
from tests.services.rabbitmq import RabbitMQ as Server
from tests.services.rabbitmq import start_rabbitmq


@pytest.fixture
async def relay(rabbitmq: RabbitMQ) -> AsyncIterator[Relay]:
    async with relayed(f"{rabbitmq.stream_url}?heartbeat=1") as relay:
        yield relay


@pytest.fixture
async def connector(relay: Relay) -> AsyncIterator[RabbitMQStreamsConnector]:
    async with connected(relay.url) as connector:
        yield connector


@pytest.fixture
async def stream(connector: RabbitMQStreamsConnector, stream_name: str) -> AsyncIterator[str]:
    await connector.create_stream(stream_name)
    yield stream_name
    await delete(connector, stream_name)


async def test_the_address_that_the_node_advertises_is_not_used_on_a_single_node(
    relay: Relay, connector: RabbitMQStreamsConnector, stream: str
) -> None:
    await connector.publish(stream, events(1, 3))
    reader = batches(connector, stream)
    await following(reader)
    assert relay.open == 3  # for questions, for publishing, for reading: all of them through the relay
    await reader.aclose()


async def test_reading_after_a_loss_repeats_and_misses_nothing(
    relay: Relay, connector: RabbitMQStreamsConnector, stream: str
) -> None:
    count = 12_000
    for first in range(1, count, 1000):
        await connector.publish(stream, events(first, first + 999, bytes(2000)))  # far more than is read ahead
    read_ids: list[int] = []
    start = Start("first")
    losses = 0
    while len(read_ids) < count:
        reader = batches(connector, stream, start, max_batch=300)
        try:
            while len(read_ids) < count:
                batch = await following(reader)
                read_ids += ids(batch)
                start = Start("offset", batch[-1].offset + 1)
                if len(read_ids) // 1500 > losses:
                    await relay.cut()
        except Unavailable:
            losses += 1
        finally:
            await reader.aclose()

    assert losses >= 3
    assert read_ids == list(range(1, count + 1))


async def test_what_came_before_a_loss_is_still_delivered(
    relay: Relay, connector: RabbitMQStreamsConnector, stream: str, rabbitmq: RabbitMQ
) -> None:
    together = block([encode_message(event) for event in events(1, 100)])  # so that all have come when one has
    await publish_entries(rabbitmq.stream_url, stream, [together])
    reader = batches(connector, stream, max_batch=10)
    found = await following(reader)
    assert len(found) == 10
    await relay.cut()
    with pytest.raises(Unavailable):
        await read_on(reader, found)
    assert ids(found) == list(range(1, 101))


async def test_a_network_that_swallows_everything_is_noticed(
    relay: Relay, connector: RabbitMQStreamsConnector, stream: str
) -> None:
    await connector.publish(stream, events(1, 1))
    reader = batches(connector, stream)
    await following(reader)
    relay.swallowing = True
    with pytest.raises(Unavailable, match=r"nothing was heard for 2\.5 seconds"):
        await following(reader)
    await reader.aclose()
    relay.swallowing = False
    await eventually(lambda: relay.open == 0, "every connection is given up")


async def test_an_idle_stream_is_not_taken_for_a_dead_one(
    relay: Relay, connector: RabbitMQStreamsConnector, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    ticks: Counter[Wire] = Counter()
    tick = Wire._tick

    def counted(wire: Wire, seconds: float) -> None:
        ticks[wire] += 1
        tick(wire, seconds)

    monkeypatch.setattr(Wire, "_tick", counted)
    reader = batches(connector, stream)
    waiting = asyncio.ensure_future(anext(reader))
    await eventually(lambda: max(ticks.values(), default=0) > SILENT_TICKS + 1, "a silent peer would be given up")
    await connector.publish(stream, events(1, 1))
    assert ids(await asyncio.wait_for(waiting, PATIENCE)) == [1]
    assert relay.accepted == 3  # none was made again
    await reader.aclose()


async def test_a_publish_that_is_swallowed_is_unavailable_in_bounded_time(
    relay: Relay, connector: RabbitMQStreamsConnector, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "CONFIRM_SECONDS", 1.0)
    await connector.publish(stream, events(1, 1))
    relay.swallowing = True
    with pytest.raises(Unavailable, match="no confirm came for 1 seconds"):
        await asyncio.wait_for(connector.publish(stream, events(2, 3)), PATIENCE)
    relay.swallowing = False
    await connector.publish(stream, events(4, 4))
    assert ids(await read(connector, stream, 2)) == [1, 4]


async def test_a_publish_whose_connection_breaks_is_unavailable(
    relay: Relay, connector: RabbitMQStreamsConnector, stream: str
) -> None:
    await connector.publish(stream, events(1, 1))
    relay.swallowing = True
    publishing = [asyncio.ensure_future(connector.publish(stream, events(n, n))) for n in (2, 3)]
    await eventually(lambda: relay.swallowed > 100, "both are on their way")
    await relay.cut()
    relay.swallowing = False
    for outcome in await asyncio.gather(*publishing, return_exceptions=True):
        assert isinstance(outcome, Unavailable)
    await connector.publish(stream, events(4, 4))
    assert ids(await read(connector, stream, 2)) == [1, 4]


async def test_a_probe_fails_while_nothing_answers_and_then_recovers(
    relay: Relay, connector: RabbitMQStreamsConnector
) -> None:
    relay.swallowing = True
    with pytest.raises(Unavailable):
        await asyncio.wait_for(connector.probe(), PATIENCE)
    relay.swallowing = False
    await connector.probe()


async def test_deleting_a_stream_refuses_its_reader_after_what_it_held(
    connector: RabbitMQStreamsConnector, stream_name: str
) -> None:
    await connector.create_stream(stream_name)
    await connector.publish(stream_name, events(1, 40))
    reader = batches(connector, stream_name, max_batch=10)
    found = await following(reader)
    await delete(connector, stream_name)
    with pytest.raises(BrokerRefused, match=f"no stream '{stream_name}'.*x-queue-type"):
        await read_on(reader, found)
    assert ids(found) == list(range(1, len(found) + 1))
    assert len(found) > 10


async def test_publishing_goes_on_after_the_stream_was_deleted_and_created_again(
    connector: RabbitMQStreamsConnector, stream: str
) -> None:
    await connector.publish(stream, events(1, 1))
    await delete(connector, stream)
    with pytest.raises((BrokerRefused, Unavailable)):
        await connector.publish(stream, events(2, 2))
    with pytest.raises(BrokerRefused, match="no stream"):
        await connector.publish(stream, events(2, 2))
    await connector.create_stream(stream)
    await connector.publish(stream, events(3, 3))
    assert ids(await read(connector, stream, 1)) == [3]


@pytest.mark.slow
async def test_a_broker_that_is_killed_and_restarted_is_read_on_from_the_next_offset(
    own_server: Callable[[Callable[[Path], Server]], Server], stream_name: str
) -> None:
    server = await asyncio.to_thread(own_server, start_rabbitmq)
    async with connected(server.stream_url) as connector:
        await connector.create_stream(stream_name)
        await connector.publish(stream_name, events(1, 1000))
        reader = batches(connector, stream_name)
        found = await following(reader)
        await asyncio.sleep(4)  # RabbitMQ 4.0 never recovers a stream that is hardly a second old when it is killed
        await asyncio.to_thread(server.kill)
        with pytest.raises(Unavailable):
            await read_on(reader, found)
        with pytest.raises(Unavailable):
            await connector.probe()

        await asyncio.to_thread(server.restart)
        await connector.probe()
        await _until_published(connector, stream_name)
        rest = await read(connector, stream_name, 1001 - len(found), Start("offset", found[-1].offset + 1))
    assert ids(found + rest) == list(range(1, 1002))


async def _until_published(connector: RabbitMQStreamsConnector, stream: str) -> None:
    """A broker that has just come up may need a moment to elect the stream's leader."""
    async with asyncio.timeout(PATIENCE):
        while True:
            try:
                return await connector.publish(stream, events(1001, 1001))
            except Unavailable:
                await asyncio.sleep(0.2)


@pytest.mark.slow
async def test_a_broker_that_hangs_is_noticed(
    own_server: Callable[[Callable[[Path], Server]], Server], stream_name: str
) -> None:
    server = await asyncio.to_thread(own_server, start_rabbitmq)
    async with connected(f"{server.stream_url}?heartbeat=1") as connector:
        await connector.create_stream(stream_name)
        await connector.publish(stream_name, events(1, 1))
        reader = batches(connector, stream_name)
        await following(reader)
        server.pause()
        try:
            with pytest.raises(Unavailable, match="nothing was heard"):
                await following(reader)
        finally:
            server.resume()
