"""Jobs on a PostgreSQL that cuts lines, dies, or is left with a frozen worker's locks: each effect is written once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text, update

from pipeline.jobs.claims import Claims
from pipeline.jobs.clock import Clock
from pipeline.jobs.contract import Work
from pipeline.jobs.executor import Executor, JobRunner
from pipeline.jobs.outbox import withdraw
from pipeline.ledger.columns import utcnow
from pipeline.ledger.database import Database
from pipeline.ledger.job_tables import JobRow
from pipeline.ledger.units import Row
from tests.handlers.eventually import eventually
from tests.integration.prepared import prepared
from tests.integration.proxy import Proxy
from tests.pipeline.jobs.samples import PIPELINE, Done, Runner, job, jobs, leave, runs
from tests.pipeline.ledger.samples import Note, notes
from tests.services import Postgres, start_postgres


async def note_each(work: Work) -> None:
    """An effect for each job, in the transaction that settles it."""
    async with work.transaction() as settlement:
        for job_id in settlement.held:
            settlement.add(Row(Note, {"text": job_id}))
            settlement.done(job_id)


def executor_on(database: Database, runner: JobRunner, owner: str = "worker-1") -> Executor:
    return Executor(database, {"stage": runner}, {}, owner=owner, pipeline=PIPELINE, clock=Clock())


async def texts(db: Database) -> list[str | None]:
    return sorted(note.text or "" for note in await notes(db))


@pytest.mark.parametrize("moment", [b"BEGIN", b"COMMIT"])
async def test_a_line_cut_around_a_claim_costs_neither_a_try_nor_a_wait(
    proxy: Proxy, behind: Database, db: Database, moment: bytes
) -> None:
    ids = await leave(db, job("a"), job("b"))
    runner = Runner(note_each)
    executor = executor_on(behind, runner)
    proxy.cut_after = moment

    await executor.run("queue", ids)
    await executor.stop(0)

    assert proxy.cuts == 1
    assert len(runner.works) == 1
    assert await texts(db) == ["a", "b"]
    assert [run.run for run in await runs(db)] == [1, 1]


@pytest.mark.parametrize("moment", [b"BEGIN", b"COMMIT"])
async def test_a_line_cut_around_a_settlement_writes_its_effects_once(
    proxy: Proxy, behind: Database, db: Database, moment: bytes
) -> None:
    async def cut_once(work: Work) -> None:
        if len(runner.works) == 1:
            proxy.cut_after = moment
        await note_each(work)

    ids = await leave(db, job("a"), job("b"))
    runner = Runner(cut_once)
    executor = executor_on(behind, runner)

    async def all_are_done() -> bool:
        await executor.run("queue", ids)
        return not await jobs(db)

    await eventually(all_are_done)
    await executor.stop(0)

    assert proxy.cuts == 1
    assert len(runner.works) == (1 if moment == b"COMMIT" else 2)
    assert await texts(db) == ["a", "b"]
    assert {run.state for run in await runs(db) if run.error is None} == {"completed"}


async def test_a_server_that_dies_while_jobs_run_is_waited_for(
    own_server: Callable[[Callable[[Path], Postgres]], Postgres],
) -> None:
    async def die_once(work: Work) -> None:
        if len(runner.works) == 1:
            server.kill()
        await note_each(work)

    server = own_server(start_postgres)
    db = await prepared(server.env()["TEST_DATABASE_URL"])
    ids = await leave(db, job("a"), job("b"))
    runner = Runner(die_once)
    executor = executor_on(db, runner)
    running = asyncio.create_task(executor.run("queue", ids))
    await eventually(lambda: bool(runner.works))

    server.start()
    await running

    left = await jobs(db)
    assert {(row.state, row.failures, row.lost) for row in left.values()} == {("queued", 0, 0)}

    async def all_are_done() -> bool:
        await executor.run("queue", ids)
        return not await jobs(db)

    await eventually(all_are_done)
    assert await texts(db) == ["a", "b"]
    await executor.stop(0)
    await db.close()


async def test_a_worker_that_froze_writes_nothing_once_another_has_its_jobs(db: Database, postgres: str) -> None:
    ids = await leave(db, job("a"), job("b"))
    frozen_at, thaw = asyncio.Event(), asyncio.Event()

    async def freeze(work: Work) -> None:
        frozen_at.set()
        await thaw.wait()
        await note_each(work)

    another = Database(postgres)
    frozen = executor_on(db, Runner(freeze))
    running = asyncio.create_task(frozen.run("queue", ids))
    await frozen_at.wait()
    async with another.write() as connection:  # as the sweeper does when the claim has run out
        await connection.execute(update(JobRow).values(state="queued", owner=None, claimed_until=None, lost=1))
    taker = executor_on(another, Runner(note_each), "worker-2")
    await taker.run("queue", ids)
    thaw.set()
    await running

    assert await texts(db) == ["a", "b"]
    assert {run.worker for run in await runs(db)} == {"worker-2"}
    for executor in (frozen, taker):
        await executor.stop(0)
    await another.close()


async def test_a_job_that_is_being_settled_is_withdrawn_only_after_that(db: Database) -> None:
    ids = await leave(db, job("a"))
    locked, withdrawing = asyncio.Event(), asyncio.Event()
    withdrawn: list[int] = []

    async def settle_slowly(work: Work) -> None:
        async with work.transaction() as settlement:
            locked.set()
            await withdrawing.wait()
            settlement.add(Note(text="a"))
            settlement.done("a")

    async def take_back() -> None:
        async with db.write() as connection:
            withdrawing.set()
            withdrawn.append(await withdraw(connection, ["a"]))

    executor = executor_on(db, Runner(settle_slowly))
    running = asyncio.create_task(executor.run("queue", ids))
    await locked.wait()
    await take_back()
    await running
    await executor.stop(0)

    assert withdrawn == [0]
    assert await texts(db) == ["a"]


async def test_a_claim_does_not_wait_for_what_another_transaction_is_at(db: Database) -> None:
    ids = await leave(db, job("a"), job("b"))
    claims = Claims(db, "worker-1", Clock(), 30.0, pipeline=PIPELINE)

    async with db.write() as connection:
        await connection.execute(text("SELECT id FROM jobs WHERE id = 'a' FOR UPDATE"))
        async with asyncio.timeout(5):
            taken = await claims.take("queue", ids)

    assert [claimed.id for claimed in taken] == ["b"]


async def test_claims_are_renewed_while_one_of_them_is_being_settled(db: Database) -> None:
    ids = await leave(db, job("a"), job("b"))
    clock = Clock()
    claims = Claims(db, "worker-1", clock, 30.0, pipeline=PIPELINE)
    await claims.take("queue", ids)
    long_ago = clock.now() - timedelta(hours=1)
    async with db.write() as connection:
        await connection.execute(update(JobRow).values(claimed_until=long_ago))

    async with db.write() as connection:
        await connection.execute(text("SELECT id FROM jobs WHERE id = 'a' FOR UPDATE"))
        async with asyncio.timeout(5):
            await claims.renew(ids)

    until = {name: row.claimed_until for name, row in (await jobs(db)).items()}
    assert until["a"] == long_ago
    assert until["b"] is not None
    assert until["b"] > clock.now()


async def test_many_workers_and_repeated_hints_write_each_effect_once(db: Database, postgres: str) -> None:
    ids = await leave(db, *(job(f"j{number:04}") for number in range(2_000)))
    hints = [ids[start : start + 100] for start in range(0, 2_000, 100)] * 2
    databases = [Database(postgres) for _ in range(3)]
    executors = [executor_on(each, Runner(note_each), f"worker-{number}") for number, each in enumerate(databases)]

    await asyncio.gather(*(executor.run("queue", hint) for executor in executors for hint in hints))

    assert await texts(db) == ids
    assert await jobs(db) == {}
    for executor, database in zip(executors, databases, strict=True):
        await executor.stop(0)
        await database.close()


async def test_the_databases_clock_decides_what_is_due(db: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = await leave(db, job("a"), at=utcnow())
    monkeypatch.setattr("pipeline.jobs.clock.utcnow", lambda: utcnow() - timedelta(hours=1))
    clock = Clock()
    runner = Done()
    executor = Executor(db, {"stage": runner}, {}, owner="worker-1", pipeline=PIPELINE, clock=clock)

    await executor.run("queue", ids)  # by a clock that is an hour late it would not be due
    assert runner.ids == ids
