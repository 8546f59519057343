"""A stream in memory, and a broker over it."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from pipeline.streams.broker import StreamBroker
from pipeline_plugins.memory import MemoryConnector, MemoryStore


@pytest.fixture
def store() -> MemoryStore:
    store = MemoryStore()
    store.create("s")
    return store


@pytest.fixture
async def broker(store: MemoryStore) -> AsyncIterator[StreamBroker]:
    broker = StreamBroker(MemoryConnector("memory://broker", store))
    yield broker
    await broker.stop()
