"""RabbitMQ Streams as a `Connector`: reading by credit, publishing with confirms, offsets for monitoring."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, ClassVar, Final

from pipeline.connectors import Connector, MessageBatch, Outgoing, Start, StreamBounds
from pipeline.errors import PluginError, Unavailable
from pipeline_plugins.rabbitmq_streams.damage import Damage
from pipeline_plugins.rabbitmq_streams.refusals import (
    OFFSET_NOT_FOUND,
    OK,
    PRECONDITION_FAILED,
    STREAM_EXISTS,
    explain,
)
from pipeline_plugins.rabbitmq_streams.url import PLAIN, TLS, parse_url, url_from_environment

if TYPE_CHECKING:
    from pipeline_plugins.rabbitmq_streams.chunks import Chunk
    from pipeline_plugins.rabbitmq_streams.link import Link
    from pipeline_plugins.rabbitmq_streams.publisher import Publisher
    from pipeline_plugins.rabbitmq_streams.reader import Subscription

__all__ = ["RabbitMQStreamsConnector"]

_PEEK_SECONDS: Final = 2.0
_AT_HAND_SECONDS: Final = 0.05
"""For what has come already to be handed over."""
"""How long the newest chunk is waited for in a stream that may hold nothing but stored offsets."""


class RabbitMQStreamsConnector(Connector):
    """A connection to RabbitMQ's stream protocol, RabbitMQ 3.11 or newer.

    The URL is ``rabbitmq-stream://user:password@host:5552/vhost``, or ``rabbitmq-stream+tls://…`` (port 5551); user,
    password and vhost are percent-encoded, and the vhost is ``/`` where it is left out. Of a cluster, several nodes may
    be named, ``…@host-1:5552,host-2:5552/vhost``: any that answers will do. Options, as a query:

    - ``ca=FILE``, ``cert=FILE``, ``key=FILE``, ``verify=false``, ``server_name=NAME``: TLS.
    - ``heartbeat=SECONDS``: how often both sides show that they live, 8 by default. A peer that is silent for two and a
      half of them, at most three, is given up, so a broken network is noticed within 24 seconds.
    - ``load_balancer=true``: never connect to the addresses that the nodes advertise, only to the URL's host.

    On a single node only the URL's hosts are ever connected to. In a cluster, a stream of which that node holds no
    replica is read from a node that does, and messages are published to the stream's leader, at the addresses that the
    nodes advertise (``stream.advertised_host``, ``stream.advertised_port``): they must be reachable from here, or the
    URL must name a load balancer and say so.
    """

    schemes: ClassVar[tuple[str, ...]] = (PLAIN, TLS)

    def __init__(self, url: str) -> None:
        """Take the URL apart. Raises `BrokerRefused` where it is wrong."""
        super().__init__(url)
        self.address = parse_url(url)
        self._link: Link | None = None
        self._linking = asyncio.Lock()
        self._readers: set[Link] = set()
        self._publishers: dict[str, Publisher] = {}
        self._damage = Damage()
        self._opening: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    @classmethod
    def url_from_environment(cls, environ: Mapping[str, str]) -> tuple[str, str] | None:
        """The URL from ``RABBITMQ_HOST``, ``_STREAM_PORT``, ``_USER``, ``_PASS``, ``_VHOST``, ``_TLS`` and ``_CA``.

        ``RABBITMQ_HOST`` may name several nodes of a cluster, with commas between them.
        """
        return url_from_environment(environ)

    async def connect(self) -> None:
        """Log in once, so that what is wrong shows at once."""
        await self._control()

    async def close(self) -> None:
        """End all readers (they raise `Unavailable`) and publishers, and let go of every connection."""
        for link in list(self._readers):
            link.end("the connector was closed", flush=True)
        held: list[Publisher | Link] = [*self._publishers.values()]
        if self._link is not None:
            held.append(self._link)
        self._publishers, self._link = {}, None
        await asyncio.gather(*(each.close() for each in held))

    async def probe(self) -> None:
        """Ask the broker a question, and return when it answers."""
        from rstream import schema

        await (await self._control()).request(schema.Metadata, streams=[])

    async def create_stream(self, stream: str) -> None:
        """Create the stream with the broker's defaults; one that exists is left as it is, whatever its arguments."""
        from rstream import schema

        name = _name("the stream", stream)
        link = await self._control()
        asked = await link.request(
            schema.Create, stream=name, arguments=[], tolerate=(STREAM_EXISTS, PRECONDITION_FAILED)
        )
        if asked.response_code == PRECONDITION_FAILED and not await self._exists(link, stream):
            raise explain(PRECONDITION_FAILED, self.address, stream)

    async def bounds(self, stream: str) -> StreamBounds:
        """What the stream holds; `first` may be a place where a stored offset lies.

        Raises `Unavailable` too where what it holds can't be told yet: nothing comes of what lies there, as in the
        first moments of a new leader, or the node has copied nothing yet.
        """
        stats = await (await self._control()).stats(_name("the stream", stream))
        if stats.get("first_chunk_id", -1) < 0:
            stats = await self._leaders_stats(stream)
        first = stats.get("first_chunk_id", -1)
        last = await self._peek(stream, Start("last")) if first >= 0 else None
        if last is not None:
            last.count()  # a wrong header would have the stream end elsewhere
            return StreamBounds(first, last.end - 1)
        if first >= 0:
            _check_committed(stream, stats)
        return StreamBounds(None, None)

    async def timestamp_at(self, stream: str, offset: int) -> int | None:
        """When the chunk that holds this offset was written; None where the stream holds no message there."""
        bounds = await self.bounds(stream)
        if bounds.last is None or not 0 <= offset <= bounds.last:
            return None
        chunk = await self._peek(stream, Start("offset", offset))
        if chunk is not None:
            chunk.count()
        return chunk.timestamp if chunk is not None and offset in chunk else None

    async def read(self, stream: str, start: Start, *, name: str, max_batch: int = 500) -> AsyncIterator[MessageBatch]:
        """Read on a connection of its own, which ends with the generator."""
        stream, label = _name("the stream", stream), _name("the reader's name", name)
        _needs_rstream()
        from pipeline_plugins.rabbitmq_streams.cluster import subscribe, why_it_moved

        subscription = await subscribe(self.address, label, stream, start, self._damage)
        link = subscription.link
        self._readers.add(link)
        try:
            while batch := await subscription.batch(max_batch):
                yield batch
            raise await why_it_moved(link, stream)
        finally:
            self._readers.discard(link)
            await link.close()

    async def publish(self, stream: str, messages: Sequence[Outgoing]) -> None:
        """Publish on a connection to the stream's leader, kept for the next time; waits at most 30 s for a confirm."""
        if messages:
            await (await self._publisher(_name("the stream", stream))).publish(messages)

    async def stored_offset(self, stream: str, group: str) -> int | None:
        """What the group stored last; None too where that has fallen out of what the stream retains."""
        from rstream import schema

        names = {"reference": _name("the consumer group", group), "stream": _name("the stream", stream)}
        link = await self._control()
        asked = await link.request(schema.QueryOffset, tolerate=(OFFSET_NOT_FOUND,), **names)
        return int(asked.offset) if asked.response_code == OK else None

    async def store_offset(self, stream: str, group: str, offset: int) -> None:
        """Store the group's offset: RabbitMQ gives no answer, and may take a while. One below 0 is not stored.

        RabbitMQ keeps it in the stream, where it takes an offset of its own: offsets of messages have gaps.
        """
        from rstream import schema

        reference, name = _name("the consumer group", group), _name("the stream", stream)
        link = await self._control()
        if offset >= 0:
            link.send(schema.StoreOffset(reference=reference, stream=name, offset=offset))

    async def _control(self) -> Link:
        """The connection for questions, opened anew where it was lost."""
        _needs_rstream()
        from pipeline_plugins.rabbitmq_streams.cluster import any_link

        async with self._linking:
            if self._link is None or self._link.is_lost:
                self._link = await any_link(self.address, "pipeline")
                self.address = self._link.address  # the node that answered is the one to ask first from now on
            return self._link

    async def _publisher(self, stream: str) -> Publisher:
        _needs_rstream()
        from pipeline_plugins.rabbitmq_streams.publisher import Publisher

        async with self._opening[stream]:
            publisher = self._publishers.get(stream)
            if publisher is None or publisher.is_lost:
                if publisher is not None:
                    del self._publishers[stream]
                    await publisher.close()
                publisher = await Publisher.open(self.address, f"pipeline publisher {stream}", stream)
                self._publishers[stream] = publisher
            return publisher

    async def _exists(self, link: Link, stream: str) -> bool:
        from rstream import schema

        found = await link.request(schema.Metadata, streams=[_name("the stream", stream)])
        return bool(found.metadata[0].response_code == OK)

    async def _leaders_stats(self, stream: str) -> dict[str, int]:
        """What the stream's leader tells: a replica that has just been added is empty, whatever the stream holds."""
        from pipeline_plugins.rabbitmq_streams.cluster import link_to_leader

        link = await link_to_leader(self.address, "pipeline bounds", stream)
        try:
            return await link.stats(stream)
        finally:
            await link.close()

    async def _peek(self, stream: str, start: Start) -> Chunk | None:
        """The one chunk that reading from there would begin with; None where there is none for two seconds.

        After that the broker is asked something else on the same connection: it answers behind what it had to send,
        so that a slow chunk is not taken for none. Raises `Unavailable` where the answer says that chunks wait.
        """
        from pipeline_plugins.rabbitmq_streams.cluster import subscribe, why_it_moved

        subscription = await subscribe(
            self.address, "pipeline bounds", _name("the stream", stream), start, self._damage
        )
        try:
            chunk = await _first_chunk(subscription)
            if subscription.moved and chunk is None:
                raise await why_it_moved(subscription.link, stream)
            return chunk
        finally:
            await subscription.link.close()


