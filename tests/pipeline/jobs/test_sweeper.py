"""The sweeper finds what a dead worker or a forgetful queue has left."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

import pytest
from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlmodel import col

from pipeline.errors import Unavailable
from pipeline.jobs.claims import Claims
from pipeline.jobs.clock import Clock
from pipeline.jobs.hints import Backlog
from pipeline.jobs.lanes import Carries, Lane
from pipeline.jobs.sweeper import LOST, LostHints, LostWorkers, forget_hints_of
from pipeline.ledger.columns import utcnow
from pipeline.ledger.database import Database
from pipeline.ledger.job_tables import JobRow
from tests.pipeline.jobs.noted import NotedHints
from tests.pipeline.jobs.samples import NOON, PIPELINE, Moment, job, jobs, leave, runs


async def claim(db: Database, moment: Moment, *names: str, owner: str = "dead", lease: float = 30.0) -> None:
    ids = await leave(db, *(job(name) for name in names))
    taken = await Claims(db, owner, Clock(moment), lease, pipeline=PIPELINE).take("queue", ids)
    assert len(taken) == len(names)


async def test_a_job_whose_claim_ran_out_is_queued_again_and_its_run_kept(db: Database, moment: Moment) -> None:
    await claim(db, moment, "a")
    sweeper = LostWorkers(db, Clock(moment), pipeline=PIPELINE, gone=lambda owner: False)
    moment.pass_by(30)
    assert await sweeper.sweep() == 0
    moment.pass_by(0.001)
    assert await sweeper.sweep() == 1
    row = (await jobs(db))["a"]
    assert (row.state, row.owner, row.claimed_until, row.hinted_at) == ("queued", None, None, None)
    assert (row.lost, row.failures, row.error) == (1, 0, LOST)
    (run,) = await runs(db)
    assert (run.job_id, run.run, run.state, run.worker, run.error) == ("a", 1, "failed", "dead", LOST)


async def test_the_jobs_of_a_process_that_is_gone_are_queued_again_at_once_and_no_others(
    db: Database, moment: Moment
) -> None:
    await claim(db, moment, "a", "b")
    await claim(db, moment, "c", owner="alive")
    sweeper = LostWorkers(db, Clock(moment), pipeline=PIPELINE, gone=lambda owner: owner == "dead")
    assert await sweeper.sweep() == 2
    assert {name: row.state for name, row in (await jobs(db)).items()} == {"a": "queued", "b": "queued", "c": "running"}


async def test_sweepers_side_by_side_count_each_loss_once(db: Database, moment: Moment) -> None:
    await claim(db, moment, *(f"{number:03}" for number in range(300)))
    sweepers = [LostWorkers(db, Clock(moment), pipeline=PIPELINE, gone=lambda owner: True) for _ in range(4)]
    counts = await asyncio.gather(*(sweeper.sweep() for sweeper in sweepers))
    while more := await sweepers[0].sweep():
        counts.append(more)
    assert sum(counts) == len(await runs(db)) == 300
    assert {row.lost for row in (await jobs(db)).values()} == {1}


class Away(Database):
    """A database that is away, or can only be read, when the test says so."""

    away = False
    full = False

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        if self.away:
            raise Unavailable("database", "connection refused")
        async with super().read() as connection:
            yield connection

    @asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        async with super().write() as connection:
            if self.full:
                of_postgres = self.dialect == "postgresql"
                await connection.execute(text("SET TRANSACTION READ ONLY" if of_postgres else "PRAGMA query_only = 1"))
            try:
                yield connection
            finally:
                if self.full and self.dialect == "sqlite":
                    await connection.execute(text("PRAGMA query_only = 0"))


async def test_when_the_database_was_away_live_workers_have_time_to_renew_their_claims(
    db: Database, moment: Moment
) -> None:
    await claim(db, moment, "a", owner="alive")
    await claim(db, moment, "b", owner="dead elsewhere")
    await claim(db, moment, "c", owner="dead here")
    database = Away(db.url)
    sweeper = LostWorkers(database, Clock(moment), pipeline=PIPELINE, gone=lambda owner: owner == "dead here")
    database.away = True
    moment.pass_by(45)
    with pytest.raises(Unavailable):
        await sweeper.sweep()
    database.away = False
    assert await sweeper.sweep() == 1
    moment.pass_by(25)
    await Claims(db, "alive", Clock(moment), 30.0, pipeline=PIPELINE).renew(["a"])
    assert await sweeper.sweep() == 0
    moment.pass_by(5.001)
    assert await sweeper.sweep() == 1
    await database.close()
    states = {name: row.state for name, row in (await jobs(db)).items()}
    assert states == {"a": "running", "b": "queued", "c": "queued"}


async def test_a_database_that_can_only_be_read_is_not_back_yet(db: Database, moment: Moment) -> None:
    await claim(db, moment, "a", owner="alive")
    database = Away(db.url)
    sweeper = LostWorkers(database, Clock(moment), pipeline=PIPELINE, gone=lambda _: False)
    database.full = True
    moment.pass_by(31)
    for _ in range(2):
        with pytest.raises(Unavailable):
            await sweeper.sweep()
    moment.pass_by(31)  # so long it can be read, and nobody can renew a claim
    database.full = False
    assert await sweeper.sweep() == 0
    moment.pass_by(31)
    assert await sweeper.sweep() == 1
    await database.close()


async def told(db: Database, *names: str, owner: str | None = None) -> None:
    """Jobs of which the queue was told at noon."""
    await leave(db, *(job(name) for name in names))
    async with db.write() as connection:
        await connection.execute(update(JobRow).where(col(JobRow.id).in_(names)).values(hinted_at=NOON, owner=owner))


def sweeper_of(db: Database, moment: Moment, hints: NotedHints, gone: str = "") -> LostHints:
    lane = Lane(hints, Carries.ALL)
    return LostHints(db, lane, Clock(moment), owner="me", pipeline=PIPELINE, gone=lambda owner: owner == gone)


async def test_an_empty_queue_has_lost_what_it_was_told_of_two_seconds_ago(db: Database, moment: Moment) -> None:
    sweeper = sweeper_of(db, moment, NotedHints())
    await told(db, "a")
    moment.pass_by(2)
    assert await sweeper.sweep() == 0
    moment.pass_by(0.001)
    assert await sweeper.sweep() == 1
    assert (await jobs(db))["a"].hinted_at is None


async def test_hints_that_wait_their_turn_are_not_lost_however_long_that_takes(db: Database, moment: Moment) -> None:
    hints = NotedHints()
    sweeper = sweeper_of(db, moment, hints)
    await told(db, "a")
    moment.pass_by(3_600)
    hints.backlog = Backlog(1, 3_600)
    assert await sweeper.sweep() == 0


async def test_what_is_older_than_the_oldest_hint_is_lost(db: Database, moment: Moment) -> None:
    hints = NotedHints()
    sweeper = sweeper_of(db, moment, hints)
    await told(db, "a")
    moment.pass_by(100)
    hints.backlog = Backlog(500, 97)
    assert await sweeper.sweep() == 1


async def test_claimed_jobs_and_jobs_that_were_not_told_of_are_left_alone(db: Database, moment: Moment) -> None:
    await claim(db, moment, "claimed")
    await leave(db, job("new"))
    moment.pass_by(20)
    assert await sweeper_of(db, moment, NotedHints()).sweep() == 0


async def test_hints_within_another_process_are_lost_when_it_is_gone_or_after_a_minute(
    db: Database, moment: Moment
) -> None:
    hints = NotedHints(local=True)
    await told(db, "mine", owner="me")
    await told(db, "dead", owner="gone")
    await told(db, "far", owner="far away")
    moment.pass_by(3)
    sweeper = sweeper_of(db, moment, hints, gone="gone")
    assert await sweeper.sweep() == 2
    assert (await jobs(db))["far"].hinted_at == NOON
    moment.pass_by(timedelta(seconds=58).total_seconds())
    assert await sweeper.sweep() == 1


async def test_the_clock_of_a_machine_that_is_ahead_takes_no_jobs_from_live_workers(
    db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    if db.dialect == "sqlite":
        pytest.skip("a file has no clock of its own")
    (id_,) = await leave(db, job("a"), at=utcnow())
    assert await Claims(db, "alive", Clock(), 30.0, pipeline=PIPELINE).take("queue", [id_])
    monkeypatch.setattr("pipeline.jobs.clock.utcnow", lambda: utcnow() + timedelta(minutes=2))
    assert await LostWorkers(db, Clock(), pipeline=PIPELINE, gone=lambda _: False).sweep() == 0


async def test_the_first_claim_goes_by_the_databases_clock(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    if db.dialect == "sqlite":
        pytest.skip("a file has no clock of its own")
    (id_,) = await leave(db, job("a"), at=utcnow())
    monkeypatch.setattr("pipeline.jobs.clock.utcnow", lambda: utcnow() - timedelta(minutes=2))
    assert await Claims(db, "late", Clock(), 30.0, pipeline=PIPELINE).take("queue", [id_])
    until = (await jobs(db))[id_].claimed_until
    assert until is not None
    assert until > utcnow() + timedelta(seconds=20)


async def test_a_process_that_stops_has_others_told_of_what_it_did_not_begin(db: Database) -> None:
    await told(db, "mine", owner="me")
    await told(db, "far", owner="far away")
    assert await forget_hints_of(db, "me", PIPELINE) == 1
    assert {name: row.hinted_at is None for name, row in (await jobs(db)).items()} == {"mine": True, "far": False}
