"""Deliver frames, as RabbitMQ sends them, for the tests."""

from __future__ import annotations

import gzip
import struct
import zlib
from collections.abc import Sequence


def entry(record: bytes) -> bytes:
    """A message of its own."""
    return len(record).to_bytes(4, "big") + record


def block(records: Sequence[bytes], compression: int = 0, packed: bytes | None = None) -> bytes:
    """Messages in one entry, compressed with 0 (none), 1 (gzip) or whatever gave `packed`."""
    plain = b"".join(map(entry, records))
    if packed is None:
        packed = gzip.compress(plain) if compression == 1 else plain
    return struct.pack(">BHII", 0x80 | compression << 4, len(records), len(plain), len(packed)) + packed


def deliver(entries: Sequence[bytes], first: int = 0, records: int | None = None, timestamp: int = 1000) -> bytes:
    """A frame with one chunk, without the frame's length."""
    data = b"".join(entries)
    header = struct.pack(
        ">bbHIqQQIIII",
        0x50, 0, len(entries), len(entries) if records is None else records, timestamp, 1, first,
        zlib.crc32(data), len(data), 0, 0,
    )  # fmt: skip
    return b"\x00\x08\x00\x01\x00" + header + data
