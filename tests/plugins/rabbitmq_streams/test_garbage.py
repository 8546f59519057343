"""What a RabbitMQ keeps although no reader can make sense of it: each has a place in the stream, and none stops it."""

from __future__ import annotations

import asyncio
import struct
import tracemalloc
import zlib
from collections.abc import AsyncIterator

import pytest

from pipeline.connectors import Message, Outgoing, Start, Unreadable
from pipeline.errors import Unavailable
from pipeline_plugins.rabbitmq_streams import RabbitMQStreamsConnector
from pipeline_plugins.rabbitmq_streams.amqp_writer import encode_message
from pipeline_plugins.rabbitmq_streams.blocks import MAX_BLOCK
from pipeline_plugins.rabbitmq_streams.link import Link
from pipeline_plugins.rabbitmq_streams.reader import MAX_BATCH_BYTES
from pipeline_plugins.rabbitmq_streams.url import parse_url
from pipeline_plugins.rabbitmq_streams.wire import CHUNK_MAX
from tests.conftest import RabbitMQ
from tests.plugins.rabbitmq_streams.chunk_frames import block, entry
from tests.plugins.rabbitmq_streams.raw_entries import publish_entries
from tests.plugins.rabbitmq_streams.relay import Relay, relayed
from tests.plugins.rabbitmq_streams.support import batches, connected, delete, following

MARK, DAMAGED = b"a mark to find", b"a mark to fine"


@pytest.fixture
async def connector(rabbitmq: RabbitMQ) -> AsyncIterator[RabbitMQStreamsConnector]:
    async with connected(rabbitmq.stream_url) as connector:
        yield connector


@pytest.fixture
async def stream(connector: RabbitMQStreamsConnector, stream_name: str) -> AsyncIterator[str]:
    await connector.create_stream(stream_name)
    yield stream_name
    await delete(connector, stream_name)


def good(number: int, body: bytes = b"{}") -> bytes:
    return encode_message(Outgoing(body, "a.b", str(number)))


def bomb(size: int) -> bytes:
    """A block of one message that takes so many bytes when it is unpacked, and a thousandth of that before."""
    packer = zlib.compressobj(9, wbits=31)
    parts = [packer.compress(struct.pack(">I", size - 4))]
    zeros = bytes(2**20)
    parts += [packer.compress(zeros[: min(len(zeros), left)]) for left in range(size - 4, 0, -len(zeros))]
    content = b"".join([*parts, packer.flush()])
    return struct.pack(">BHII", 0x90, 1, size, len(content)) + content


async def read_to(connector: RabbitMQStreamsConnector, stream: str, last: int, start: Start) -> list[Message]:
    """The messages up to this offset, read again from there when the connection breaks, as the runner does."""
    messages: list[Message] = []
    while not messages or messages[-1].offset < last:
        begin = Start("offset", messages[-1].offset + 1) if messages else start
        reader = batches(connector, stream, begin)
        try:
            while not messages or messages[-1].offset < last:
                messages += await following(reader)
        except Unavailable as error:
            if not any(reason in str(error) for reason in ("wrong checksum", "damaged header")):
                raise
        finally:
            await reader.aclose()
    return messages


async def test_what_can_t_be_unpacked_takes_its_offsets_and_reading_goes_on(
    connector: RabbitMQStreamsConnector, stream: str, rabbitmq: RabbitMQ
) -> None:
    records = [b"a", b"b", b"c"]
    await publish_entries(
        rabbitmq.stream_url, stream,
        [
            entry(good(0)),
            *(block(records, compression, b"\1\2\3") for compression in (1, 2, 3, 4, 7)),
            block([good(16), good(17)], 1),
            block([good(18), b"not AMQP", good(20)]),
            bomb(MAX_BLOCK + 1),
            entry(good(22)),
        ],
    )  # fmt: skip
    whole = await read_to(connector, stream, 22, Start("first"))
    assert [(message.offset, message.id) for message in whole if message.defect is None] == [
        (number, str(number)) for number in (0, 16, 17, 18, 20, 22)
    ]
    assert [(message.offset, message.body) for message in whole if message.defect is not None][:-1] == [
        *((offset, b"\1\2\3") for offset in (3, 6, 9, 12, 15)),
        (19, b"not AMQP"),
    ]
    for name, message in zip(("gzip", "snappy", "lz4", "zstd", "method 7"), whole[1:6], strict=True):
        assert name in (message.defect or "")
    for start in (2, 3, 16, 17):
        later = await read_to(connector, stream, 22, Start("offset", start))
        assert [message.offset for message in later] == [message.offset for message in whole if message.offset >= start]


