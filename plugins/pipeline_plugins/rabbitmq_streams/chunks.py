"""A chunk: what RabbitMQ sends at a time, a row of messages (or of compressed blocks of them) with one timestamp."""

from __future__ import annotations

import struct
import sys
import zlib
from typing import Final

from pipeline.connectors import Message
from pipeline_plugins.rabbitmq_streams.amqp import MessageReader
from pipeline_plugins.rabbitmq_streams.blocks import BlockError, unpacked

__all__ = ["Chunk", "ChunkError"]

_HEADER = struct.Struct(">bbHIqQQIIII")
"""Magic and version, chunk type, entries, records, timestamp, epoch, first offset, CRC, data length, trailer length,
and four bytes that are reserved (docs/PROTOCOL.adoc of the stream plugin)."""
_BEFORE: Final = 5  # the frame's key and version, and the subscription's id
_u32 = struct.Struct(">I").unpack_from
_block = struct.Struct(">BHII").unpack_from
_BLOCK_HEADER: Final = 11
_MOST_IN_ENTRY: Final = 65_535
"""How many messages a block has at most."""
_USER: Final = 0


class ChunkError(Exception):
    """The chunk's bytes are not what its header says: it was damaged, on its way or where it lies."""


class Chunk:
    """A chunk, and how far it has been read.

    Every offset of the chunk is accounted for, whatever its bytes are. A block that can't be unpacked is one message
    with a `Message.defect`, and so is the rest of a chunk whose entries are not what its header says. Such a message
    has the last offset of what it stands for, so that reading goes on after it wherever it began.

    The checksum is the entries' alone. Where it is right and the header's numbers are not, the entries are the truth:
    a stretch of bad bytes on a disk that leaves checksum and first offset whole (the broker compares the latter before
    it sends a chunk) can't reach from the header's numbers to the entries.

    Attributes:
        first: The offset of its first message.
        end: The offset after its last message; what the header says until the chunk is counted or read to its end.
        timestamp: When it was written, in milliseconds since 1970 (UTC).
        size: How many bytes it takes.
        taken: How many bytes the messages have that were taken; unpacked, where they lay in a compressed block.
        wrong: What is wrong with a header that the entries have mended; empty where nothing is.
    """

    __slots__ = (
        "_block", "_data", "_defect", "_entries", "_offset", "_pos", "_sound", "end", "first", "size", "taken",
        "timestamp", "wrong",
    )  # fmt: skip

    def __init__(self, frame: bytes, *, damaged: bool = False) -> None:
        """Take a `Deliver` frame (without its length) apart.

        Args:
            frame: The frame.
            damaged: Take one whose bytes are wrong, too: all of it becomes one message with a defect.

        Raises:
            ChunkError: It is not as long as it says, or its checksum is wrong; or not even its header can be right
                where that counts.
        """
        if len(frame) < _BEFORE + _HEADER.size:
            raise ChunkError(f"a chunk of {len(frame)} bytes is too short")
        _, kind, entries, records, timestamp, _, first, crc, length, _, _ = _HEADER.unpack_from(frame, _BEFORE)
        begin = _BEFORE + _HEADER.size
        if kind != _USER:  # RabbitMQ's own notes; it delivers none today
            entries = records = 0
        self._data = frame[begin : begin + length]
        self.first: int = first
        self.end: int = first + records
        self.timestamp: int = timestamp
        self.size = len(frame)
        self.taken = 0
        self._entries: int = entries
        self._offset: int = first
        self._pos = 0
        self._block: list[bytes] = []  # the rest of the block being read, last message first
        self._defect: Message | None = None  # what stands for messages that can't be told apart, and comes next
        self.wrong = ""
        damage = self._damage(length, crc)
        if damage and (whole := _whole(frame, begin, entries, crc)) is not None:
            self._data, damage = whole, ""
            self.wrong = f"it says that it has {length} bytes, and has {len(whole)}"
        self._sound = not damage and kind == _USER
        if damage and not damaged:
            raise ChunkError(damage)
        too_many = records > entries * _MOST_IN_ENTRY
        if (too_many or not records) and not self.count() and too_many:
            raise ChunkError(f"the chunk at offset {first} can't hold {records} messages in {entries} entries")
        if damage:
            self._give_up(damage)

    def _damage(self, length: int, crc: int) -> str:
        if len(self._data) != length:
            return f"the chunk at offset {self.first} has {len(self._data)} of its {length} bytes"
        if zlib.crc32(self._data) != crc:
            return f"the chunk at offset {self.first} has a wrong checksum"
        return ""

    @property
    def is_finished(self) -> bool:
        """Whether all its messages have been taken, or left out."""
        return not (self._entries or self._block or self._defect is not None)

    def __contains__(self, offset: int) -> bool:
        return self.first <= offset < self.end

    def count(self) -> bool:
        """Count the entries that are left, so that `end` is right; says whether the header was wrong, and is mended."""
        if not self._sound:
            return False
        pos, entries, messages = _walk(self._data, self._pos, len(self._data))
        taken_up = self._offset + len(self._block) if self._defect is None else self._defect.offset + 1
        end = taken_up + messages
        if pos < len(self._data) or (entries, end) == (self._entries, self.end):
            return False
        if end != self.end:
            self.wrong = f"it says that it has {self.end - self.first} messages, and has {end - self.first}"
        elif entries > self._entries:
            self.wrong = f"it leaves {entries - self._entries} of its entries out"
        self._entries, self.end = entries, end
        return True

    def skip_to(self, offset: int) -> None:
        """Leave out the messages before `offset`."""
        while self._offset < offset and not self.is_finished:
            if self._block:
                self._block.pop()
                self._offset += 1
                self._check_end()
            elif self._defect is not None:
                if self._defect.offset >= offset:
                    return
                self._offset, self._defect = self._defect.offset + 1, None
                self._check_end()
            else:
                self._skip_entry()

    def _skip_entry(self) -> None:
        data, begin = self._data, self._pos + 4
        if begin > len(data) or data[self._pos] & 0x80:
            self._open_block()
            return
        end = begin + _u32(data, self._pos)[0]
        if end > len(data) or self._offset >= self.end:
            self._doubt("an entry is longer than the chunk")
            return
        self._pos = end
        self._entries -= 1
        self._offset += 1
        self._check_end()

    def take(self, reader: MessageReader, into: list[Message], limit: int, most: int = sys.maxsize) -> bool:
        """Append the next messages to `into`; says whether the chunk is finished.

        Args:
            reader: Reads them.
            into: Where they go.
            limit: How many messages it holds in the end, at most.
            most: Go no further once so many bytes are taken, at least 1; a block is unpacked only when its turn comes.
        """
        read, append = reader.read, into.append
        stop = self.taken + most
        while len(into) < limit and self.taken < stop and not self.is_finished:
            if self._block:
                record = self._block.pop()
                append(read(record, 0, len(record), self._offset, self.timestamp))
                self.taken += len(record)
                self._offset += 1
                self._check_end()
            elif self._defect is not None:
                append(self._defect)
                self.taken += self._defect.size
                self._offset, self._defect = self._defect.offset + 1, None
                self._check_end()
            else:
                self._take_entries(reader, into, limit, stop - self.taken)
        return self.is_finished

    def _take_entries(self, reader: MessageReader, into: list[Message], limit: int, most: int) -> None:
        """Take messages that are entries of their own, as many as follow one another."""
        data, pos, offset, timestamp = self._data, self._pos, self._offset, self.timestamp
        read, append = reader.read, into.append
        entries = self._entries
        last = min(offset + limit - len(into), self.end)
        size, length = 0, len(data)
        stop = min(pos + most, length - 3)
        while entries and offset < last and pos < stop:
            size = _u32(data, pos)[0]
            begin = pos + 4
            if begin + size > length:
                break
            pos = begin + size
            append(read(data, begin, pos, offset, timestamp))
            entries -= 1
            offset += 1
        taken = pos - self._pos
        self.taken += taken
        self._pos, self._entries, self._offset = pos, entries, offset
        if entries and taken >= most:
            return
        if not entries:
            self._check_end()
        elif offset < last or (offset >= self.end and not self.count()):
            self._open_block()  # which has the highest bit set in what would be its size

    def _open_block(self) -> None:
        """Take the block at the reading position, whose messages then come one by one."""
        data = self._data
        begin = self._pos + _BLOCK_HEADER
        if begin > len(data) or not data[self._pos] & 0x80:
            self._doubt("an entry is longer than the chunk")
            return
        kind, count, size, packed = _block(data, self._pos)
        content = data[begin : begin + packed]
        if len(content) < packed or self._offset + count > self.end:
            self._doubt("an entry is longer than the chunk")
            return
        self._pos = begin + packed
        self._entries -= 1
        try:
            self._block = unpacked(kind >> 4 & 0x7, content, size, count)[::-1]
        except BlockError as error:
            self._replace(content, count, f"these messages lie in a block that can't be read: {error}")
        if not self._block:
            self._check_end()

    def _replace(self, content: bytes, count: int, reason: str) -> None:
        """Let one message stand for the next `count`, of which there may be none."""
        if count:
            last = self._offset + count - 1
            which = f"offset {last}" if count == 1 else f"offsets {self._offset} to {last} ({count} messages)"
            self._defect = Message(last, self.timestamp, content, defect=f"{which}: {reason}")

    def _doubt(self, reason: str) -> None:
        """Go by the entries alone where header and entries differ and the checksum is right; else give up."""
        if not self.count():
            self._give_up(reason)

    def _give_up(self, reason: str) -> None:
        """Let one message stand for the rest of the chunk."""
        rest, self._entries, self._block, self._defect = self._data[self._pos :], 0, [], None
        self._pos = len(self._data)
        if rest and self._offset >= self.end:
            self.wrong = f"{len(rest)} bytes follow its last message"
        self._replace(rest, self.end - self._offset, f"the rest of the chunk can't be read: {reason}")

    def _check_end(self) -> None:
        """At the end of the entries, see that nothing is left, of the offsets or the bytes."""
        if self.is_finished and (self._offset < self.end or self._pos < len(self._data)):
            self._doubt("it has fewer messages than its header says")


def _walk(data: bytes, pos: int, most: int) -> tuple[int, int, int]:
    """Where at most so many entries end that lie at `pos`, how many there are, and how many messages they have."""
    entries = messages = 0
    while entries < most and pos + 4 <= len(data):
        count, end = 1, pos + 4 + _u32(data, pos)[0]
        if data[pos] & 0x80:
            if pos + _BLOCK_HEADER > len(data):
                break
            _, count, _, packed = _block(data, pos)
            end = pos + _BLOCK_HEADER + packed
        if end > len(data):
            break
        pos, entries, messages = end, entries + 1, messages + count
    return pos, entries, messages


def _whole(frame: bytes, begin: int, entries: int, crc: int) -> bytes | None:
    """The entries, where there are as many as the header says and their checksum is right, whatever their length."""
    data = frame[begin:]
    end = _walk(data, 0, entries)[0]
    return data[:end] if end and zlib.crc32(data[:end]) == crc else None
