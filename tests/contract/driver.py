"""What a connector's author supplies to the suite, and what the suite's tests are written with."""

from __future__ import annotations

import asyncio
import secrets
from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import ClassVar, cast

import pytest

from pipeline.connectors import Connector, Message, MessageBatch, Outgoing, Start

FIRST = Start("first")
PATIENCE = 20.0
"""Seconds after which what has not happened never will."""


class Driver(ABC):
    """Makes connectors to one broker for the suite.

    Class attributes:
        read_ahead: How many bytes a connector may hold for a reader that asks for nothing.
    """

    read_ahead: ClassVar[int] = 32 * 1024 * 1024

    @abstractmethod
    def connector(self) -> Connector:
        """A new connector, not yet connected; all of them reach the same streams."""

    def stream(self) -> str:
        """A stream's name that no other test has."""
        return f"contract.{secrets.token_hex(8)}"


class Outages(Driver):
    """A driver that can also take the broker away, for `OutageContract`."""

    @abstractmethod
    async def cut(self) -> None:
        """Break every connection once; new ones succeed."""

    @abstractmethod
    async def delete(self, stream: str) -> None:
        """Delete the stream with all that it holds."""


class ContractBase:
    """The fixtures of the suite. A subclass of a contract supplies `driver`."""

    @pytest.fixture
    def driver(self) -> Driver:
        """The driver of the connector under test."""
        raise NotImplementedError("define the fixture 'driver' in the test class")

    @pytest.fixture
    async def connector(self, driver: Driver) -> AsyncIterator[Connector]:
        """A connected connector."""
        async with connected(driver) as connector:
            yield connector

    @pytest.fixture
    async def stream(self, driver: Driver, connector: Connector) -> str:
        """The name of a new, empty stream."""
        name = driver.stream()
        await connector.create_stream(name)
        return name


@asynccontextmanager
async def connected(driver: Driver) -> AsyncIterator[Connector]:
    """A new connector, connected, and closed at the end."""
    connector = driver.connector()
    await connector.connect()
    try:
        yield connector
    finally:
        await connector.close()


def event(number: int, body: bytes = b"{}", key: str = "contract.event") -> Outgoing:
    """A message with a number that can be told from its id."""
    return Outgoing(body, key, f"id-{number}")


def events(first: int, last: int) -> list[Outgoing]:
    """Messages with the numbers `first` to `last`."""
    return [event(number) for number in range(first, last + 1)]


def numbers(messages: Sequence[Message]) -> list[int]:
    """The numbers of messages that `events` made."""
    return [int((message.id or "").removeprefix("id-")) for message in messages]


class Reader:
    """A subscription of the test's; checks each batch against what every connector promises."""

    def __init__(self, connector: Connector, stream: str, start: Start = FIRST, *, max_batch: int = 500) -> None:
        batches = connector.read(stream, start, name="contract", max_batch=max_batch)
        self.batches = cast("AsyncGenerator[MessageBatch, None]", batches)
        self.max_batch = max_batch
        self.messages: list[Message] = []

    async def __aenter__(self) -> Reader:
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.wait_for(self.batches.aclose(), PATIENCE)

    async def batch(self) -> MessageBatch:
        """The next batch."""
        batch = await asyncio.wait_for(anext(self.batches), PATIENCE)
        assert batch, "a batch is never empty"
        assert len(batch) <= self.max_batch, "a batch is never longer than it may be"
        offsets = [message.offset for message in (*self.messages[-1:], *batch)]
        assert all(one < other for one, other in pairwise(offsets)), "offsets rise strictly"
        self.messages += batch
        return batch

    async def take(self, count: int) -> list[Message]:
        """The next messages: as many as asked for, and the rest of their last batch."""
        before = len(self.messages)
        while len(self.messages) - before < count:
            await self.batch()
        return self.messages[before:]

    async def nothing(self, seconds: float = 0.3) -> None:
        """Assert that nothing more comes for some time. The subscription is over then."""
        waiting = asyncio.ensure_future(anext(self.batches))
        done, _ = await asyncio.wait({waiting}, timeout=seconds)
        waiting.cancel()
        await asyncio.wait({waiting})
        assert not done, f"nothing was to come, and this did: {waiting}"


async def read_all(connector: Connector, stream: str, count: int, start: Start = FIRST) -> list[Message]:
    """So many messages, by a subscription of its own."""
    async with Reader(connector, stream, start) as reader:
        return await reader.take(count)


async def eventually(holds: Callable[[], bool], what: str) -> None:
    """Return as soon as this holds; fail when it does not in time."""
    async with asyncio.timeout(PATIENCE) as limit:
        while not holds():
            await asyncio.sleep(0.01)
    assert not limit.expired(), what


__all__ = [
    "PATIENCE",
    "ContractBase",
    "Driver",
    "Outages",
    "Reader",
    "connected",
    "event",
    "events",
    "eventually",
    "numbers",
    "read_all",
]
