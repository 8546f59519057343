"""A subscription to one stream: chunks come on credit, and credit is given only as messages are taken."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from time import monotonic
from typing import Final

from rstream import schema
from rstream.constants import OffsetType

from pipeline.connectors import Message, MessageBatch, Start
from pipeline.errors import Unavailable
from pipeline_plugins.rabbitmq_streams.amqp import MessageReader
from pipeline_plugins.rabbitmq_streams.chunks import Chunk, ChunkError
from pipeline_plugins.rabbitmq_streams.damage import Damage
from pipeline_plugins.rabbitmq_streams.frames import Text
from pipeline_plugins.rabbitmq_streams.link import Link, Listener
from pipeline_plugins.rabbitmq_streams.refusals import OK, STREAM_NOT_AVAILABLE, unreadable

__all__ = ["Subscription"]

_log = logging.getLogger(__name__)
MAX_CHUNKS: Final = 64
"""How many chunks may be waiting here or under way; many, because an AMQP publisher's hold one message each."""
MIN_CHUNKS: Final = 2
"""So that the next one is under way while one is read."""
MAX_BYTES: Final = 4 * 1024 * 1024
"""What the chunks that wait here or are under way may take together, as far as the size of the last ones foretells."""
MAX_BATCH_BYTES: Final = 8 * 1024 * 1024
"""How many bytes of messages, as unpacked, make a batch: the message that passes them is its last."""
_FIRST_CREDIT: Final = 1
"""The credit given with the subscription; more follows once the size of the chunks is known.

It must be 1: RabbitMQ holds chunks back until it has more credit than half of this, also where none wait here.
"""
_AT_ONCE: Final = 5.0
"""A read that ends within so many seconds, or amid a chunk, ended for what lies there if it does so again and again."""
_ID: Final = 0
_OFFSETS: Final = {
    "first": OffsetType.FIRST,
    "last": OffsetType.LAST,
    "next": OffsetType.NEXT,
    "offset": OffsetType.OFFSET,
    "time": OffsetType.TIMESTAMP,
}


