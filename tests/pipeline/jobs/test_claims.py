"""Claims last as long as their worker is at them: bounded, renewed, lost, given back when it stops."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from sqlalchemy import update

from pipeline.errors import Unavailable
from pipeline.jobs.contract import Work
from pipeline.jobs.executor import Executor
from pipeline.jobs.outbox import withdraw
from pipeline.ledger.database import Database
from pipeline.ledger.job_tables import JobRow
from tests.handlers.eventually import eventually
from tests.pipeline.jobs.samples import NOON, Done, Moment, Runner, job, jobs, leave, quick, runs

MakeExecutor = Callable[..., Executor]


async def nothing(_: Work) -> None:
    """Leave everything unsettled."""


async def test_a_queues_concurrency_counts_jobs_and_each_gives_its_permit_back_when_it_is_settled(
    db: Database, executor_of: MakeExecutor
) -> None:
    may_end = {f"j{number}": asyncio.Event() for number in range(6)}
    running: set[str] = set()
    most = 0

    async def one_by_one(work: Work) -> None:
        async def run(each: str) -> None:
            nonlocal most
            running.add(each)
            most = max(most, len(running))
            await may_end[each].wait()
            running.discard(each)
            async with work.transaction([claimed for claimed in work.jobs if claimed.id == each]) as settlement:
                settlement.done(each)

        await asyncio.gather(*(run(each.id) for each in work.jobs))

    ids = await leave(db, *(job(name) for name in may_end))
    executor = executor_of({"stage": Runner(one_by_one)}, {"queue": quick(concurrency=4)})
    task = asyncio.create_task(executor.run("queue", ids))

    await eventually(lambda: len(running) == 4)
    assert executor.in_flight == 4
    first = min(running)
    may_end[first].set()
    await eventually(lambda: first not in running and len(running) == 4)
    for event in may_end.values():
        event.set()
    await task

    assert most == 4
    assert await jobs(db) == {}


async def test_batches_that_wait_for_permits_are_not_broken_up(db: Database, executor_of: MakeExecutor) -> None:
    ids = await leave(db, *(job(f"j{number:03}") for number in range(400)))
    runner = Done()
    executor = executor_of({"stage": runner}, {"queue": quick(concurrency=100)})

    await asyncio.gather(*(executor.run("queue", ids[start : start + 100]) for start in range(0, 400, 100)))

    assert [len(work) for work in runner.works] == [50] * 8  # two at a time: one computes, one is in the database


async def test_jobs_of_small_hints_are_run_together(db: Database, executor_of: MakeExecutor) -> None:
    ids = await leave(db, *(job(f"j{number:03}") for number in range(90)))
    runner = Done()
    executor = executor_of({"stage": runner}, {"queue": quick(concurrency=100)})

    await asyncio.gather(*(executor.run("queue", ids[start : start + 3]) for start in range(0, 90, 3)))

    assert sorted(len(work) for work in runner.works) == [40, 50]
    assert executor.waiting("queue") == 0
    assert await jobs(db) == {}


async def test_a_job_that_is_withdrawn_while_it_runs_is_not_held_any_more(
    db: Database, executor_of: MakeExecutor
) -> None:
    seen: list[frozenset[str]] = []

    async def withdrawn(work: Work) -> None:
        async with db.write() as connection:
            await withdraw(connection, ["a"])
        async with work.transaction() as settlement:
            seen.append(settlement.held)
            settlement.done("b")

    ids = await leave(db, job("a"), job("b"))

    executor = executor_of({"stage": Runner(withdrawn)})
    await executor.run("queue", ids)

    assert seen == [frozenset({"b"})]
    assert await jobs(db) == {}
    assert executor.in_flight == 0


async def test_a_worker_that_lost_its_claim_writes_nothing(db: Database, executor_of: MakeExecutor) -> None:
    async def lose(work: Work) -> None:
        async with db.write() as connection:
            await connection.execute(update(JobRow).values(owner="another", lost=1))
        async with work.transaction() as settlement:
            assert settlement.held == frozenset()
            with pytest.raises(RuntimeError, match="not held"):
                settlement.done("a")

    await leave(db, job("a"))

    await executor_of({"stage": Runner(lose)}).run("queue", ["a"])

    row = (await jobs(db))["a"]
    assert (row.state, row.owner, row.failures) == ("running", "another", 0)
    assert await runs(db) == []


async def test_claims_are_renewed_as_long_as_their_jobs_run(
    db: Database, executor_of: MakeExecutor, moment: Moment
) -> None:
    runner = Done()
    runner.may_go_on.clear()
    executor = executor_of({"stage": runner}, lease=0.3)
    await executor.start()
    await leave(db, job("a"))
    task = asyncio.create_task(executor.run("queue", ["a"]))
    await eventually(lambda: executor.in_flight == 1)

    moment.pass_by(100)

    async def renewed() -> bool:
        row = (await jobs(db))["a"]
        return row.claimed_until is not None and row.claimed_until > moment.at

    await eventually(renewed)
    runner.may_go_on.set()
    await task


async def test_a_stop_lets_running_jobs_finish_and_takes_no_more(db: Database, executor_of: MakeExecutor) -> None:
    runner = Done()
    runner.may_go_on.clear()
    executor = executor_of({"stage": runner}, {"queue": quick(concurrency=1)})
    ids = await leave(db, job("a"), job("b"))
    task = asyncio.create_task(executor.run("queue", ids))
    await eventually(lambda: len(runner.works) == 1)

    stopping = asyncio.create_task(executor.stop(10))
    await asyncio.sleep(0)
    runner.may_go_on.set()
    await stopping
    await task

    assert runner.ids == ["a"]
    assert set(await jobs(db)) == {"b"}
    await executor.run("queue", ["b"])
    assert set(await jobs(db)) == {"b"}


async def test_what_does_not_finish_in_time_is_given_back_and_counts_nothing(
    db: Database, executor_of: MakeExecutor
) -> None:
    runner = Done()
    runner.may_go_on.clear()
    executor = executor_of({"stage": runner})
    await leave(db, job("a"))
    task = asyncio.create_task(executor.run("queue", ["a"]))
    await eventually(lambda: len(runner.works) == 1)

    await executor.stop(0.01)
    await task

    row = (await jobs(db))["a"]
    assert (row.state, row.owner, row.hinted_at, row.failures, row.lost) == ("queued", None, None, 0, 0)
    assert row.claimed_until is None
    assert await runs(db) == []
    assert executor.in_flight == 0


async def test_jobs_go_on_where_only_whoever_waits_for_them_is_cancelled(
    db: Database, executor_of: MakeExecutor
) -> None:
    runner = Done()
    runner.may_go_on.clear()
    executor = executor_of({"stage": runner})
    await leave(db, job("a"))
    task = asyncio.create_task(executor.run("queue", ["a"]))
    await eventually(lambda: len(runner.works) == 1)

    task.cancel()
    await asyncio.wait([task])
    runner.may_go_on.set()

    await eventually(lambda: executor.in_flight == 0)
    assert await jobs(db) == {}


async def test_a_claim_whose_answer_was_lost_is_taken_again(db: Database, executor_of: MakeExecutor) -> None:
    await leave(db, job("a"))
    async with db.write() as connection:
        await connection.execute(update(JobRow).values(state="running", owner="worker-1", claimed_until=NOON))
    runner = Done()

    await executor_of({"stage": runner}, owner="worker-1").run("queue", ["a"])

    assert runner.ids == ["a"]


class Unreliable(Database):
    """A database that is away as often as the test says."""

    away = 0

    def write(self):  # type: ignore[no-untyped-def]
        if self.away:
            self.away -= 1
            raise Unavailable("database", "connection refused")
        return super().write()


@pytest.mark.parametrize("when", ["claiming", "settling what is left over"])
async def test_an_outage_of_the_database_is_waited_for(db: Database, executor_of: MakeExecutor, when: str) -> None:
    unreliable = Unreliable(db.url)

    async def go_away(_: Work) -> None:
        unreliable.away = 2

    ids = await leave(db, job("a"))
    runner = Runner(go_away if when != "claiming" else nothing)
    unreliable.away = 2 if when == "claiming" else 0

    executor = executor_of({"stage": runner}, database=unreliable)
    await executor.run("queue", ids)
    await executor.stop(0)
    await unreliable.close()

    assert runner.ids == ["a"]
    assert (await jobs(db))["a"].failures == 1


async def test_a_job_that_runs_anew_in_other_work_is_not_held_by_the_work_that_settled_it(
    db: Database, executor_of: MakeExecutor
) -> None:
    settled, look, looked = asyncio.Event(), asyncio.Event(), asyncio.Event()
    held: list[frozenset[str]] = []

    async def settle_and_look_later(work: Work) -> None:
        if len(runner.works) == 1:
            async with work.transaction() as settlement:
                settlement.again("a", after=0, error="not yet")
            settled.set()
            await look.wait()
            async with work.transaction() as settlement:
                held.append(settlement.held)
            looked.set()
            return
        look.set()
        await looked.wait()
        async with work.transaction() as settlement:
            held.append(settlement.held)
            settlement.done("a")

    await leave(db, job("a"))
    runner = Runner(settle_and_look_later)
    executor = executor_of({"stage": runner})

    first = asyncio.create_task(executor.run("queue", ["a"]))
    await settled.wait()
    await executor.run("queue", ["a"])
    await first

    assert held == [frozenset(), frozenset({"a"})]
    assert await jobs(db) == {}