async def test_a_bomb_does_not_fill_the_memory(
    connector: RabbitMQStreamsConnector, stream: str, rabbitmq: RabbitMQ
) -> None:
    size = 100 * 2**20
    packed = bomb(size)
    await publish_entries(rabbitmq.stream_url, stream, [packed, entry(good(1))])
    tracemalloc.start()
    first, second = await read_to(connector, stream, 1, Start("first"))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert f"would unpack to {size} bytes" in (first.defect or "")
    assert first.body == packed[11:]
    assert second.id == "1"
    assert peak < 16 * len(packed)


async def test_large_messages_come_few_at_a_time(
    connector: RabbitMQStreamsConnector, stream: str, rabbitmq: RabbitMQ
) -> None:
    await publish_entries(rabbitmq.stream_url, stream, [entry(good(number, bytes(10**6))) for number in range(24)])
    reader = batches(connector, stream)
    sizes, count = [], 0
    while count < 24:
        batch = await following(reader)
        count += len(batch)
        sizes.append(sum(len(message.body) for message in batch))
    await reader.aclose()
    assert max(sizes) <= 2 * MAX_BATCH_BYTES


async def test_large_messages_in_small_compressed_blocks_come_few_at_a_time_too(
    connector: RabbitMQStreamsConnector, stream: str, rabbitmq: RabbitMQ
) -> None:
    large = 3 * 2**20
    packed = block([good(1, bytes(large))] * 4, 1)
    await publish_entries(rabbitmq.stream_url, stream, [packed] * 8)
    reader = batches(connector, stream)
    sizes: list[list[int]] = []
    while sum(map(len, sizes)) < 32:
        sizes.append([len(message.body) for message in await following(reader)])
    await reader.aclose()
    assert max(map(sum, sizes)) < MAX_BATCH_BYTES + large + 1000
    assert sum(map(sum, sizes)) == 32 * large


async def test_a_frame_that_no_broker_writes_ends_the_connection_and_fills_no_memory(rabbitmq: RabbitMQ) -> None:
    link = await Link.open(parse_url(rabbitmq.stream_url), "test")
    link.data_received(struct.pack(">I", CHUNK_MAX + 1))
    with pytest.raises(Unavailable, match=r"announced a frame of \d+ bytes, and at most \d+ are taken"):
        link.check()
    await link.close()


class Damaging(Relay):
    """Changes something in what the broker sends, `times` times.

    Attributes:
        mark: What is changed.
        damaged: To what.
    """

    mark, damaged = MARK, DAMAGED

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.times = 0
        self.done = 0

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 18):
            if self.mark in data and self.done < self.times:
                self.done += 1
                data = data.replace(self.mark, self.damaged)
            target.write(data)
            await target.drain()


@pytest.mark.parametrize("times", [1, 2])
async def test_a_chunk_that_is_damaged_on_its_way_is_read_again(
    connector: RabbitMQStreamsConnector, stream: str, rabbitmq: RabbitMQ, times: int
) -> None:
    await publish_entries(rabbitmq.stream_url, stream, [entry(good(0, MARK))])
    await connector.publish(stream, [Outgoing(b"{}", "a.b", "1")])
    async with relayed(rabbitmq.stream_url, Damaging) as relay:
        relay.times = times
        async with connected(relay.url) as through:
            messages = await read_to(through, stream, 1, Start("first"))
        assert relay.done == times
    assert [(message.offset, message.defect) for message in messages] == [(0, None), (1, None)]
    assert messages[0].body == MARK


