"""A TCP proxy in front of a server: it can fall silent, or cut the line at a chosen moment."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self


class Proxy:
    """Passes bytes on between its own port and a server's.

    Attributes:
        port: Where it listens.
        cut_after: When these bytes have gone to the server, the client's connection is cut before any answer; once.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._flowing = asyncio.Event()
        self._flowing.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.cut_after: bytes | None = None
        self.cuts = 0

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._server.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def fall_silent(self) -> None:
        """Pass nothing on from now, in either direction, and keep all connections."""
        self._flowing.clear()

    def go_on(self) -> None:
        """Pass on what has come meanwhile, and all that comes."""
        self._flowing.set()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task
        self._tasks.add(task)
        with suppress(OSError, asyncio.CancelledError):
            server_reader, server_writer = await asyncio.open_connection(*self._target)
            try:
                async with asyncio.TaskGroup() as group:
                    answers = group.create_task(self._pass_on(server_reader, writer))
                    await self._pass_on(reader, server_writer, answers)
                    answers.cancel()
            finally:
                writer.close()
                server_writer.close()
        self._tasks.discard(task)

    async def _pass_on(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, answers: asyncio.Task[None] | None = None
    ) -> None:
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
