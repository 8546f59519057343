"""A TCP proxy in front of a server: it can fall silent, cut every line and refuse new ones, or cut one at a moment."""

from __future__ import annotations

import asyncio
import socket
import struct
from contextlib import suppress
from types import TracebackType
from typing import Self

_LINGER = struct.pack("ii", 1, 0)
"""Closing then discards what was not sent, and tells the peer by RST."""


class Proxy:
    """Passes bytes on between its own port and a server's.

    What one side closes is closed on the other, so that a server that dies looks so from behind the proxy, too.

    Attributes:
        port: Where it listens.
        cut_after: When these bytes have gone to the server, the client's connection is cut before any answer; once.
        cuts: How often that was done.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._clients: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None
        self.port = 0
        self.cut_after: bytes | None = None
        self.cuts = 0

    async def __aenter__(self) -> Self:
        await self._listen()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def fall_silent(self) -> None:
        """Pass nothing on from now, in either direction, and keep all connections: a black hole."""
        self._flowing.clear()

    def drop(self) -> None:
        """Cut every connection by RST, and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for client in list(self._clients):
            _reset(client)
        for task in list(self._tasks):
            task.cancel()

    def go_on(self) -> None:
        """Pass on what has come meanwhile, and all that comes."""
        self._flowing.set()

    async def accept_again(self) -> None:
        """Take connections again after `drop`, on the same port."""
        if self._server is None:
            await self._listen()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        self._clients.add(writer)
        try:
            server_reader, server_writer = await asyncio.open_connection(*self._target)
        except OSError:
            _reset(writer)
        else:
            with suppress(asyncio.CancelledError):
                await self._connect(reader, writer, server_reader, server_writer)
        finally:
            writer.close()
            self._clients.discard(writer)
            self._tasks.discard(task)

    async def _connect(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter,
        server_reader: asyncio.StreamReader, server_writer: asyncio.StreamWriter,
    ) -> None:  # fmt: skip
        answers = asyncio.create_task(self._pass_on(server_reader, writer))
        asked = asyncio.create_task(self._pass_on(reader, server_writer, answers))
        try:
            await asyncio.wait([answers, asked], return_when=asyncio.FIRST_COMPLETED)
            if answers.cancelled():
                await asked  # cut at a moment: the server still gets what it was told
        finally:
            for task in (answers, asked):
                task.cancel()
            await asyncio.gather(answers, asked, return_exceptions=True)
            server_writer.close()

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: asyncio.Task[None] | None = None
    ) -> None:
        with suppress(OSError):
            while data := await reader.read(65_536):
                await self._flowing.wait()
                if answers and self.cut_after is not None and self.cut_after in data:
                    self.cut_after, self.cuts = None, self.cuts + 1
                    answers.cancel()  # the server does what it was told, and its answer goes nowhere
                    writer.write(data)
                    await writer.drain()
                    await asyncio.sleep(0.2)
                    return
                writer.write(data)
                await writer.drain()
            await self._flowing.wait()  # a black hole swallows the end of a connection, too


def _reset(writer: asyncio.StreamWriter) -> None:
    """Close a connection by RST."""
    peer = writer.get_extra_info("socket")
    with suppress(OSError):
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER)
    writer.transport.abort()