async def test_a_chunk_that_is_damaged_where_it_lies_is_one_defect_and_reading_goes_on(
    connector: RabbitMQStreamsConnector, stream: str, rabbitmq: RabbitMQ
) -> None:
    await publish_entries(rabbitmq.stream_url, stream, [entry(good(0)), block([good(1, MARK), good(2)])])
    await connector.publish(stream, [Outgoing(b"{}", "a.b", "3")])
    async with relayed(rabbitmq.stream_url, Damaging) as relay:
        relay.times = 1000
        async with connected(relay.url) as through:
            messages = await read_to(through, stream, 3, Start("first"))
            again = await read_to(through, stream, 3, Start("first"))
            bounds = await through.bounds(stream)
        assert relay.done >= 3
    defects = [message for message in messages if message.defect is not None]
    assert [message.offset for message in defects] == [2]
    assert DAMAGED in defects[0].body
    assert "wrong checksum" in (defects[0].defect or "")
    assert messages[-1].id == "3"
    assert [message.offset for message in again] == [message.offset for message in messages]
    assert bounds.last == 3


class Miscounting(Damaging):
    """Has the headers of chunks with one entry of two messages say something else."""

    mark = struct.pack(">BBHI", 0x50, 0, 1, 2)
    damaged = struct.pack(">BBHI", 0x50, 0, 1, 70000)


async def test_a_chunk_whose_header_is_damaged_where_it_lies_loses_no_message(
    connector: RabbitMQStreamsConnector, stream: str, rabbitmq: RabbitMQ
) -> None:
    await publish_entries(rabbitmq.stream_url, stream, [block([good(0), good(1)])])
    await connector.publish(stream, [Outgoing(b"{}", "a.b", "2")])
    async with relayed(rabbitmq.stream_url, Miscounting) as relay:
        relay.times = 1000
        async with connected(relay.url) as through:
            messages = await read_to(through, stream, 2, Start("first"))
            later = await read_to(through, stream, 2, Start("offset", 1))
    assert [(message.offset, message.id) for message in messages] == [(0, "0"), (1, "1"), (2, "2")]
    assert [message.offset for message in later] == [1, 2]


async def test_the_end_of_a_stream_is_where_its_last_chunk_ends_whatever_the_header_says(
    stream: str, rabbitmq: RabbitMQ
) -> None:
    await publish_entries(rabbitmq.stream_url, stream, [block([good(0), good(1)])])
    async with relayed(rabbitmq.stream_url, Miscounting) as relay:
        relay.times = 1000
        async with connected(relay.url) as through:
            assert (await through.bounds(stream)).last == 1
            assert await through.timestamp_at(stream, 1) is not None
            assert await through.timestamp_at(stream, 2) is None


class Breaking(Damaging):
    """Hangs up instead of sending what holds the mark, as RabbitMQ does before a chunk that it can't read."""

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 18):
            if self.mark in data:
                return
            target.write(data)
            await target.drain()


async def test_a_chunk_that_the_broker_itself_can_t_read_is_told_and_what_lies_behind_it_can_be_read(
    connector: RabbitMQStreamsConnector, stream: str, rabbitmq: RabbitMQ
) -> None:
    await publish_entries(rabbitmq.stream_url, stream, [entry(good(0, MARK))])
    await connector.publish(stream, [Outgoing(b"{}", "a.b", "1")])
    async with relayed(rabbitmq.stream_url, Breaking) as relay, connected(relay.url) as through:
        reasons = []
        for _ in range(5):
            with pytest.raises(Unavailable) as end:
                await read_to(through, stream, 1, Start("offset", 0))
            reasons.append(type(end.value))
        behind = await read_to(through, stream, 1, Start("offset", 1))
    assert reasons == [Unavailable] * 4 + [Unreadable]
    assert [message.id for message in behind] == ["1"]
