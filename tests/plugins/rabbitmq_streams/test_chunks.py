"""Chunks: every message with its exact offset, also in compressed blocks and when reading begins in the middle."""

from __future__ import annotations

import struct
import tracemalloc
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.connectors import Message, Outgoing
from pipeline_plugins.rabbitmq_streams.amqp import MessageReader
from pipeline_plugins.rabbitmq_streams.amqp_writer import encode_message
from pipeline_plugins.rabbitmq_streams.blocks import MAX_BLOCK
from pipeline_plugins.rabbitmq_streams.chunks import Chunk, ChunkError
from pipeline_plugins.rabbitmq_streams.damage import Damage
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


@pytest.mark.parametrize(("compression", "name"), [(2, "snappy"), (3, "lz4"), (4, "zstd"), (7, "method 7")])
def test_a_block_that_can_t_be_unpacked_is_one_defect_with_its_bytes_and_takes_all_its_offsets(
    compression: int, name: str
) -> None:
    packed = b"\x01\x02\x03"
    frame = deliver([entry(record(0)), block([b"a", b"b", b"c"], compression, packed), entry(record(4))], records=5)
    messages = take_all(Chunk(frame), limit=2)
    assert [(message.offset, message.defect is None) for message in messages] == [(0, True), (3, False), (4, True)]
    assert "offsets 1 to 3 (3 messages)" in (messages[1].defect or "")
    assert name in (messages[1].defect or "")
    assert messages[1].body == packed


@pytest.mark.parametrize("start", [0, 1, 2, 3, 4])
def test_such_a_block_is_met_wherever_reading_begins_within_it_and_never_behind_it(start: int) -> None:
    chunk = Chunk(deliver([entry(record(0)), block([b"a", b"b", b"c"], 2, b"?"), entry(record(4))], records=5))
    chunk.skip_to(start)
    chunk.count()
    assert (chunk.end, chunk.wrong) == (5, "")
    assert [message.offset for message in take_all(chunk)] == [offset for offset in (0, 3, 4) if offset >= start]


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        (block([b"aa", b"bb"], 1, b"no gzip at all"), "no sound gzip"),
        (block([b"aa", b"bb"], 1)[:-4] + b"\0\0\0\0", "no sound gzip"),
        (block([b"aa", b"bb"], 0, b"\x00\x00\x00\x02aa"), "ends after 1"),
        (block([b"aa", b"bb"], 0, b"\x00\x00\x00\x02aa\x00\x00\x00\x09b"), "ends within message 2"),
        (block([b"aa", b"bb"], 0, b"".join(map(entry, [b"aa", b"bb", b"c"]))), "5 bytes follow"),
    ],
    ids=["no gzip", "wrong gzip checksum", "a message is missing", "a message is cut short", "one too many"],
)
def test_a_damaged_block_is_one_defect_and_takes_all_its_offsets(bad: bytes, reason: str) -> None:
    messages = take_all(Chunk(deliver([bad, entry(record(2))], records=3)))
    assert [(message.offset, message.defect is None) for message in messages] == [(1, False), (2, True)]
    assert reason in (messages[0].defect or "")