async def _first_chunk(subscription: Subscription) -> Chunk | None:
    try:
        async with asyncio.timeout(_PEEK_SECONDS):
            return await subscription.chunk()
    except TimeoutError:
        stats: Mapping[str, int] = {}
        with suppress(Unavailable):  # why the link is dead is told next, where no chunk has come
            stats = await subscription.link.stats(subscription.stream)
        with suppress(TimeoutError):
            async with asyncio.timeout(_AT_HAND_SECONDS):
                return await subscription.chunk()
        _check_committed(subscription.stream, stats)
        return None


def _name(what: str, name: str) -> str:
    from pipeline_plugins.rabbitmq_streams.frames import checked_name

    return checked_name(what, name)


def _check_committed(stream: str, stats: Mapping[str, int]) -> None:
    """Raise `Unavailable` where a stream that isn't empty holds what may not be read yet.

    Readers get what a majority of the replicas has. A new leader begins with nothing of which it knows that
    (`osiris_writer:handle_continue`), and so does a replica, however much lies there.
    """
    first = stats.get("first_chunk_id", -1)
    if first < 0 or stats.get("committed_chunk_id", -1) < stats.get("last_chunk_id", first):
        raise Unavailable(
            "broker",
            f"the stream {stream} holds messages that can't be read yet: its leader or replica is new, and has not "
            "heard from the others",
        )


def _needs_rstream() -> None:
    """Raise `PluginError` where the client library is not installed."""
    try:
        import rstream  # noqa: F401
    except ImportError as error:
        raise PluginError(
            f"the broker's URL needs RabbitMQ's stream client, which is not installed ({error}): "
            "pip install 'pipeline-runner[rabbitmq]'"
        ) from None
