"""The embedded connector keeps the contract."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from pipeline.connectors import Connector
from pipeline_plugins.embedded import EmbeddedConnector
from pipeline_plugins.embedded.log import Log
from tests.contract.suite import ConnectorContract, OutageContract, Outages


class EmbeddedDriver(Outages):
    def __init__(self, folder: Path) -> None:
        self.path = folder / "events.db"

    def connector(self) -> Connector:
        return EmbeddedConnector(f"embedded://{self.path}")

    async def cut(self) -> None:
        """Put a copy in the file's place: to the connections it is as good as lost."""
        copy = self.path.with_name("copy.db")
        with closing(sqlite3.connect(self.path)) as old, closing(sqlite3.connect(copy)) as new:
            old.backup(new)
            new.execute("PRAGMA journal_mode = DELETE")
        for suffix in ("-wal", "-shm"):
            self.path.with_name(f"{self.path.name}{suffix}").unlink()
        copy.replace(self.path)

    async def delete(self, stream: str) -> None:
        with closing(Log(self.path, durable=False)) as log:
            log.delete(stream)


class TestEmbeddedConnector(ConnectorContract, OutageContract):
    @pytest.fixture
    def driver(self, tmp_path: Path) -> EmbeddedDriver:
        return EmbeddedDriver(tmp_path)