class Subscription(Listener):
    """The one subscription on a link; it ends with the link.

    Attributes:
        granted: For how many chunks the broker holds credit: they are under way, or will be written one day.
        waiting: The chunks that have come and are not finished.
        moved: The stream has moved or is gone, and the broker has ended the subscription.
    """

    def __init__(self, link: Link, stream: str, start: Start, damage: Damage | None = None) -> None:
        """Subscribe by `open`.

        Args:
            link: A link to a node that holds the stream, with no other subscription.
            stream: The stream's name.
            start: Where to begin.
            damage: What is remembered of damaged chunks, over many subscriptions.
        """
        self.link = link
        self.stream = stream
        self.granted = 0
        self.waiting: deque[Chunk] = deque()
        self.moved = False
        self._start = start
        self._damage = damage or Damage()
        self._opened: float | None = None
        self._size = 0.0
        self._next: int | None = None
        self._reader = MessageReader()
        self._came = asyncio.Event()

    async def open(self, label: str = "") -> bool:
        """Subscribe; false where the link's node holds no replica of the stream.

        Args:
            label: The subscription's name in RabbitMQ's own tools.

        Raises:
            Unavailable: The link is dead.
            Unreadable: It is dead at once, again and again.
            BrokerRefused: There is no such stream, or it may not be read.
        """
        self.granted = _FIRST_CREDIT
        self.link.listeners[_ID] = self
        kind = _OFFSETS[self._start.at]
        value = self._start.value if self._start.at in ("offset", "time") else None
        properties = [schema.Property("name", Text(label))] if label else []
        self._opened = monotonic()
        try:
            response = await self.link.request(
                schema.Subscribe,
                tolerate=(STREAM_NOT_AVAILABLE,),
                subscription_id=_ID,
                stream=Text(self.stream),
                offset_spec=schema.OffsetSpec.from_params(kind, value),
                credit=self.granted,
                properties=properties,
            )
        except Unavailable as error:
            raise self._judged(error) from None
        return bool(response.response_code == OK)

    async def chunk(self) -> Chunk | None:
        """The next chunk, with its messages from the start on; None when the broker has ended the subscription.

        Raises:
            Unavailable: The link is dead, and everything that came before has been taken.
            Unreadable: It is dead before anything came, again and again.
        """
        while not self.waiting:
            if self.moved:
                return None
            try:
                self.link.check()
            except Unavailable as error:
                raise self._judged(error) from None
            self._came.clear()
            await self._came.wait()
        return self.waiting[0]

    def _judged(self, error: Unavailable) -> Unavailable:
        """What the link's death means: `Unreadable` where it dies here again and again before anything comes."""
        if self._opened is None or not self.link.is_lost:
            return error
        if monotonic() - self._opened > _AT_ONCE and not self.link.is_amid_frame:
            self._damage.came(self.stream, self._start)  # it stood: there was nothing that could not be read
            return error
        is_dead_end = self._damage.is_dead_end(self.stream, self._start)
        return unreadable(self.stream, self._start, error) if is_dead_end else error

    async def batch(self, limit: int) -> MessageBatch:
        """The next messages, at most `limit`, fewer where they are large; empty when the broker has ended it.

        Waits for one message, and then takes what is there. Raises like `chunk`; and `Unavailable` where retention has
        removed messages that were to come: RabbitMQ passes them over without a word.
        """
        messages: list[Message] = []
        while not messages and await self.chunk() is not None:
            size = 0
            while self.waiting and len(messages) < limit and size < MAX_BATCH_BYTES:
                chunk = self.waiting[0]
                if self._next is not None and chunk.first > self._next:
                    if messages:
                        return messages
                    await self._explain_gap(self._next, chunk.first)
                taken, before = chunk.taken, len(messages)
                if chunk.take(self._reader, messages, limit, MAX_BATCH_BYTES - size):
                    self._finished()
                    if chunk.wrong and len(messages) > before:
                        self._tell_wrong(chunk)
                self._next = chunk.end
                size += chunk.taken - taken
        return messages

    async def _explain_gap(self, begin: int, end: int) -> None:
        """Offsets may be taken by the broker's own notes. Raises `Unavailable` where retention removed them."""
        first = (await self.link.stats(self.stream)).get("first_chunk_id", -1)
        if first > begin:
            raise Unavailable(
                "broker",
                f"retention removed offsets {begin} to {max(end, first) - 1} of the stream {self.stream} before they "
                "were read",
            )

    def _tell_wrong(self, chunk: Chunk) -> None:
        """Say that a header was wrong, and read on behind the chunk anew: the broker goes by that header."""
        _log.error(
            "stream %s: the header of the chunk at offset %d is damaged where it lies: %s; all of it has been read",
            self.stream, chunk.first, chunk.wrong,
        )  # fmt: skip
        self.link.end(f"the chunk at offset {chunk.first} has a damaged header: it is read on behind it")

    def delivered(self, frame: bytes) -> None:
        """Keep a chunk. One that is damaged makes the link dead by what this raises, and is then sent again.

        One that comes damaged in the same way each time is damaged where it lies, and is kept as it is.
        """
        try:
            chunk = Chunk(frame)
        except ChunkError:
            if not self._damage.lasts(self.stream, frame):
                raise
            chunk = Chunk(frame, damaged=True)
        self._keep(chunk)

    def stalled(self, frame: bytes) -> bool:
        """Keep a chunk that is sound, although more bytes were announced than come."""
        try:
            self._keep(Chunk(frame))
        except ChunkError:
            return False
        return True

    def _keep(self, chunk: Chunk) -> None:
        if self._start.at == "time" and chunk.timestamp < self._start.value:
            chunk.skip_to(chunk.end)
        elif self._start.at == "offset":
            chunk.skip_to(self._start.value)
        self._size = max(chunk.size, self._size + (chunk.size - self._size) / 8)
        if self._opened is not None:
            self._damage.came(self.stream, self._start)
            self._opened = None
        self.granted -= 1
        self.waiting.append(chunk)
        self._came.set()

    def updated(self, stream: str) -> None:
        """The stream has moved or is gone."""
        if stream == self.stream:
            self.moved = True
            self._came.set()

    def lost(self) -> None:
        """The link is dead."""
        self._came.set()

    def _target(self) -> int:
        """For how many chunks, waiting or under way, there is room."""
        return max(MIN_CHUNKS, min(MAX_CHUNKS, int(MAX_BYTES / max(self._size, 1.0))))

    def _finished(self) -> None:
        """Drop the first chunk, and give credit again once a quarter of the room is free."""
        self.waiting.popleft()
        if self.moved or self.link.is_lost:
            return
        target = self._target()
        free = target - self.granted - len(self.waiting)
        if free * 4 >= target:
            self.granted += free
            self.link.send(schema.Credit(subscription_id=_ID, credit=free))