def test_a_block_that_would_fill_the_memory_is_not_unpacked() -> None:
    size = MAX_BLOCK + 1
    packed = zlib.compressobj(9, wbits=31)
    bomb = struct.pack(">I", size - 4)
    content = packed.compress(bomb + bytes(size - 4)) + packed.flush()
    honest = struct.pack(">BHII", 0x90, 1, size, len(content)) + content
    lying = struct.pack(">BHII", 0x90, 1, 100, len(content)) + content
    tracemalloc.start()
    first, second = take_all(Chunk(deliver([honest, lying], records=2)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert f"would unpack to {size} bytes" in (first.defect or "")
    assert "does not unpack to the size" in (second.defect or "")
    assert peak < 2_000_000


def test_a_damaged_chunk_is_an_error() -> None:
    whole = deliver([entry(record(1))])
    for damaged in (whole[:-1], whole[:20], whole[:-1] + bytes([whole[-1] ^ 1])):
        with pytest.raises(ChunkError):
            Chunk(damaged)


def test_a_damaged_chunk_may_be_kept_as_one_defect_that_takes_all_its_offsets() -> None:
    whole = deliver([entry(record(number)) for number in range(3)], first=7)
    for damaged in (whole[:-1], whole[:-1] + bytes([whole[-1] ^ 1])):
        chunk = Chunk(damaged, damaged=True)
        (message,) = take_all(chunk)
        assert (message.offset, chunk.end) == (9, 10)
        assert message.body == damaged[-len(message.body) :]
        assert "offsets 7 to 9 (3 messages)" in (message.defect or "")


def test_a_header_that_can_t_be_right_is_an_error_even_then() -> None:
    for frame in (b"", deliver([])[:20], deliver([entry(b"x")], records=2**31)[:-1] + b"y"):
        with pytest.raises(ChunkError):
            Chunk(frame, damaged=True)


@pytest.mark.parametrize("entries", [[b"\x00\x00\x00\x09abc"], [b"\x00\x00"], [b"\x80\x00"], [block([b"abc"])[:-1]]])
def test_entries_that_are_not_what_the_header_says_are_one_defect_for_all_offsets_left(entries: list[bytes]) -> None:
    frame = deliver([entry(record(5)), *entries], first=5, records=4)
    good, bad = take_all(Chunk(frame))
    assert (good.offset, good.defect, bad.offset) == (5, None, 8)
    assert "offsets 6 to 8 (3 messages)" in (bad.defect or "")
    assert bad.body == entries[0]
    for start, left in ((6, [8]), (8, [8]), (9, [])):
        chunk = Chunk(frame)
        chunk.skip_to(start)
        assert [message.offset for message in take_all(chunk)] == left


SIX = [
    *(entry(record(number)) for number in (3, 4)),
    block([record(5), record(6)], 1),
    block([]),
    block([record(7), record(8)]),
]
ENTRIES, RECORDS, LENGTH = (7, ">H"), (9, ">I"), (41, ">I")
"""Where numbers of the header lie in a frame, and how."""


def with_header(frame: bytes, field: tuple[int, str], number: int) -> bytes:
    """The frame with another number in its chunk's header."""
    changed = bytearray(frame)
    struct.pack_into(field[1], changed, field[0], number)
    return bytes(changed)


@pytest.mark.parametrize("limit", [1, 2, 3, 500])
@pytest.mark.parametrize(
    ("field", "numbers"),
    [(ENTRIES, [0, 1, 2, 3, 4, 6, 261, 65535]), (RECORDS, [0, 1, 3, 5, 7, 262, 2**31])],
    ids=["entries", "records"],
)
def test_where_the_checksum_is_right_the_entries_say_how_many_messages_there_are(
    field: tuple[int, str], numbers: list[int], limit: int
) -> None:
    frame = deliver(SIX, first=3, records=6)
    for number in numbers:
        chunk = Chunk(with_header(frame, field, number))
        assert [message.id for message in take_all(chunk, limit)] == [str(number) for number in range(3, 9)]
        assert (chunk.end, chunk.count()) == (9, False)
        counted = Chunk(with_header(frame, field, number))
        counted.count()
        assert counted.end == 9
        for start in (4, 6, 8, 9):
            later = Chunk(with_header(frame, field, number))
            later.skip_to(start)
            assert [message.offset for message in take_all(later, limit)] == list(range(start, 9))


def test_a_header_that_the_entries_mend_is_told_of() -> None:
    frame = deliver(SIX, first=3, records=6)
    reasons = {
        (RECORDS, 70000): "says that it has 70000 messages, and has 6",
        (ENTRIES, 2): "leaves 3 of its entries out",
    }
    for (field, number), reason in reasons.items():
        chunk = Chunk(with_header(frame, field, number))
        take_all(chunk)
        assert reason in chunk.wrong
    sound = Chunk(frame)
    take_all(sound)
    assert sound.wrong == ""


@pytest.mark.parametrize("more", [b"", b"\x00\x00\x00\x04\x00\x17\x00\x01" * 3, bytes(range(256))])
def test_a_chunk_that_is_said_to_be_longer_than_it_is_ends_where_its_checksum_is_right(more: bytes) -> None:
    frame = deliver(SIX, first=3, records=6)
    chunk = Chunk(with_header(frame, LENGTH, len(frame) + 65536) + more)
    assert [message.id for message in take_all(chunk)] == [str(number) for number in range(3, 9)]
    assert "bytes, and has" in chunk.wrong


def take_some(chunk: Chunk, most: int, limit: int = 500) -> list[Message]:
    messages: list[Message] = []
    chunk.take(MessageReader(), messages, limit, most)
    return messages


def test_no_more_is_taken_once_so_many_bytes_are() -> None:
    chunk = Chunk(deliver([entry(bytes(96))] * 10))
    assert [len(take_some(chunk, most)) for most in (1, 250, 10_000)] == [1, 3, 6]
    assert chunk.taken == 1000
    assert chunk.is_finished


@given(shapes, st.integers(1, 7), st.integers(1, 300))
def test_wherever_taking_stops_for_its_bytes_it_goes_on_with_the_next_message(
    shape: list[tuple[str, int]], limit: int, most: int
) -> None:
    frame, end = frame_of(shape, 20)
    chunk, messages = Chunk(frame), []
    while not chunk.is_finished:
        batch = take_some(chunk, most, limit)
        assert sum(message.size for message in batch[:-1]) < most
        messages += batch
    assert [message.id for message in messages] == [str(number) for number in range(20, end)]


def test_compressed_blocks_are_unpacked_one_by_one_as_their_turn_comes() -> None:
    mebibyte = 2**20
    packed = block([encode_message(Outgoing(bytes(mebibyte), "k", "1"))] * 4, 1)
    chunk = Chunk(deliver([packed] * 8, records=32))
    batches = []
    tracemalloc.start()
    while not chunk.is_finished:
        batches.append(len(take_some(chunk, 2 * mebibyte)))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert batches == [2] * 16
    assert len(packed) * 8 < mebibyte // 10
    assert peak < 16 * mebibyte, "of 32 that the chunk unpacks to"


def test_damage_lasts_only_where_the_same_bytes_come_again_and_again() -> None:
    damage = Damage()
    one, other = (deliver([entry(text)]) for text in (b"one", b"other"))
    assert [damage.lasts("s", frame) for frame in (one, one, other, other, other, other)] == [
        False, False, False, False, True, True,
    ]  # fmt: skip
    elsewhere = other[:4] + b"\x07" + other[5:]
    assert damage.lasts("s", elsewhere), "the subscription's id is none of the chunk's bytes"
    assert not damage.lasts("t", other)


def test_damaged_chunks_side_by_side_are_each_found_to_last() -> None:
    """A read that has passed the first looks at it again before it comes to the second."""
    damage = Damage()
    one, other = (deliver([entry(text)]) for text in (b"one", b"other"))
    seen = [damage.lasts("s", frame) for _ in range(3) for frame in (one, other)]
    assert seen == [False, False, False, False, True, True]


def test_what_is_no_message_keeps_its_bytes() -> None:
    (message,) = take_all(Chunk(deliver([entry(b"raw")], first=3)))
    assert (message.offset, message.body, message.defect) == (3, b"raw", "not an AMQP 1.0 message")
