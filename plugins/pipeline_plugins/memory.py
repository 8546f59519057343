"""Streams in this process's memory: for unit tests, and for measuring the runner without a broker."""

from __future__ import annotations

import asyncio
import threading
import time
from bisect import bisect_left
from collections.abc import AsyncIterator, Sequence
from typing import ClassVar
from weakref import WeakValueDictionary

from pipeline import Unavailable, hookimpl
from pipeline.connectors import BrokerRefused, Connector, Message, MessageBatch, Outgoing, Start, StreamBounds
from pipeline_plugins.wakeup import Wakeup

__all__ = ["MemoryConnector", "MemoryStore", "pipeline_connectors"]


class _Log:
    """One stream: its messages, and where the next one and the newest chunk stand."""

    __slots__ = ("chunk", "groups", "messages", "next")

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.next = 0
        self.chunk = 0
        self.groups: dict[str, int] = {}

    @property
    def first(self) -> int:
        """The oldest offset that is kept."""
        return self.next - len(self.messages)

    def append(self, outgoing: Sequence[Outgoing], now: int) -> None:
        """Append one chunk; timestamps never fall, whatever the clock does."""
        timestamp = max(now, self.messages[-1].timestamp) if self.messages else now
        self.chunk = self.next
        self.messages += [
            Message(offset, timestamp, out.body, out.routing_key, out.id, dict(out.headers), out.content_type)
            for offset, out in enumerate(outgoing, self.next)
        ]
        self.next += len(outgoing)

    def position(self, start: Start) -> int | None:
        """The offset that reading begins at; None where the stream has not reached that time yet."""
        match start.at:
            case "first":
                return self.first
            case "last":
                return max(self.chunk, self.first)
            case "next":
                return self.next
            case "offset":
                return start.value
            case "time":
                index = bisect_left(self.messages, start.value, key=lambda message: message.timestamp)
                return self.messages[index].offset if index < len(self.messages) else None

    def take(self, position: int, most: int) -> MessageBatch:
        """At most so many messages, from this offset on."""
        index = max(position - self.first, 0)
        return self.messages[index : index + most]


