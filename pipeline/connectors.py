"""The contract of a broker: what a connector to a stream offers, free of any framework.

A stream is an append-only log of messages with rising offsets (which may have gaps). A connector reads it in
batches from a given position, appends to it with confirmation, and keeps one offset per consumer group for
monitoring. Delivery guarantees are not its business: the runner keeps progress in SQL and asks for the position
it wants.

Every failure to reach the broker is `Unavailable("broker", …)`; everything that no retry can mend (a missing
stream, a refused login, a bad URL) is a `BrokerRefused`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal

from pipeline.errors import Unavailable, UserError

__all__ = [
    "BrokerRefused", "Connector", "Message", "MessageBatch", "MessageRefused", "Outgoing", "Start", "StreamBounds",
    "Unreadable",
]  # fmt: skip

_PER_VALUE: Final = 8
"""Bytes of a header's value beside its text, reckoned."""


class BrokerRefused(UserError):
    """The broker answered, and said no: a missing stream, a refused login. Says what to do."""


class MessageRefused(BrokerRefused):
    """A message can't be published as it is, on any try: it is too large, or holds what the broker can't carry."""


class Unreadable(Unavailable):
    """A stream can't be read on from where it is, again and again: what lies there is damaged, most likely.

    Says where and what to do. It is waited out like an outage, as another replica may be whole; but waiting mends
    nothing, so it is told as an error, and stands until a read delivers something, or lasts.
    """


class Message:
    """One message as it lies in a stream.

    Attributes:
        offset: Its place in the stream.
        timestamp: When its chunk was written, in milliseconds since 1970 (UTC); identifies the chunk.
        body: The payload's bytes.
        routing_key: The AMQP routing key, the publisher's subject, or None.
        id: The message id that the publisher gave, or None.
        headers: Application headers as JSON values.
        content_type: The media type that the publisher gave, or None.
        defect: Why the message could not be decoded; then `body` is the raw frame. None where all is well.
        size: How many bytes it takes with its headers, which is what `limits.in_flight` counts. A connector gives what
            it knows at no cost, as the length of the encoded message; where it gives none, it is reckoned.
    """

    __slots__ = ("body", "content_type", "defect", "headers", "id", "offset", "routing_key", "size", "timestamp")

    def __init__(
        self,
        offset: int,
        timestamp: int,
        body: bytes,
        routing_key: str | None = None,
        id: str | None = None,  # noqa: A002 - the field's name everywhere else
        headers: Mapping[str, Any] = {},
        content_type: str | None = None,
        defect: str | None = None,
        size: int | None = None,
    ) -> None:
        self.offset = offset
        self.timestamp = timestamp
        self.body = body
        self.routing_key = routing_key
        self.id = id
        self.headers = headers
        self.content_type = content_type
        self.defect = defect
        self.size = len(body) + (_weight(headers) if headers else 0) if size is None else size

    def __repr__(self) -> str:
        return f"<Message {self.offset} {self.routing_key!r} id={self.id!r} {len(self.body)} bytes>"


def _weight(headers: Mapping[str, Any]) -> int:
    """About how many bytes headers take, their lists and maps included."""
    size = 0
    left: list[Any] = [headers]
    while left:
        value = left.pop()
        if isinstance(value, str | bytes):
            size += len(value)
        elif isinstance(value, Mapping):
            left += value
            left += value.values()
        elif isinstance(value, Sequence):
            left += value
        size += _PER_VALUE
    return size


