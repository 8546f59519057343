"""The memory connector keeps the contract."""

from __future__ import annotations

import pytest

from pipeline.connectors import Connector
from pipeline_plugins.memory import MemoryConnector, MemoryStore
from tests.contract.suite import ConnectorContract, OutageContract, Outages


class MemoryDriver(Outages):
    def __init__(self) -> None:
        self.store = MemoryStore()

    def connector(self) -> Connector:
        return MemoryConnector("memory://contract", self.store)

    async def cut(self) -> None:
        self.store.cut()

    async def delete(self, stream: str) -> None:
        self.store.delete(stream)


class TestMemoryConnector(ConnectorContract, OutageContract):
    @pytest.fixture
    def driver(self) -> MemoryDriver:
        return MemoryDriver()
