"""The connector to the embedded broker."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final
from urllib.parse import unquote

import orjson

from pipeline import Unavailable
from pipeline.connectors import BrokerRefused, Connector, MessageBatch, Outgoing, Start, StreamBounds
from pipeline_plugins.embedded.log import Log, Row
from pipeline_plugins.embedded.session import Session
from pipeline_plugins.embedded.shared import SharedFile

__all__ = ["EmbeddedConnector"]

_FIRST_POLL: Final = 0.01
_LONGEST_POLL: Final = 0.05
_POLL_GROWTH: Final = 1.5


class EmbeddedConnector(Connector):
    """Streams in one SQLite file: appended by any process of this machine, read by one process at a time.

    A publish is confirmed when it is on the disk. Readers look for what other processes have published every 10 to
    50 ms; what this process publishes wakes them at once.

    Args:
        url: ``embedded://relative/path.db`` (from the working directory) or ``embedded:///absolute/path.db``.

    Raises:
        BrokerRefused: The URL names no file, or has options.
    """

    schemes = ("embedded",)
    default_url = "embedded://.pipeline/events.db"
    creates_streams = True

    def __init__(self, url: str) -> None:
        super().__init__(url)
        name, _, options = url.removeprefix("embedded://").partition("?")
        if not name or name.endswith("/"):
            raise BrokerRefused(f"{url!r} names no file: write embedded://folder/events.db, or embedded:///folder/…")
        if options:
            raise BrokerRefused(f"{url!r} has options ({options}), and the embedded broker knows none: leave them out")
        self.path = Path.cwd() / unquote(name)
        self._file = SharedFile.at(self.path)
        self._session: Session | None = None
        self._claimed = False
        self._connecting = asyncio.Lock()

    async def connect(self) -> None:
        """Open the file, and create it where it does not exist; where it was replaced, open the new one."""
        async with self._connecting:
            if self._session is not None:
                try:
                    await self._session.read(Log.probe)
                except Unavailable:
                    await self._close_session()
            if self._session is None:
                self._session = await Session.open(self.path)

    async def close(self) -> None:
        """Close the file; readers end with `Unavailable`."""
        await self._close_session()
        if self._claimed:
            self._claimed = False
            self._file.end_reading()

    async def claim(self) -> None:
        """Lock the file for this process. Raises `BrokerRefused` where another process reads it."""
        if not self._claimed:
            self._file.begin_reading()
            self._claimed = True

    async def probe(self) -> None:
        """Return while the file is the one that was opened."""
        await self._open().read(Log.probe)

    async def create_stream(self, stream: str) -> None:
        """Create the stream where it does not exist yet."""
        await self._open().write(Log.create, stream)

    async def bounds(self, stream: str) -> StreamBounds:
        """What the stream holds."""
        return await self._open().read(Log.bounds, stream)

    async def timestamp_at(self, stream: str, offset: int) -> int | None:
        """When the message at this offset was published."""
        return await self._open().read(Log.timestamp_at, stream, offset)

    async def read(self, stream: str, start: Start, *, name: str, max_batch: int = 500) -> AsyncIterator[MessageBatch]:
        """Read for ever. Raises `BrokerRefused` where another process reads this file."""
        session = self._open()
        number = await session.read(Log.stream_id, stream)
        self._file.begin_reading()
        try:
            position = await session.read(Log.position, stream, start)
            poll = _FIRST_POLL
            while True:
                seen = self._file.changed.count
                if position is None:
                    position = await session.read(Log.position, stream, start)
                batch = [] if position is None else await session.read(Log.take, number, position, max_batch)
                if batch:
                    position = batch[-1].offset + 1
                    poll = _FIRST_POLL
                    yield batch
                else:
                    await self._file.changed.wait(seen, poll)
                    poll = min(poll * _POLL_GROWTH, _LONGEST_POLL)
        finally:
            self._file.end_reading()

    async def publish(self, stream: str, messages: Sequence[Outgoing]) -> None:
        """Append all messages as one chunk, and return when they are on the disk."""
        await self._open().append(stream, [_row(message) for message in messages])
        self._file.changed.notify()

    async def stored_offset(self, stream: str, group: str) -> int | None:
        """The offset that the group stored last."""
        return await self._open().read(Log.stored_offset, stream, group)

    async def store_offset(self, stream: str, group: str, offset: int) -> None:
        """Keep the group's offset; the last ones may be lost with the machine's power."""
        await self._open().read(Log.store_offset, stream, group, offset)

    async def _close_session(self) -> None:
        session, self._session = self._session, None
        if session is not None:
            await session.close()
            self._file.changed.notify()

    def _open(self) -> Session:
        if self._session is None:
            raise Unavailable("broker", "not connected")
        return self._session


def _row(message: Outgoing) -> Row:
    """The message as the file keeps it; what can't be kept fails here, before others share its transaction."""
    for text in (message.routing_key, message.id, message.content_type or ""):
        text.encode()
    headers = orjson.dumps(dict(message.headers)).decode() if message.headers else None
    return message.routing_key, message.id, headers, message.content_type, bytes(message.body)