class MemoryStore:
    """A broker in memory, with the failures that a test wants to see.

    Attributes:
        down: Why the broker can't be reached; None while it can. See `fail` and `recover`.
    """

    _named: ClassVar[WeakValueDictionary[str, MemoryStore]] = WeakValueDictionary()

    def __init__(self) -> None:
        self.down: str | None = None
        self.changed = Wakeup()
        self.session = 0
        self._logs: dict[str, _Log] = {}
        self._writing = threading.Lock()

    @classmethod
    def named(cls, name: str) -> MemoryStore:
        """The store that all connectors of this URL share; it lives as long as any of them."""
        return cls._named.setdefault(name, cls())

    def fail(self, reason: str = "the test says so") -> None:
        """Be out of reach until `recover`: readers end, and calls raise `Unavailable`."""
        self.down = reason
        self.cut()

    def recover(self) -> None:
        """Be reachable again."""
        self.down = None

    def cut(self) -> None:
        """Break every connection once, as a network does; the next `connect` succeeds."""
        self.session += 1
        self.changed.notify()

    def create(self, stream: str) -> None:
        """Create the stream where it does not exist yet."""
        self._logs.setdefault(stream, _Log())

    def delete(self, stream: str) -> None:
        """Delete the stream with all that it holds."""
        self._logs.pop(stream, None)
        self.changed.notify()

    def trim(self, stream: str, before: int) -> None:
        """Forget the messages before this offset, as retention does."""
        log = self.log(stream)
        del log.messages[: max(before - log.first, 0)]

    def log(self, stream: str) -> _Log:
        """The stream's log. Raises `BrokerRefused` where there is no such stream."""
        try:
            return self._logs[stream]
        except KeyError:
            raise BrokerRefused(
                f"there is no stream {stream!r} in memory: create it first ([broker] create_streams = true)"
            ) from None

    def append(self, stream: str, messages: Sequence[Outgoing]) -> None:
        """Append one chunk, and wake the readers."""
        with self._writing:
            self.log(stream).append(messages, time.time_ns() // 1_000_000)
        self.changed.notify()


class _Link:
    """One connection to a store; it ends when the store's session does."""

    __slots__ = ("session",)

    def __init__(self, session: int) -> None:
        self.session = session


class MemoryConnector(Connector):
    """Connects to the `MemoryStore` that every connector of the same URL in this process shares.

    Args:
        url: ``memory://name``.
        store: Another store to use, such as one that outlives its connectors.
    """

    schemes = ("memory",)
    creates_streams = True

    def __init__(self, url: str, store: MemoryStore | None = None) -> None:
        super().__init__(url)
        self.store = store or MemoryStore.named(url.removeprefix("memory://"))
        self._link: _Link | None = None

    async def connect(self) -> None:
        """Connect. Raises `Unavailable` while the store is told to fail."""
        if self.store.down is not None:
            raise Unavailable("broker", self.store.down)
        if self._link is None or self._link.session != self.store.session:
            self._link = _Link(self.store.session)

    async def close(self) -> None:
        """Close the connection; its readers end with `Unavailable`."""
        self._link = None
        self.store.changed.notify()

    async def probe(self) -> None:
        """Return while the store is reachable."""
        self._reach()

    async def create_stream(self, stream: str) -> None:
        """Create the stream where it does not exist yet."""
        self._reach().create(stream)

    async def bounds(self, stream: str) -> StreamBounds:
        """What the stream holds."""
        log = self._reach().log(stream)
        return StreamBounds(log.first, log.next - 1) if log.messages else StreamBounds(None, None)

    async def timestamp_at(self, stream: str, offset: int) -> int | None:
        """When the message at this offset was published."""
        log = self._reach().log(stream)
        if not log.first <= offset < log.next:
            return None
        return log.messages[offset - log.first].timestamp

    async def read(self, stream: str, start: Start, *, name: str, max_batch: int = 500) -> AsyncIterator[MessageBatch]:
        """Read for ever; the messages are shared with every other reader."""
        store = self._reach()
        log = store.log(stream)
        link = self._link
        position = log.position(start)
        while True:
            seen = store.changed.count
            self._reach(link)
            if store.log(stream) is not log:
                raise BrokerRefused(f"the stream {stream!r} was deleted while it was read")
            if position is None:
                position = log.position(start)
            if position is not None and (batch := log.take(position, max_batch)):
                position = batch[-1].offset + 1
                yield batch
                await asyncio.sleep(0)  # a reader that never waits would keep every other task out
            else:
                await store.changed.wait(seen)

    async def publish(self, stream: str, messages: Sequence[Outgoing]) -> None:
        """Append all messages as one chunk."""
        store = self._reach()
        store.log(stream)
        if messages:
            store.append(stream, messages)

    async def stored_offset(self, stream: str, group: str) -> int | None:
        """The offset that the group stored last."""
        return self._reach().log(stream).groups.get(group)

    async def store_offset(self, stream: str, group: str, offset: int) -> None:
        """Keep the group's offset as long as the store lives."""
        self._reach().log(stream).groups[group] = offset

    def _reach(self, since: _Link | None = None) -> MemoryStore:
        """The store, where this connection, and the one that a reader began on, still stands."""
        link = self._link
        if self.store.down is not None:
            raise Unavailable("broker", self.store.down)
        if link is None:
            raise Unavailable("broker", "not connected")
        if link.session != self.store.session or since not in (None, link):
            raise Unavailable("broker", "the connection was lost")
        return self.store


@hookimpl
def pipeline_connectors() -> Sequence[type[Connector]]:
    """Registers the connector for ``memory://``."""
    return (MemoryConnector,)
