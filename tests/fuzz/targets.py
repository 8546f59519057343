"""What is fuzzed: functions of any bytes, which raise where what reads the bytes breaks one of its promises."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any

import orjson

from pipeline.config.limits import Limits
from pipeline.connectors import Message
from pipeline.dispatch.decode import Decoder, Undecodable
from pipeline.ledger.lease import Lease
from pipeline.ledger.units import Progress, SourceKey
from pipeline_plugins.rabbitmq_streams.amqp import MessageReader
from pipeline_plugins.rabbitmq_streams.chunks import Chunk, ChunkError

LIMITS = Limits(event=4096, nesting=20, headers=5, header_bytes=200)
KINDS = {
    "undecodable", "too_big", "too_deep", "duplicate_keys", "huge_number", "too_many_headers", "headers_too_big",
    "routing_key_too_long",
}  # fmt: skip
LEASE = Lease(SourceKey("s", "g", "st"), "", 0, 0, Progress(), started=False)


def amqp(data: bytes) -> None:
    """One AMQP 1.0 message: read alone, and one in eight again between neighbours by a reader that remembers it."""
    reader = MessageReader()
    alone = reader.read(data, 0, len(data), 7, 8)
    check_message(alone, data)
    if zlib.crc32(data) % 8:
        return
    before, after = b"\x00\x53\x75", b"\xa0\x02ab\x40\x40\x40\x40"
    between = reader.read(before + data + after, len(before), len(before) + len(data), 7, 8)
    assert (between.defect is None) == (alone.defect is None), (alone.defect, between.defect)
    for name in ("offset", "timestamp", "body", "routing_key", "id", "headers", "content_type"):
        assert getattr(between, name) == getattr(alone, name), name


def check_message(message: Message, data: bytes) -> None:
    """It has its place, and either all its bytes and a defect, or parts that are what they should be."""
    assert (message.offset, message.timestamp) == (7, 8)
    assert type(message.body) is bytes
    if message.defect is not None:
        assert message.defect
        assert message.body == data
        return
    assert len(message.body) <= 8 * len(data) + 8
    for text in (message.routing_key, message.id, message.content_type):
        assert text is None or text.encode() is not None
    assert len(orjson.dumps(message.headers)) <= 40 * len(data) + 8


def chunk(data: bytes) -> None:
    """One chunk: the first bytes are numbers of its header and where to begin, the rest its entries."""
    numbers = data[:6].ljust(6, b"\0")
    entries, start, limit, damage = numbers[0], numbers[3], numbers[4] % 8 + 1, numbers[5]
    records, body = int.from_bytes(numbers[1:3], "big") % 2000, data[6:]
    header = struct.pack(
        ">bbHIqQQIIII", 0x50, 0, entries, records, 8, 1, 100, zlib.crc32(body) ^ (damage == 1),
        len(body) + (damage == 2), 0, 0,
    )  # fmt: skip
    frame = b"\x00\x08\x00\x01\x00" + header + body
    try:
        whole = Chunk(frame, damaged=damage != 3)
    except ChunkError:
        return
    messages = taken(whole, limit)
    check_offsets(messages, 100, whole.end)
    later = Chunk(frame, damaged=damage != 3)
    later.skip_to(100 + start)
    assert [message.offset for message in taken(later, 500)] == [
        message.offset for message in messages if message.offset >= 100 + start
    ]


def taken(part: Chunk, limit: int) -> list[Message]:
    """All its messages, a few at a time."""
    reader = MessageReader()
    messages: list[Message] = []
    while not part.is_finished:
        batch: list[Message] = []
        part.take(reader, batch, limit)
        assert len(batch) <= limit
        assert batch or part.is_finished, "an entry that has no offset left may be the last thing"
        messages += batch
    return messages


def check_offsets(messages: list[Message], first: int, end: int) -> None:
    """Each offset of the chunk belongs to one message, or to the one defect that stands for several."""
    expected = first
    for message in messages:
        assert expected <= message.offset < end
        assert message.offset == expected or message.defect is not None
        expected = message.offset + 1
    assert expected == end


def event(data: bytes) -> None:
    """One body: it becomes an event or has a reason why not; both as a slow and plain reader of JSON has it."""
    message = Message(7, 8, data, "a.b", "id")
    try:
        found = Decoder("s", "st", LEASE, LIMITS).decode(message)
    except Undecodable as refused:
        check_refused(data, refused)
        return
    assert found.body == data
    seen = plain(data)
    assert not seen.repeats
    assert not seen.huge
    assert seen.depth <= LIMITS.nesting


def check_refused(data: bytes, refused: Undecodable) -> None:
    """The plain reader agrees, where it can read the text at all."""
    kind = refused.kind
    assert kind in KINDS
    assert str(refused)
    if kind not in ("too_deep", "duplicate_keys", "huge_number"):
        return
    try:
        seen = plain(data)
    except (ValueError, RecursionError):
        assert kind == "too_deep"  # it may be no JSON, and too deep before that shows
        return
    assert {"too_deep": seen.depth > LIMITS.nesting, "duplicate_keys": seen.repeats, "huge_number": seen.huge}[kind]


class Plain:
    """What a plain reader noticed of a JSON text."""

    def __init__(self) -> None:
        self.repeats = False
        self.huge = False
        self.depth = 0

    def whole(self, text: str) -> int:
        huge = len(text.lstrip("-")) > 20 or not -(2**63) <= int(text) < 2**64
        self.huge = self.huge or huge
        return 0

    def pairs(self, pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        made = dict(pairs)
        self.repeats = self.repeats or len(made) < len(pairs)
        return made


def plain(data: bytes) -> Plain:
    """Read a JSON text slowly. Raises `ValueError` where it is none."""
    seen = Plain()
    value = json.loads(data.decode(), object_pairs_hook=seen.pairs, parse_int=seen.whole)
    level = [value]
    while level := [item for item in level if isinstance(item, dict | list)]:
        seen.depth += 1
        level = [inner for item in level for inner in (item.values() if isinstance(item, dict) else item)]
    return seen


TARGETS: Mapping[str, Callable[[bytes], None]] = {"amqp": amqp, "chunk": chunk, "event": event}
"""By name; the names of the folders with inputs that once failed are the same."""
