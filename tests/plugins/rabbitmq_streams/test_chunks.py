"""Chunks: every message with its exact offset, also in compressed blocks and when reading begins in the middle."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.connectors import Message, Outgoing
from pipeline_plugins.rabbitmq_streams import chunks
from pipeline_plugins.rabbitmq_streams.amqp import MessageReader
from pipeline_plugins.rabbitmq_streams.amqp_writer import encode_message
from pipeline_plugins.rabbitmq_streams.chunks import Chunk, ChunkError
from tests.plugins.rabbitmq_streams.chunk_frames import block, deliver, entry


def record(number: int) -> bytes:
    return encode_message(Outgoing(b"%d" % number, "k", f"{number}"))


def take_all(chunk: Chunk, limit: int = 500) -> list[Message]:
    reader, messages, finished = MessageReader(), [], False
    while not finished:
        batch: list[Message] = []
        finished = chunk.take(reader, batch, limit)
        assert len(batch) <= limit
        messages += batch
    return messages


shapes = st.lists(st.tuples(st.sampled_from(["single", "block", "gzip"]), st.integers(0, 5)), max_size=8)


def frame_of(shape: list[tuple[str, int]], first: int) -> tuple[bytes, int]:
    entries, number = [], first
    for kind, count in shape:
        size = 1 if kind == "single" else count
        records = [record(n) for n in range(number, number + size)]
        entries.append(entry(records[0]) if kind == "single" else block(records, int(kind == "gzip")))
        number += size
    return deliver(entries, first, number - first), number


@given(shapes, st.integers(0, 2**40), st.integers(1, 7))
def test_every_message_has_its_offset_and_its_chunk_s_time(
    shape: list[tuple[str, int]], first: int, limit: int
) -> None:
    frame, end = frame_of(shape, first)
    chunk = Chunk(frame)
    assert (chunk.first, chunk.end, chunk.size) == (first, end, len(frame))
    messages = take_all(chunk, limit)
    assert [message.offset for message in messages] == list(range(first, end))
    assert [message.id for message in messages] == [str(number) for number in range(first, end)]
    assert all(message.timestamp == 1000 and message.defect is None for message in messages)


@given(shapes, st.integers(0, 60))
def test_reading_may_begin_anywhere(shape: list[tuple[str, int]], start: int) -> None:
    frame, end = frame_of(shape, 20)
    chunk = Chunk(frame)
    chunk.skip_to(start)
    assert [message.offset for message in take_all(chunk)] == list(range(max(20, start), end))


def test_a_chunk_knows_which_offsets_it_holds() -> None:
    chunk = Chunk(deliver([entry(record(1)), entry(record(2))], first=10))
    assert [offset in chunk for offset in (9, 10, 11, 12)] == [False, True, True, False]


@pytest.mark.parametrize(("compression", "name"), [(2, "snappy"), (3, "lz4"), (4, "zstd"), (7, "7")])
def test_a_block_that_can_t_be_unpacked_is_defective_and_costs_no_offset(compression: int, name: str) -> None:
    packed = b"\x01\x02\x03"
    frame = deliver([entry(record(0)), block([b"a", b"b", b"c"], compression, packed), entry(record(4))], records=5)
    messages = take_all(Chunk(frame), limit=2)
    assert [message.offset for message in messages] == [0, 1, 2, 3, 4]
    assert [message.defect is None for message in messages] == [True, False, False, False, True]
    assert name in (messages[1].defect or "")
    assert [message.body for message in messages[1:4]] == [packed, b"", b""]


@pytest.mark.parametrize(
    "bad",
    [
        block([b"aa", b"bb"], 1, b"no gzip at all"),
        block([b"aa", b"bb"], 1)[:-4] + b"\0\0\0\0",
        block([b"aa", b"bb"], 0, b"\x00\x00\x00\x02aa"),
        block([b"aa", b"bb"], 0, b"\x00\x00\x00\x02aa\x00\x00\x00\x09b"),
    ],
    ids=["no gzip", "wrong gzip checksum", "a message is missing", "a message is cut short"],
)
def test_a_damaged_block_is_defective_and_costs_no_offset(bad: bytes) -> None:
    messages = take_all(Chunk(deliver([bad, entry(record(2))], records=3)))
    assert [message.offset for message in messages] == [0, 1, 2]
    assert [message.defect is None for message in messages] == [False, False, True]


def test_a_block_that_would_fill_the_memory_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(chunks, "_MAX_BLOCK", 1000)
    (message,) = take_all(Chunk(deliver([block([bytes(2000)], 1)], records=1)))
    assert "at most 1000" in (message.defect or "")


def test_a_damaged_chunk_is_an_error() -> None:
    whole = deliver([entry(record(1))])
    for damaged in (whole[:-1], whole[:20], whole[:-1] + bytes([whole[-1] ^ 1])):
        with pytest.raises(ChunkError):
            Chunk(damaged)


@pytest.mark.parametrize("entries", [[b"\x00\x00\x00\x09abc"], [b"\x00\x00"], [b"\x80\x00"], [block([b"abc"])[:-1]]])
def test_an_entry_that_ends_after_its_chunk_is_an_error(entries: list[bytes]) -> None:
    with pytest.raises(ChunkError):
        Chunk(deliver(entries)).take(MessageReader(), [], 10)


def test_what_is_no_message_keeps_its_bytes() -> None:
    (message,) = take_all(Chunk(deliver([entry(b"raw")], first=3)))
    assert (message.offset, message.body, message.defect) == (3, b"raw", "not an AMQP 1.0 message")
