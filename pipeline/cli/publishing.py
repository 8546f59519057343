"""Publishing: finds the stream of each event by the routes that take it, and sends in confirmed batches."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import suppress

from pipeline.cli.console import count, say, warn
from pipeline.cli.jsonl import Batch
from pipeline.config.load import Loaded
from pipeline.config.redact import redact
from pipeline.connectors import Connector, Outgoing
from pipeline.errors import PipelineError, UserError
from pipeline.routing import Router

__all__ = ["Publishing"]

_BATCHES_AHEAD = 4
_KEYS_REMEMBERED = 10_000


class Publishing:
    """One run of the command: finds each event's stream, and sends in batches.

    Args:
        loaded: The configuration.
        source: The source whose stream to publish to; None for the one whose routes take the event.

    Attributes:
        published: How many events the broker has confirmed.
        streams: How many of them by stream.
        last_id: The id of the last one.
        broker: The broker's URL without its password.

    Raises:
        UserError: There is no such source.
    """

    def __init__(self, loaded: Loaded, source: str | None) -> None:
        sources = loaded.config.source
        if source is not None and source not in sources:
            raise UserError(f"there is no [source.{source}]; the sources are: {', '.join(sources)}")
        self._loaded = loaded
        self._source = source
        self._router = Router(loaded.config.route)
        self._stream_by_key: dict[str, str] = {}
        self.published = 0
        self.streams: dict[str, int] = {}
        self.last_id: str | None = None
        self.broker = redact(loaded.config.broker.url or "")

    def stream_of(self, key: str) -> str:
        """The stream for a routing key. Raises `UserError` where several sources, or none, could be meant."""
        stream = self._stream_by_key.get(key)
        if stream is None:
            if len(self._stream_by_key) >= _KEYS_REMEMBERED:
                self._stream_by_key.clear()
            stream = self._stream_by_key[key] = self._loaded.config.source[self._source_of(key)].stream
        return stream

    def run(self, batches: Iterable[Batch], advance: Callable[[int], None] = lambda _: None) -> None:
        """Publish them all; `advance` is told how many bytes of the file each batch took.

        Raises:
            UserError: An event is wrong, or the broker refuses.
            Unavailable: The broker can't be reached, or confirmed nothing.
        """
        asyncio.run(self._run(batches, advance))

    def _source_of(self, key: str) -> str:
        sources = self._loaded.config.source
        taking = dict.fromkeys(found.route.source for found in self._router.explain(key, self._source) if found.matched)
        chosen = self._source or (next(iter(sources)) if len(sources) == 1 else None)
        if chosen is not None:
            if not taking:
                warn(f"no route of source {chosen!r} takes {key!r}: the event will be filtered")
            return chosen
        if len(taking) == 1:
            return next(iter(taking))
        why = f"routes of {', '.join(taking)} take" if taking else "no route takes"
        raise UserError(f"{why} {key!r}: choose a stream with --source, one of {', '.join(sources)}")

    async def _run(self, batches: Iterable[Batch], advance: Callable[[int], None]) -> None:
        connector = self._loaded.connector(self._loaded.config.broker.url or "")
        try:
            await connector.connect()
            async for messages, size in _read_ahead(batches):
                await self._send(connector, messages)
                advance(size)
        except PipelineError:
            if self.published:
                say(f"{count(self.published, 'event')} published before this:", stderr=True)
            raise
        finally:
            await connector.close()

    async def _send(self, connector: Connector, batch: Sequence[Outgoing]) -> None:
        by_stream: dict[str, list[Outgoing]] = {}
        for message in batch:
            by_stream.setdefault(self.stream_of(message.routing_key), []).append(message)
        for stream, messages in by_stream.items():
            if stream not in self.streams and self._creates_streams(connector):
                await connector.create_stream(stream)
            await connector.publish(stream, messages)
            self.streams[stream] = self.streams.get(stream, 0) + len(messages)
            self.published += len(messages)
            self.last_id = messages[-1].id

    def _creates_streams(self, connector: Connector) -> bool:
        wanted = self._loaded.config.broker.create_streams
        return connector.creates_streams if wanted is None else wanted


async def _read_ahead(batches: Iterable[Batch]) -> AsyncIterator[Batch]:
    """The batches, read by a thread: a pipe that gives nothing for long must not keep the connection from its work."""
    loop = asyncio.get_running_loop()
    queue: asyncio.Queue[Batch | Exception | None] = asyncio.Queue()
    room = threading.Semaphore(_BATCHES_AHEAD)

    def feed() -> None:
        end: Exception | None = None
        try:
            for batch in batches:
                room.acquire()
                loop.call_soon_threadsafe(queue.put_nowait, batch)
        except Exception as error:  # noqa: BLE001 - raised again where the batches are wanted
            end = error
        with suppress(RuntimeError):  # the loop is closed: nobody wants more
            loop.call_soon_threadsafe(queue.put_nowait, end)

    # A daemon, since it may wait for input that never comes.
    threading.Thread(target=feed, name="events to publish", daemon=True).start()
    while (item := await queue.get()) is not None:
        if isinstance(item, Exception):
            raise item
        yield item
        room.release()
