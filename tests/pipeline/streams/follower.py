"""A task that follows a stream in memory, for the tests of `follow`."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Any

from pipeline.connectors import Outgoing, Start
from pipeline.streams.follow import Following, StreamState, follow
from pipeline_plugins.memory import MemoryConnector, MemoryStore

QUICK = Following(first_wait=0.001, longest_wait=0.004, jitter=0.0)


class Follower:
    """Follows a stream in a task, and remembers what it was told."""

    def __init__(self, connector: MemoryConnector, *, how: Following = QUICK, **options: Any) -> None:
        self.numbers: list[int] = []
        self.states: list[str] = []
        self.starts: list[Start] = []
        self.changed = asyncio.Event()
        self.position = 0
        self.batches = follow(connector, "s", self.start, name="test", on_state=self.on_state, how=how, **options)
        self.task = asyncio.create_task(self.run())

    async def start(self) -> Start:
        self.starts.append(Start("offset", self.position))
        return self.starts[-1]

    def on_state(self, state: StreamState) -> None:
        self.states.append(str(state))
        self.changed.set()

    async def run(self) -> None:
        async with contextlib.aclosing(self.batches) as batches:
            async for batch in batches:
                self.numbers += [int(message.id or "") for message in batch]
                self.position = batch[-1].offset + 1
                self.changed.set()

    async def until(self, *, numbers: list[int] | None = None, state: str | None = None) -> None:
        async with asyncio.timeout(5):
            while (numbers is not None and self.numbers != numbers) or (
                state is not None and (not self.states or not self.states[-1].startswith(state))
            ):
                if self.task.done():
                    self.task.result()
                self.changed.clear()
                await self.changed.wait()

    async def end(self) -> None:
        self.task.cancel()
        await asyncio.wait({self.task})


def publish(store: MemoryStore, *numbers: int) -> None:
    store.append("s", [Outgoing(b"{}", "a.b", str(number)) for number in numbers])