MessageBatch = list[Message]
"""Messages of one stream in offset order; never empty."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """A message to publish.

    Attributes:
        body: The payload's bytes.
        routing_key: What it is routed by.
        id: The message id; readers dedupe by it.
        headers: Application headers: strings, numbers, booleans.
        content_type: Its media type.
    """

    body: bytes
    routing_key: str
    id: str
    headers: Mapping[str, Any] = field(default_factory=dict)
    content_type: str | None = "application/json"


@dataclass(frozen=True, slots=True)
class Start:
    """Where reading begins.

    Attributes:
        at: `first` (the oldest retained), `last` (the newest chunk), `next` (what comes from now on), `offset`, `time`.
        value: The offset, or the time in milliseconds since 1970 (UTC); 0 for the others. Messages before either are
            never delivered, also where the broker's own granularity is a chunk.
    """

    at: Literal["first", "last", "next", "offset", "time"]
    value: int = 0


@dataclass(frozen=True, slots=True)
class StreamBounds:
    """What a stream holds now.

    Attributes:
        first: The oldest retained offset; None for an empty stream.
        last: The newest readable offset (or a lower bound of it, where the broker tells no more); None if empty.
    """

    first: int | None
    last: int | None


class Connector(ABC):
    """A connection to one broker. Created without I/O; `connect` and `close` may be called again and again.

    Class attributes:
        schemes: URL schemes that this connector serves.
        default_url: The URL used where none is configured; at most one installed connector has one.
        creates_streams: Whether a runner creates missing streams here unless it is told not to.
    """

    schemes: ClassVar[tuple[str, ...]]
    default_url: ClassVar[str | None] = None
    creates_streams: ClassVar[bool] = False

    def __init__(self, url: str) -> None:
        self.url = url

    @classmethod
    def url_from_environment(cls, environ: Mapping[str, str]) -> tuple[str, str] | None:
        """The URL that this broker's own variables spell, and which they are; None where they are not set.

        Parts are percent-encoded, so that a password may hold any character.
        """
        return None

    @abstractmethod
    async def connect(self) -> None:
        """Open the connection. Raises `Unavailable` or `BrokerRefused`."""

    @abstractmethod
    async def close(self) -> None:
        """Close it and end every subscription; safe to call twice, and on a broken connection."""

    async def claim(self) -> None:  # noqa: B027 - most brokers have nothing to claim
        """Called once by a runner, before it does anything else, and never by publishers.

        A broker that serves one reading process at a time takes its lock here, until `close`, and raises
        `BrokerRefused` naming the process that has it. Others have nothing to do.
        """

    @abstractmethod
    async def probe(self) -> None:
        """Return when the broker answers now; else raise `Unavailable` or `BrokerRefused`."""

    @abstractmethod
    async def create_stream(self, stream: str) -> None:
        """Create the stream where it does not exist yet; an existing one is left as it is."""

    @abstractmethod
    async def bounds(self, stream: str) -> StreamBounds:
        """What the stream holds. Raises `BrokerRefused` where there is no such stream.

        Raises `Unavailable` where it can't be told now: a stream that is said to be empty, though the runner has read
        from it, is taken for one that was created anew.
        """

    @abstractmethod
    async def timestamp_at(self, stream: str, offset: int) -> int | None:
        """The `Message.timestamp` of the message at this offset; None where the stream holds none there.

        The runner compares it with what its progress remembers, to notice a stream that was deleted and created anew.
        """

    @abstractmethod
    def read(self, stream: str, start: Start, *, name: str, max_batch: int = 500) -> AsyncIterator[MessageBatch]:
        """Read from `start`, for ever: an async generator of batches in offset order, each at most `max_batch` long.

        Memory is bounded: a reader that is slow to ask for the next batch slows the broker's sending down. `name`
        labels the reader in the broker's own tools. Ends only by raising: `Unavailable` when the connection is lost or
        the stream moved (read again from the last offset + 1), which is `Unreadable` where that has helped nothing for
        several times, `BrokerRefused` when the stream is gone. Closing the generator (`aclose`) ends the subscription.
        """

    @abstractmethod
    async def publish(self, stream: str, messages: Sequence[Outgoing]) -> None:
        """Append all messages in this order and return when the broker has confirmed every one.

        Raises `Unavailable` where the outcome is not known or the broker can't be reached: publishing again may then
        write some of them twice, and readers dedupe by `id`. Raises `MessageRefused` where one of the messages is at
        fault, and then none was written; `BrokerRefused` where the broker says no to all.
        """

    @abstractmethod
    async def stored_offset(self, stream: str, group: str) -> int | None:
        """The offset that the group stored last; None where it never did."""

    @abstractmethod
    async def store_offset(self, stream: str, group: str, offset: int) -> None:
        """Keep the group's offset, for monitoring: best effort."""
