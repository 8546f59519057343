"""What reading promises: order, start positions, batches, waiting for more, bounded memory."""

from __future__ import annotations

import asyncio
import time
import tracemalloc

import pytest

from pipeline.connectors import BrokerRefused, Connector, Message, Outgoing, Start
from tests.contract.driver import ContractBase, Driver, Reader, connected, event, events, numbers, read_all


class ReadingContract(ContractBase):
    """`Connector.read`."""

    async def test_messages_come_in_the_order_in_which_they_were_published(
        self, connector: Connector, stream: str
    ) -> None:
        await connector.publish(stream, events(1, 1200))
        await connector.publish(stream, events(1201, 1300))

        assert numbers(await read_all(connector, stream, 1300)) == list(range(1, 1301))

    @pytest.mark.parametrize("max_batch", [1, 7, 500])
    async def test_a_batch_is_never_longer_than_asked_for(
        self, connector: Connector, stream: str, max_batch: int
    ) -> None:
        await connector.publish(stream, events(1, 50))

        async with Reader(connector, stream, max_batch=max_batch) as reader:  # it checks every batch
            assert numbers(await reader.take(50)) == list(range(1, 51))

    async def test_reading_goes_on_when_more_is_published(self, connector: Connector, stream: str) -> None:
        async with Reader(connector, stream) as reader:
            waiting = asyncio.ensure_future(reader.take(1))
            await asyncio.sleep(0.1)
            await connector.publish(stream, [event(1)])
            assert numbers(await waiting) == [1]
            await connector.publish(stream, events(2, 3))
            assert numbers(await reader.take(2)) == [2, 3]

    async def test_what_another_connector_publishes_is_read(
        self, driver: Driver, connector: Connector, stream: str
    ) -> None:
        async with connected(driver) as other, Reader(connector, stream) as reader:
            await other.publish(stream, events(1, 3))
            assert numbers(await reader.take(3)) == [1, 2, 3]

    async def test_two_readers_both_see_everything(self, connector: Connector, stream: str) -> None:
        await connector.publish(stream, events(1, 300))

        async with Reader(connector, stream) as one, Reader(connector, stream, max_batch=50) as other:
            read = await asyncio.gather(one.take(300), other.take(300))

        assert [numbers(messages) for messages in read] == [list(range(1, 301))] * 2

    async def test_two_streams_are_read_side_by_side(self, driver: Driver, connector: Connector, stream: str) -> None:
        second = driver.stream()
        await connector.create_stream(second)
        async with Reader(connector, stream) as one, Reader(connector, second) as other:
            await connector.publish(stream, events(1, 5))
            await connector.publish(second, events(6, 10))
            assert numbers(await one.take(5)) == [1, 2, 3, 4, 5]
            assert numbers(await other.take(5)) == [6, 7, 8, 9, 10]

    async def test_reading_again_from_the_next_offset_leaves_no_gap(self, connector: Connector, stream: str) -> None:
        await connector.publish(stream, events(1, 100))
        read: list[Message] = []
        start = Start("first")
        while len(read) < 100:
            async with Reader(connector, stream, start, max_batch=30) as reader:
                read += await reader.batch()
            start = Start("offset", read[-1].offset + 1)

        assert numbers(read) == list(range(1, 101))

    async def test_a_missing_stream_is_refused(self, driver: Driver, connector: Connector) -> None:
        missing = driver.stream()
        async with Reader(connector, missing) as reader:
            with pytest.raises(BrokerRefused, match=missing):
                await reader.batch()

    async def test_a_slow_reader_is_not_read_ahead_for_without_bound(
        self, driver: Driver, connector: Connector, stream: str
    ) -> None:
        body = bytes(50_000)
        count = 2 * driver.read_ahead // len(body)
        tracemalloc.start()
        try:
            async with connected(driver) as publisher:
                for first in range(0, count, 200):
                    await publisher.publish(stream, [event(first + number, body) for number in range(200)])
            before = tracemalloc.get_traced_memory()[0]
            async with Reader(connector, stream, max_batch=10) as reader:
                await reader.batch()
                await asyncio.sleep(2)
                held = tracemalloc.get_traced_memory()[0] - before
        finally:
            tracemalloc.stop()

        assert held < driver.read_ahead


