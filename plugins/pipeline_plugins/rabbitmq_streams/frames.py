"""Frames of the stream protocol that rstream has not, or has too slow, and names as the protocol takes them."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Final

from pipeline.connectors import BrokerRefused, MessageRefused

__all__ = [
    "DELIVER",
    "PUBLISH_CONFIRM",
    "STREAM_STATS",
    "Text",
    "check_sizes",
    "checked_name",
    "publish_frames",
    "read_confirm",
    "read_stats",
    "stats_request",
]

DELIVER: Final = 0x0008
PUBLISH_CONFIRM: Final = 0x0003
STREAM_STATS: Final = 0x801C
MAX_NAME: Final = 255
"""How many bytes RabbitMQ takes for the name of a stream, a consumer group or a reader."""
_MAX_PUBLISHED: Final = 10_000
"""How many messages one frame publishes at most, so that confirms come while others are sent."""
_CONFIRM = struct.Struct(">BI").unpack_from
_PUBLISH = struct.Struct(">IHHBI").pack
_MESSAGE = struct.Struct(">QI").pack
_MESSAGE_OVERHEAD: Final = 12
_PUBLISH_OVERHEAD: Final = 13


class Text(str):
    """Text that rstream encodes rightly: it writes a string's `len` as its size, and the protocol wants bytes."""

    __slots__ = ()

    def __len__(self) -> int:
        return len(self.encode())


def checked_name(what: str, name: str) -> Text:
    """A name as the protocol takes it.

    Raises:
        BrokerRefused: It is empty, or longer than RabbitMQ allows, or not Unicode text.
    """
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        raise BrokerRefused(f"{what} {name!r} is not Unicode text") from None
    if not name:
        raise BrokerRefused(f"{what} is empty")
    if size > MAX_NAME:
        raise BrokerRefused(f"{what} {name[:40]!r}… takes {size} bytes: RabbitMQ allows {MAX_NAME}")
    return Text(name)


def check_sizes(messages: Sequence[bytes], frame_max: int) -> None:
    """Raise `MessageRefused` where a message alone is larger than a frame may be."""
    room = frame_max - _PUBLISH_OVERHEAD - _MESSAGE_OVERHEAD
    size = max(map(len, messages), default=0)
    if size > room:
        raise MessageRefused(f"a message takes {size} bytes: RabbitMQ takes {room} at most here (its stream.frame_max)")


def read_confirm(frame: bytes) -> tuple[int, tuple[int, ...]]:
    """The publisher's id and the publishing ids that a `PublishConfirm` frame confirms."""
    publisher, count = _CONFIRM(frame, 4)
    return publisher, struct.unpack_from(f">{count}Q", frame, 9)


def publish_frames(publisher: int, first_id: int, messages: Sequence[bytes], frame_max: int) -> Iterator[bytes]:
    """`Publish` frames for messages with rising ids, each at most `frame_max` bytes long where its messages allow."""
    parts: list[bytes] = []
    size = _PUBLISH_OVERHEAD
    for number, message in enumerate(messages):
        grown = size + _MESSAGE_OVERHEAD + len(message)
        if parts and (grown > frame_max or len(parts) >= 2 * _MAX_PUBLISHED):
            yield _publish(publisher, parts, size)
            parts = []
            grown = _PUBLISH_OVERHEAD + _MESSAGE_OVERHEAD + len(message)
        parts += (_MESSAGE(first_id + number, len(message)), message)
        size = grown
    if parts:
        yield _publish(publisher, parts, size)


def _publish(publisher: int, parts: list[bytes], size: int) -> bytes:
    return _PUBLISH(size - 4, 2, 1, publisher, len(parts) // 2) + b"".join(parts)


def stats_request(correlation_id: int, stream: str) -> bytes:
    """A `StreamStats` frame, with its length."""
    name = stream.encode()
    return struct.pack(">IHHIH", 10 + len(name), STREAM_STATS & 0x7FFF, 1, correlation_id, len(name)) + name


def read_stats(frame: bytes) -> tuple[int, int, dict[str, int]]:
    """Correlation id, response code and the numbers of a `StreamStats` response."""
    correlation_id, code, count = struct.unpack_from(">IHI", frame, 4)
    pos, stats = 14, {}
    for _ in range(count):
        end = pos + 2 + struct.unpack_from(">H", frame, pos)[0]
        stats[frame[pos + 2 : end].decode()] = struct.unpack_from(">q", frame, end)[0]
        pos = end + 8
    return correlation_id, code, stats
