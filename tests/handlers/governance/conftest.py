"""A pipeline's file with governance, and its database, for the tests of programs and commands."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from pipeline.ledger.database import Database
from pipeline.ledger.migrations import migrate
from pipeline.plugins import load_plugins
from tests.handlers.governance.programs import FILE


@pytest.fixture(scope="session")
def migrated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with all tables, to be copied."""
    path = tmp_path_factory.mktemp("migrated") / "test.db"

    async def make() -> None:
        database = Database(f"sqlite:///{path}")
        await migrate(database, load_plugins().branches())
        await database.close()

    asyncio.run(make())
    return path


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, migrated: Path) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{tmp_path}/test.db")
    shutil.copy(migrated, tmp_path / "test.db")
    path = tmp_path / "pipeline.toml"
    path.write_text(FILE)
    return path
