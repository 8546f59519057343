"""A commit whose answer was lost is tried again, and written once."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.errors import Fenced, Unavailable
from pipeline.ledger.database import Database
from pipeline.ledger.lease import Lease
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.tables import DeadLetter, ProgressRow
from tests.pipeline.ledger.samples import KEY, Note, commit_of, count, unit


class Unreliable(Database):
    """Breaks the connection just before or just after the next commits."""

    before = 0
    after = 0

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        async with super().write() as connection:
            yield connection
            if self.before:
                self.before -= 1
                raise Unavailable("database", "the connection broke before the commit")
        if self.after:
            self.after -= 1
            raise Unavailable("database", "the connection broke after the commit")


@pytest.fixture
async def unreliable(db: Database) -> AsyncIterator[Unreliable]:
    other = Unreliable(db.url)
    yield other
    await other.close()


async def committed_again(ledger: Ledger, lease: Lease, *rows: object) -> list[int]:
    commit = commit_of(*(unit(offset, row) for offset, row in enumerate(rows)))
    with pytest.raises(Unavailable):
        await ledger.commit(lease, commit)
    return [refused.unit.message.offset for refused in await ledger.commit(lease, commit)]


@pytest.mark.parametrize("moment", ["before", "after"])
async def test_a_broken_commit_is_written_once(unreliable: Unreliable, lease: Lease, db: Database, moment: str) -> None:
    setattr(unreliable, moment, 1)

    assert await committed_again(Ledger(unreliable), lease, Note(text="a"), Note(text="b")) == []

    assert await count(db, Note) == 2
    (progress,) = await db.fetch(ProgressRow, select(ProgressRow))
    assert (progress.prefix, progress.handled) == (1, 2)


async def test_refused_units_are_told_also_when_the_answer_was_lost(
    unreliable: Unreliable, lease: Lease, db: Database
) -> None:
    unreliable.after = 1

    assert await committed_again(Ledger(unreliable), lease, Note(text="a"), Note(number=2**70)) == [1]

    assert await count(db, DeadLetter) == 1


async def test_a_lost_answer_and_a_new_owner_mean_fenced(unreliable: Unreliable, lease: Lease, db: Database) -> None:
    ledger = Ledger(unreliable)
    commit = commit_of(unit(0, Note(text="a")))
    unreliable.after = 1
    with pytest.raises(Unavailable):
        await ledger.commit(lease, commit)
    await ledger.release(lease)
    await ledger.try_acquire(KEY, "runner-2")

    with pytest.raises(Fenced):
        await ledger.commit(lease, commit)

    assert await count(db, Note) == 1
