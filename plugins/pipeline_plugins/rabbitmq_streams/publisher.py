"""Publishing to one stream with confirms: in order, and never waiting for ever."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Sequence
from typing import Final

from rstream import schema

from pipeline.connectors import BrokerRefused, Outgoing
from pipeline.errors import Unavailable
from pipeline_plugins.rabbitmq_streams.amqp_writer import encode_message
from pipeline_plugins.rabbitmq_streams.cluster import link_for_publishing
from pipeline_plugins.rabbitmq_streams.frames import Text, check_sizes, publish_frames
from pipeline_plugins.rabbitmq_streams.link import Link, Listener
from pipeline_plugins.rabbitmq_streams.refusals import explain, lost
from pipeline_plugins.rabbitmq_streams.url import Address

__all__ = ["Publisher"]

CONFIRM_SECONDS: Final = 30.0
"""How long publishing goes on without a single confirm before its outcome is unknown."""
_AT_ONCE: Final = 1000
_ID: Final = 0


class _Batch:
    """Messages of one call that are not confirmed yet."""

    __slots__ = ("done", "error", "left", "touched")

    def __init__(self, left: int, now: float) -> None:
        self.left = left
        self.touched = now
        self.done = asyncio.Event()
        self.error: Unavailable | BrokerRefused | None = None

    def fail(self, error: Unavailable | BrokerRefused) -> None:
        self.error = self.error or error
        self.done.set()


class Publisher(Listener):
    """A publisher on a link of its own; made by `Publisher.open`. One that `is_lost` is replaced, never mended."""

    def __init__(self, link: Link, stream: str) -> None:
        self.link = link
        self.stream = stream
        self._ended = False
        self._ids = itertools.count(1)
        self._waiting: dict[int, _Batch] = {}
        self._clock = asyncio.get_running_loop().time

    @classmethod
    async def open(cls, address: Address, label: str, stream: str) -> Publisher:
        """Connect to the stream's leader and announce a publisher there.

        Raises:
            Unavailable: It can't be reached.
            BrokerRefused: There is no such stream, or it may not be written to.
        """
        link = await link_for_publishing(address, label, stream)
        publisher = cls(link, stream)
        link.listeners[_ID] = publisher
        try:
            await link.request(schema.DeclarePublisher, publisher_id=_ID, reference="", stream=Text(stream))
        except BaseException:
            await link.close()
            raise
        return publisher

    @property
    def is_lost(self) -> bool:
        """Whether it can publish no more."""
        return self._ended or self.link.is_lost

    async def close(self) -> None:
        """Let go of the link; batches that are not confirmed fail."""
        await self.link.close()

    async def publish(self, messages: Sequence[Outgoing]) -> None:
        """Append the messages in order; returns when all are confirmed.

        Raises:
            Unavailable: The link broke, the stream moved, or no confirm came for 30 seconds: the outcome is unknown.
            MessageRefused: A message is too large or can't be written, and none was.
            BrokerRefused: The broker says no.
        """
        encoded = await self._encode(messages)
        batch = _Batch(len(encoded), self._clock())
        sent: list[range] = []
        try:
            for begin in range(0, len(encoded), _AT_ONCE):
                sent.append(self._write(encoded[begin : begin + _AT_ONCE], batch))
                await self._drain(batch)
            await self._confirmed(batch)
        finally:
            if batch.left:
                for ids in sent:
                    for id_ in ids:
                        self._waiting.pop(id_, None)

    def confirmed(self, ids: tuple[int, ...]) -> None:
        """Strike these messages off."""
        now = self._clock()
        for id_ in ids:
            batch = self._waiting.pop(id_, None)
            if batch is not None:
                batch.left -= 1
                batch.touched = now
                if not batch.left:
                    batch.done.set()

    def rejected(self, id_: int, code: int) -> None:
        """This message is not written."""
        batch = self._waiting.pop(id_, None)
        if batch is not None:
            batch.fail(explain(code, self.link.address, self.stream))

    def updated(self, stream: str) -> None:
        """The stream has moved or is gone, and this publisher with it."""
        if stream == self.stream:
            self._ended = True
            self._fail(lost(self.link.address, f"the stream {stream!r} has moved or was deleted meanwhile"))

    def lost(self) -> None:
        """The link is dead."""
        try:
            self.link.check()
        except Unavailable as error:
            self._fail(error)

    async def _encode(self, messages: Sequence[Outgoing]) -> list[bytes]:
        """The messages' bytes, all of them before the first is sent; others get their turn between."""
        encoded: list[bytes] = []
        for begin in range(0, len(messages), _AT_ONCE):
            encoded += [encode_message(message) for message in messages[begin : begin + _AT_ONCE]]
            check_sizes(encoded[begin:], self.link.frame_max)
            await asyncio.sleep(0)
        return encoded

    def _fail(self, error: Unavailable) -> None:
        for batch in set(self._waiting.values()):
            batch.fail(error)

    def _write(self, encoded: list[bytes], batch: _Batch) -> range:
        """Send messages, with rising ids, of a batch."""
        if self._ended:
            raise lost(self.link.address, f"the stream {self.stream!r} has moved or was deleted")
        first = next(self._ids)
        ids = range(first, first + len(encoded))
        self._ids = itertools.count(ids.stop)
        self._waiting.update(dict.fromkeys(ids, batch))
        for frame in publish_frames(_ID, first, encoded, self.link.frame_max):
            self.link.write(frame)
        return ids

    async def _drain(self, batch: _Batch) -> None:
        """Wait until there is room for more."""
        try:
            async with asyncio.timeout(CONFIRM_SECONDS):
                await self.link.drain()
        except TimeoutError:
            raise self._silent() from None
        if batch.error is not None:
            raise batch.error

    async def _confirmed(self, batch: _Batch) -> None:
        """Wait until every message is confirmed, or none was for too long."""
        while not batch.done.is_set():
            try:
                async with asyncio.timeout(batch.touched + CONFIRM_SECONDS - self._clock()):
                    await batch.done.wait()
            except TimeoutError:
                if self._clock() - batch.touched >= CONFIRM_SECONDS:
                    raise self._silent() from None
        if batch.error is not None:
            raise batch.error

    def _silent(self) -> Unavailable:
        reason = f"no confirm came for {CONFIRM_SECONDS:g} seconds (is a memory or disk alarm on?)"
        self.link.end(reason)
        return lost(self.link.address, reason)
