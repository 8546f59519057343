"""A chunk: what RabbitMQ sends at a time, a row of messages (or of compressed blocks of them) with one timestamp."""

from __future__ import annotations

import struct
import zlib
from typing import Final

from pipeline.connectors import Message
from pipeline_plugins.rabbitmq_streams.amqp import MessageReader

__all__ = ["Chunk", "ChunkError"]

_HEADER = struct.Struct(">bbHIqQQIIII")
"""Magic and version, chunk type, entries, records, timestamp, epoch, first offset, CRC, data length, trailer length,
and four bytes that are reserved (docs/PROTOCOL.adoc of the stream plugin)."""
_BEFORE: Final = 5  # the frame's key and version, and the subscription's id
_u32 = struct.Struct(">I").unpack_from
_block = struct.Struct(">BHII").unpack_from
_BLOCK_HEADER: Final = 11
_USER: Final = 0
_COMPRESSIONS: Final = {0: "none", 1: "gzip", 2: "snappy", 3: "lz4", 4: "zstd"}
_MAX_BLOCK: Final = 256 * 1024 * 1024
"""How large an unpacked block may be, so that a small message can't fill the memory."""


class ChunkError(Exception):
    """The chunk's bytes are not what its header says: it was damaged on its way."""


class Chunk:
    """A chunk, and how far it has been read.

    Attributes:
        first: The offset of its first message.
        end: The offset after its last message.
        timestamp: When it was written, in milliseconds since 1970 (UTC).
        size: How many bytes it takes.
    """

    __slots__ = ("_block", "_data", "_defect", "_entries", "_offset", "_pos", "end", "first", "size", "timestamp")

    def __init__(self, frame: bytes) -> None:
        """Take a `Deliver` frame (without its length) apart.

        Raises:
            ChunkError: It is not as long as it says, or its checksum is wrong.
        """
        if len(frame) < _BEFORE + _HEADER.size:
            raise ChunkError(f"a chunk of {len(frame)} bytes is too short")
        _, kind, entries, records, timestamp, _, first, crc, length, _, _ = _HEADER.unpack_from(frame, _BEFORE)
        begin = _BEFORE + _HEADER.size
        if kind != _USER:  # RabbitMQ's own notes; it delivers none today
            entries = records = 0
        self._data = frame[begin : begin + length]
        if len(self._data) != length:
            raise ChunkError(f"the chunk at offset {first} has {len(self._data)} of its {length} bytes")
        if zlib.crc32(self._data) != crc:
            raise ChunkError(f"the chunk at offset {first} has a wrong checksum")
        self.first: int = first
        self.end: int = first + records
        self.timestamp: int = timestamp
        self.size = len(frame)
        self._entries: int = entries
        self._offset: int = first
        self._pos = 0
        self._block: list[bytes] = []  # the rest of the block being read, last message first
        self._defect: str | None = None  # why that block could not be unpacked

    def __contains__(self, offset: int) -> bool:
        return self.first <= offset < self.end

    def skip_to(self, offset: int) -> None:
        """Leave out the messages before `offset`.

        Raises:
            ChunkError: An entry is longer than the chunk.
        """
        try:
            while self._offset < offset and (self._entries or self._block):
                if self._block:
                    self._block.pop()
                    self._offset += 1
                elif self._data[self._pos] & 0x80:
                    self._open_block()
                else:
                    self._pos += 4 + _u32(self._data, self._pos)[0]
                    self._entries -= 1
                    self._offset += 1
        except (IndexError, struct.error):
            raise ChunkError(f"the chunk at offset {self.first} is cut short") from None

    def take(self, reader: MessageReader, into: list[Message], limit: int) -> bool:
        """Append the next messages to `into` until it holds `limit`; says whether the chunk is finished.

        Raises:
            ChunkError: An entry is longer than the chunk.
        """
        try:
            self._take(reader, into, limit)
        except (IndexError, struct.error):
            raise ChunkError(f"the chunk at offset {self.first} is cut short") from None
        return not self._entries and not self._block

    def _take(self, reader: MessageReader, into: list[Message], limit: int) -> None:
        data, pos, offset, timestamp = self._data, self._pos, self._offset, self.timestamp
        read, append = reader.read, into.append
        entries = self._entries
        room = limit - len(into)
        while room > 0 and (entries or self._block):
            if self._block:
                append(self._record(reader, self._block.pop(), offset))
            else:
                size = _u32(data, pos)[0]
                if size & 0x8000_0000:
                    self._pos, self._entries, self._offset = pos, entries, offset
                    self._open_block()
                    pos, entries = self._pos, self._entries
                    continue
                begin = pos + 4
                pos = begin + size
                if pos > len(data):
                    raise IndexError
                append(read(data, begin, pos, offset, timestamp))
                entries -= 1
            offset += 1
            room -= 1
        self._pos, self._entries, self._offset = pos, entries, offset

    def _record(self, reader: MessageReader, record: bytes, offset: int) -> Message:
        if self._defect is not None:
            return Message(offset, self.timestamp, record, defect=self._defect)
        return reader.read(record, 0, len(record), offset, self.timestamp)

    def _open_block(self) -> None:
        """Take the block at the reading position, whose messages then come one by one."""
        kind, count, unpacked, packed = _block(self._data, self._pos)
        begin = self._pos + _BLOCK_HEADER
        self._pos = begin + packed
        self._entries -= 1
        if self._pos > len(self._data):
            raise IndexError
        content = self._data[begin : self._pos]
        try:
            records, self._defect = _records(kind >> 4 & 0x7, content, unpacked, count), None
        except ValueError as error:
            self._defect = f"{error}; the first of the block's {count} messages, from offset {self._offset}, keeps it"
            records = [content, *[b""] * (count - 1)][:count]
        self._block = records[::-1]


def _records(compression: int, content: bytes, unpacked: int, count: int) -> list[bytes]:
    """The messages of a block. Raises `ValueError` where it can't be unpacked."""
    if compression == 1:
        content = _gunzip(content, unpacked)
    elif compression:
        name = _COMPRESSIONS.get(compression, str(compression))
        raise ValueError(f"the message lies in a block compressed with {name}: only gzip and none can be read")
    records: list[bytes] = []
    pos = 0
    for _ in range(count):
        if pos + 4 > len(content):
            raise ValueError(f"the message lies in a block that should hold {count} and ends after {len(records)}")
        end = pos + 4 + _u32(content, pos)[0]
        records.append(content[pos + 4 : end])
        pos = end
    if pos > len(content):
        raise ValueError("the message lies in a block whose last message is cut short")
    return records


def _gunzip(content: bytes, size: int) -> bytes:
    if size > _MAX_BLOCK:
        raise ValueError(f"the message lies in a block of {size} bytes: at most {_MAX_BLOCK} are unpacked")
    unzip = zlib.decompressobj(wbits=31)
    try:
        data = unzip.decompress(content, size + 1)
    except zlib.error as error:
        raise ValueError(f"the message lies in a block that is no gzip: {error}") from None
    if len(data) != size or not unzip.eof:
        raise ValueError("the message lies in a block that does not unpack to the size it gives")
    return data
