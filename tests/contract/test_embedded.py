"""The embedded connector keeps the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline.connectors import Connector
from pipeline_plugins.embedded import EmbeddedConnector
from tests.contract.suite import ConnectorContract, Driver


class EmbeddedDriver(Driver):
    def __init__(self, folder: Path) -> None:
        self.url = f"embedded://{folder}/events.db"

    def connector(self) -> Connector:
        return EmbeddedConnector(self.url)


class TestEmbeddedConnector(ConnectorContract):
    @pytest.fixture
    def driver(self, tmp_path: Path) -> EmbeddedDriver:
        return EmbeddedDriver(tmp_path)
