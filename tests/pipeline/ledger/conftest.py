"""A database of each kind, empty or migrated; every test of the ledger runs on both."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from pipeline.ledger.database import Database
from pipeline.ledger.lease import Lease
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.migrations import migrate
from tests.pipeline.ledger.samples import KEY, SampleModel


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.integration)])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of an empty database."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/ledger.db"
    found: str = request.getfixturevalue("postgres")
    return found


@pytest.fixture
async def empty(url: str) -> AsyncIterator[Database]:
    """A database without tables."""
    db = Database(url)
    yield db
    await db.close()


@pytest.fixture
async def db(empty: Database) -> Database:
    """A database with the ledger's tables and the sample tables."""
    await migrate(empty)
    async with empty.write() as connection:
        await connection.run_sync(SampleModel.metadata.create_all)
    return empty


@pytest.fixture
async def ledger(db: Database) -> Ledger:
    return Ledger(db)


@pytest.fixture
async def lease(ledger: Ledger) -> Lease:
    taken = await ledger.try_acquire(KEY, "runner-1")
    assert isinstance(taken, Lease)
    return taken
