"""A TCP relay before the broker, to break connections, or to swallow what they say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

from typing_extensions import TypeVar


class Relay:
    """Stands between a client and a server.

    Attributes:
        url: The server's URL, by way of the relay.
        accepted: How many connections were made through it.
        swallowing: Whether what either side says is dropped, as by a broken network, its farewell included.
        swallowed: How many bytes were.
    """

    def __init__(self, url: str) -> None:
        self._target = urlsplit(url)
        self.url = ""
        self.accepted = 0
        self.swallowing = False
        self.swallowed = 0
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def open(self) -> int:
        """How many connections are open."""
        return len(self._connections)

    async def cut(self) -> None:
        """Break all connections; new ones succeed."""
        connections = tuple(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Relay one connection until either side ends it."""
        task = asyncio.current_task()
        assert task is not None
        self.accepted += 1
        self._connections.add(task)
        there, back = await asyncio.open_connection(self._target.hostname, self._target.port)
        copies = [asyncio.ensure_future(self._copy(*ends)) for ends in ((reader, back), (there, writer))]
        try:
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            pass  # cut
        finally:
            for copy in copies:
                copy.cancel()
            for each in (writer, back):
                each.transport.abort()
            self._connections.discard(task)

    async def _copy(self, source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
        while data := await source.read(1 << 18):
            if self.swallowing:
                self.swallowed += len(data)
            else:
                target.write(data)
                await target.drain()
        while self.swallowing:
            await asyncio.sleep(0.02)


RelayT = TypeVar("RelayT", bound=Relay, default=Relay)


@asynccontextmanager
async def relayed(url: str, kind: type[RelayT] = Relay) -> AsyncIterator[RelayT]:  # type: ignore[assignment]
    """A relay of this kind to the server of this URL."""
    relay = kind(url)
    server = await asyncio.start_server(relay.serve, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    parts = urlsplit(url)
    relay.url = parts._replace(netloc=f"{parts.netloc.rpartition('@')[0]}@127.0.0.1:{port}").geturl()
    try:
        yield relay
    finally:
        server.close()
        await relay.cut()