class StartContract(ContractBase):
    """`Start`: where reading begins."""

    async def test_next_begins_with_what_is_published_from_now_on(self, connector: Connector, stream: str) -> None:
        await connector.publish(stream, events(1, 10))
        async with Reader(connector, stream, Start("next")) as reader:
            reading = asyncio.ensure_future(reader.take(1))
            number = 10
            while not reading.done():  # it can't be told from outside when the subscription stands
                number += 1
                await connector.publish(stream, [event(number)])
                await asyncio.wait({reading}, timeout=0.05)
            await reading
            await connector.publish(stream, [event(number + 1)])
            while numbers(reader.messages)[-1] <= number:
                await reader.batch()

        read = numbers(reader.messages)
        assert read[0] > 10
        assert read == list(range(read[0], number + 2))

    async def test_last_begins_in_the_newest_chunk(self, connector: Connector, stream: str) -> None:
        await connector.publish(stream, events(1, 10))
        await asyncio.sleep(0.05)
        await connector.publish(stream, events(11, 20))

        async with Reader(connector, stream, Start("last")) as reader:
            while not reader.messages or numbers(reader.messages)[-1] < 20:
                await reader.batch()
            read = numbers(reader.messages)
        assert read[0] > 10
        assert read == list(range(read[0], 21))

    @pytest.mark.parametrize("at", ["first", "last", "next"])
    async def test_on_an_empty_stream_it_waits(self, connector: Connector, stream: str, at: str) -> None:
        async with Reader(connector, stream, Start(at)) as reader:  # type: ignore[arg-type]  # a parameter is a str
            reading = asyncio.ensure_future(reader.take(1))
            number = 0
            while not reading.done():
                number += 1
                await connector.publish(stream, [event(number)])
                await asyncio.wait({reading}, timeout=0.05)
            read = numbers(await reading)
        assert read == list(range(read[0], read[-1] + 1))
        assert at != "first" or read[0] == 1  # the others begin when the subscription stands

    @pytest.mark.parametrize("index", [0, 1, 57, 119])
    async def test_an_offset_is_exact(self, connector: Connector, stream: str, index: int) -> None:
        await connector.publish(stream, events(0, 119))
        offset = (await read_all(connector, stream, 120))[index].offset

        read = await read_all(connector, stream, 120 - index, Start("offset", offset))

        assert read[0].offset == offset
        assert numbers(read) == list(range(index, 120))

    async def test_an_offset_that_is_not_reached_yet_is_waited_for(self, connector: Connector, stream: str) -> None:
        await connector.publish(stream, events(1, 3))
        last = (await read_all(connector, stream, 3))[-1].offset

        async with Reader(connector, stream, Start("offset", last + 1)) as reader:
            reading = asyncio.ensure_future(reader.take(1))
            await asyncio.sleep(0.1)
            await connector.publish(stream, [event(4)])
            assert numbers(await reading) == [4]

    async def test_a_time_is_exact(self, connector: Connector, stream: str) -> None:
        await connector.publish(stream, events(1, 10))
        await asyncio.sleep(0.05)  # longer than the resolution of timestamps
        await connector.publish(stream, events(11, 20))
        written = await read_all(connector, stream, 20)
        assert written[9].timestamp < written[10].timestamp

        assert numbers(await read_all(connector, stream, 10, Start("time", written[10].timestamp))) == list(
            range(11, 21)
        )
        assert numbers(await read_all(connector, stream, 10, Start("time", written[9].timestamp + 1))) == list(
            range(11, 21)
        )
        assert numbers(await read_all(connector, stream, 20, Start("time", 0))) == list(range(1, 21))

    async def test_nothing_older_than_a_time_that_has_not_come_yet_is_read(
        self, connector: Connector, stream: str
    ) -> None:
        await connector.publish(stream, events(1, 3))
        async with Reader(connector, stream, Start("time", time.time_ns() // 1_000_000 + 60_000)) as reader:
            await connector.publish(stream, events(4, 6))
            await reader.nothing()

    async def test_timestamps_are_the_broker_s_time(self, connector: Connector, stream: str) -> None:
        before = time.time_ns() // 1_000_000
        await connector.publish(stream, [event(1)])
        after = time.time_ns() // 1_000_000

        message = (await read_all(connector, stream, 1))[0]

        assert before - 5_000 <= message.timestamp <= after + 5_000  # the broker's clock may differ a little


class FieldsContract(ContractBase):
    """`Outgoing` → `Message`: what is published is what is read."""

    @pytest.mark.parametrize(
        "message",
        [
            pytest.param(Outgoing(b'{"a": 1}', "a.b.c", "id-1"), id="plain"),
            pytest.param(Outgoing(b"", "a.b", "id-1"), id="empty body"),
            pytest.param(Outgoing(bytes(range(256)) * 3, "a.b", "id-1", content_type=None), id="bytes"),
            pytest.param(Outgoing('{"ü": "🙂"}'.encode(), "schlüssel.🙂", "ïd-🙂", {"ключ": "значение"}), id="unicode"),
            pytest.param(Outgoing(b"{}", "a" * 255, "i" * 1000, {"long": "x" * 5000}), id="long texts"),
            pytest.param(Outgoing(b"<a/>", "a.b", "id-1", content_type="application/xml; charset=utf-8"), id="type"),
            pytest.param(
                Outgoing(
                    b"{}",
                    "a.b",
                    "id-1",
                    {
                        "text": "x",
                        "empty": "",
                        "yes": True,
                        "no": False,
                        "zero": 0,
                        "minus": -7,
                        "big": 2**53,
                        "half": 0.5,
                    },
                ),
                id="headers",
            ),
        ],
    )
    async def test_a_message_is_read_as_it_was_published(
        self, connector: Connector, stream: str, message: Outgoing
    ) -> None:
        await connector.publish(stream, [message])

        read = (await read_all(connector, stream, 1))[0]

        assert read.body == message.body
        assert type(read.body) is bytes
        assert read.routing_key == message.routing_key
        assert read.id == message.id
        assert read.content_type == message.content_type
        assert read.defect is None
        assert dict(read.headers) == dict(message.headers)
        assert {key: type(value) for key, value in read.headers.items()} == {
            key: type(value) for key, value in message.headers.items()
        }

    async def test_an_empty_routing_key_stays_empty(self, connector: Connector, stream: str) -> None:
        await connector.publish(stream, [Outgoing(b"{}", "", "id-1")])

        assert not (await read_all(connector, stream, 1))[0].routing_key

    async def test_a_message_of_a_megabyte_is_read_whole(self, connector: Connector, stream: str) -> None:
        body = bytes(index % 251 for index in range(1_000_000))
        await connector.publish(stream, [event(1), event(2, body), event(3)])

        read = await read_all(connector, stream, 3)

        assert numbers(read) == [1, 2, 3]
        assert read[1].body == body
