"""A folder of its own for each test, without the variables of whoever runs them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

FOREIGN = ("RABBITMQ_", "REDIS_", "TEMPORAL_", "DATABASE_", "PIPELINE_")


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory of the test, and of the processes that it starts."""
    monkeypatch.chdir(tmp_path)
    for name in os.environ:
        if name.startswith(FOREIGN):
            monkeypatch.delenv(name)
    return tmp_path
