"""A PostgreSQL database with the tables that the tests of the ledger and of jobs use."""

from __future__ import annotations

from pipeline.ledger.database import Database
from pipeline.ledger.migrations import migrate
from tests.pipeline.ledger.samples import SampleModel

__all__ = ["prepared"]


async def prepared(url: str) -> Database:
    db = Database(url)
    await migrate(db)
    async with db.write() as connection:
        await connection.run_sync(SampleModel.metadata.create_all)
    return db
