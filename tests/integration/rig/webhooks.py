"""A receiver of webhooks, that counts how often each idempotency key came."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["Receiver", "receiver"]


class Receiver:
    """What has been received.

    Attributes:
        url: Where it listens.
        keys: How often each idempotency key came.
        refusals: How many requests more are to be answered with 503.
    """

    def __init__(self) -> None:
        self.url = ""
        self.keys: Counter[str] = Counter()
        self.refusals = 0

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Read one request, and answer it."""
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
            headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:])}
            await reader.readexactly(int(headers.get("content-length", "0")))
            if self.refusals:
                self.refusals -= 1
                status = "503 Service Unavailable"
            else:
                self.keys[headers["idempotency-key"]] += 1
                status = "204 No Content"
            writer.write(f"HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError):
            pass  # the sender was killed
        finally:
            writer.close()


@asynccontextmanager
async def receiver() -> AsyncIterator[Receiver]:
    """A receiver on a free port of this machine."""
    made = Receiver()
    server = await asyncio.start_server(made.answer, "127.0.0.1", 0)
    host, port = server.sockets[0].getsockname()
    made.url = f"http://{host}:{port}/hook"
    async with server:
        yield made
