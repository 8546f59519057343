"""Another process at an embedded broker, told by its arguments what to do there."""

from __future__ import annotations

import asyncio
import sys
import time
from itertools import count

from pipeline.connectors import Outgoing, Start
from pipeline_plugins.embedded import EmbeddedConnector


async def publish(url: str, stream: str, numbers: range | count[int]) -> None:
    """Publish one message a call, and print each number once it is confirmed."""
    connector = EmbeddedConnector(url)
    await connector.connect()
    await connector.create_stream(stream)
    for number in numbers:
        await connector.publish(stream, [Outgoing(str(time.time_ns()).encode(), "a.b", str(number))])
        print(number, flush=True)
    await connector.close()


async def read(url: str, stream: str) -> None:
    """Read for ever, and print each batch's length."""
    connector = EmbeddedConnector(url)
    await connector.connect()
    await connector.create_stream(stream)
    print("connected", flush=True)
    async for batch in connector.read(stream, Start("first"), name="other"):
        print(len(batch), flush=True)


async def claim(url: str) -> None:
    """Claim the file as a runner does, and keep it."""
    connector = EmbeddedConnector(url)
    await connector.claim()
    print("claimed", flush=True)
    await asyncio.Event().wait()


if __name__ == "__main__":
    verb, *arguments = sys.argv[1:]
    match verb, arguments:
        case "publish", [url, stream, first, amount]:
            asyncio.run(publish(url, stream, range(int(first), int(first) + int(amount))))
        case "forever", [url, stream]:
            asyncio.run(publish(url, stream, count()))
        case "read", [url, stream]:
            asyncio.run(read(url, stream))
        case "claim", [url]:
            asyncio.run(claim(url))
