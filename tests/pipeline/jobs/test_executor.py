"""The executor runs what it can claim, at most so many at once, and settles what a handler leaves over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest
from sqlalchemy import select, update

from pipeline.errors import Unavailable
from pipeline.jobs.contract import Job, Settlement, Work
from pipeline.jobs.executor import Executor
from pipeline.ledger.database import Database
from pipeline.ledger.job_tables import JobRow
from tests.handlers.eventually import eventually
from tests.pipeline.jobs.samples import NOON, Done, Moment, Runner, job, jobs, leave, quick, runs
from tests.pipeline.ledger.samples import Note, notes

MakeExecutor = Callable[..., Executor]


async def nothing(_: Work) -> None:
    """Leave everything unsettled."""


async def test_jobs_are_claimed_run_together_and_gone(db: Database, executor_of: MakeExecutor) -> None:
    ids = await leave(db, *(job(f"j{number}", payload={"number": number}) for number in range(5)))
    runner = Done()
    executor = executor_of({"stage": runner})

    await executor.run("queue", ids)

    (work,) = runner.works
    assert {each.id: each.payload["number"] for each in work} == {f"j{number}": number for number in range(5)}
    assert {each.due_at for each in work} == {NOON}
    assert await jobs(db) == {}
    assert {(run.job_id, run.state, run.worker, run.run, run.error) for run in await runs(db)} == {
        (each, "completed", "worker-1", 1, None) for each in ids
    }
    assert executor.in_flight == 0


async def test_what_is_not_due_not_there_or_of_another_queue_is_left_alone(
    db: Database, executor_of: MakeExecutor, moment: Moment
) -> None:
    later = job("later", due_at=NOON + timedelta(seconds=10))
    await leave(db, later, job("other", "elsewhere"))
    runner = Done()
    executor = executor_of({"stage": runner})

    await executor.run("queue", ["later", "other", "unknown"])
    assert runner.works == []
    moment.pass_by(10)
    await executor.run("queue", ["later", "other", "unknown"])

    assert runner.ids == ["later"]
    assert set(await jobs(db)) == {"other"}


async def test_each_stages_jobs_go_to_its_own_handler(db: Database, executor_of: MakeExecutor) -> None:
    ids = await leave(db, job("a", stage="first"), job("b", stage="second"), job("c", stage="first"))
    first, second = Done(), Done()

    await executor_of({"first": first, "second": second}).run("queue", ids)

    assert sorted(first.ids) == ["a", "c"]
    assert second.ids == ["b"]


async def test_jobs_of_a_stage_that_is_not_here_are_left_to_other_workers(
    db: Database, executor_of: MakeExecutor, moment: Moment
) -> None:
    await leave(db, job("a", stage="gone"))

    await executor_of({"stage": Done()}).run("queue", ["a"])

    row = (await jobs(db))["a"]
    assert (row.state, row.owner, row.failures, row.lost) == ("queued", None, 0, 0)
    assert row.due_at > moment.at
    assert "no stage 'gone'" in (row.error or "")


async def test_two_workers_never_run_the_same_job(db: Database, executor_of: MakeExecutor) -> None:
    ids = await leave(db, *(job(f"j{number:03}") for number in range(200)))
    runners = [Done(), Done()]
    executors = [executor_of({"stage": runner}) for runner in runners]
    hints = [ids[start : start + 20] for start in range(0, 200, 20)]

    await asyncio.gather(*(executor.run("queue", hint) for hint in hints for executor in executors))

    assert sorted(runners[0].ids + runners[1].ids) == ids
    assert await jobs(db) == {}


async def test_a_hint_that_comes_twice_runs_its_jobs_once(db: Database, executor_of: MakeExecutor) -> None:
    ids = await leave(db, job("a"), job("b"))
    runner = Done()
    executor = executor_of({"stage": runner})

    await asyncio.gather(executor.run("queue", ids), executor.run("queue", [*ids, "a"]))

    assert sorted(runner.ids) == ["a", "b"]


async def test_what_a_handler_leaves_unsettled_is_run_again_after_the_queues_waits_and_fails_in_the_end(
    db: Database, executor_of: MakeExecutor, moment: Moment
) -> None:
    await leave(db, job("a"))
    executor = executor_of({"stage": Runner(nothing)}, {"queue": quick(attempts=3)})
    waits = []
    for _ in range(3):
        await executor.run("queue", ["a"])
        if row := (await jobs(db)).get("a"):
            waits.append((row.due_at - moment.at).total_seconds())
            assert (row.state, row.owner, row.hinted_at) == ("queued", None, None)
            moment.at = row.due_at

    assert waits == [2.0, 4.0]
    assert await jobs(db) == {}
    assert [(run.run, run.state) for run in await runs(db)] == [(1, "failed"), (2, "failed"), (3, "failed")]
    assert "without settling" in ((await runs(db))[0].error or "")


async def test_an_error_is_logged_once_with_its_traceback_and_fails_each_unsettled_job(
    db: Database, executor_of: MakeExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    async def settle_one_and_fail(work: Work) -> None:
        async with work.transaction([work.jobs[0]]) as settlement:
            settlement.done(work.jobs[0].id)
        raise ZeroDivisionError("the handler is wrong")

    ids = await leave(db, job("a"), job("b"), job("c"))

    await executor_of({"stage": Runner(settle_one_and_fail)}).run("queue", ids)

    left = await jobs(db)
    assert [(row.failures, row.error) for row in left.values()] == [(1, "the handler is wrong")] * 2
    errors = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(errors) == 1
    assert errors[0].exc_info is not None


async def test_an_outage_counts_no_failure_and_the_waits_are_capped(
    db: Database, executor_of: MakeExecutor, moment: Moment
) -> None:
    async def meet_an_outage(_: Work) -> None:
        raise Unavailable("smtp", "connection refused")

    await leave(db, job("a"))
    executor = executor_of({"stage": Runner(meet_an_outage)}, {"queue": quick(attempts=1)})
    for _ in range(12):
        await executor.run("queue", ["a"])
        row = (await jobs(db))["a"]
        assert timedelta(0) < row.due_at - moment.at <= timedelta(seconds=15)
        moment.at = row.due_at

    assert (row.failures, row.error) == (0, "smtp is unavailable: connection refused")


class Panic(BaseException):
    """As extensions that are written in Rust raise it."""


@pytest.mark.parametrize("error", [asyncio.CancelledError, Panic])
async def test_a_handlers_own_cancellation_or_panic_is_a_failure_like_any_other(
    db: Database, executor_of: MakeExecutor, error: type[BaseException]
) -> None:
    async def fail(_: Work) -> None:
        raise error

    await leave(db, job("a"))

    await executor_of({"stage": Runner(fail)}).run("queue", ["a"])

    assert (await jobs(db))["a"].failures == 1


async def test_a_job_on_which_workers_died_runs_apart_from_all_others(db: Database, executor_of: MakeExecutor) -> None:
    ids = await leave(db, *(job(f"j{number}") for number in range(6)))
    async with db.write() as connection:
        await connection.execute(update(JobRow).where(JobRow.id.in_(["j1", "j3"])).values(lost=2))  # type: ignore[attr-defined]
    runner = Done()

    await executor_of({"stage": runner}).run("queue", ids)

    assert [sorted(each.id for each in work) for work in runner.works] == [["j0", "j2", "j4", "j5"], ["j1"], ["j3"]]
    assert await jobs(db) == {}


async def test_a_settlement_tells_the_relay_where_it_left_something_to_do(
    db: Database, executor_of: MakeExecutor
) -> None:
    async def leave_another(work: Work) -> None:
        async with work.transaction() as settlement:
            settlement.done(work.jobs[0].id)
            if work.jobs[0].id == "a":
                settlement.enqueue(job("b"))

    told = []
    await leave(db, job("a"))
    executor = executor_of({"stage": Runner(leave_another)}, on_settled=lambda: told.append(True))

    await executor.run("queue", ["a"])
    assert len(told) == 1
    assert set(await db.fetch(str, select(JobRow.id))) == {"b"}
    await executor.run("queue", ["b"])
    assert len(told) == 1


async def test_which_jobs_wait_for_permits_can_be_asked(db: Database, executor_of: MakeExecutor) -> None:
    ids = await leave(db, *(job(f"j{number}") for number in range(3)))
    runner = Done()
    runner.may_go_on.clear()
    executor = executor_of({"stage": runner}, {"queue": quick(concurrency=1)})
    task = asyncio.create_task(executor.run("queue", ids))
    await eventually(lambda: runner.ids == ["j0"])
    assert not executor.waits("queue", ["j0"])
    assert executor.waits("queue", ["j0", "j2"])
    assert not executor.waits("elsewhere", ["j2"])
    runner.may_go_on.set()
    await task
    assert not executor.waits("queue", ids)


async def test_a_feeder_that_fails_says_so_and_ends_its_hints(
    db: Database, executor_of: MakeExecutor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    ids = await leave(db, job("a"))
    executor = executor_of({"stage": Done()})

    async def fail(*_: object) -> int:
        raise ZeroDivisionError("a bug")

    with monkeypatch.context() as patched:
        patched.setattr("pipeline.jobs.permits.Permits.take", fail)
        async with asyncio.timeout(5):
            await executor.run("queue", ids)
    await eventually(lambda: "the engine itself failed" in caplog.text)
    await executor.run("queue", ids)
    assert await jobs(db) == {}


async def test_a_job_that_kills_its_workers_is_ended_by_its_handler_or_else_without_it(
    db: Database, executor_of: MakeExecutor, moment: Moment
) -> None:
    await leave(db, job("a"))
    runner, told = Runner(nothing), []

    async def jobs_failed(settlement: Settlement, failed: Sequence[Job], reason: str) -> None:
        told.extend((each.id, reason) for each in failed)

    runner.jobs_failed = jobs_failed  # type: ignore[attr-defined]
    executor = executor_of({"stage": runner})
    for lost, runs_of_it in ((10, 1), (11, 1)):
        async with db.write() as connection:
            await connection.execute(update(JobRow).values(lost=lost, due_at=moment.at))
        await executor.run("queue", ["a"])
        assert len(runner.works) == runs_of_it
    assert await jobs(db) == {}
    assert told == [("a", "11 workers died while they ran it")]


async def test_a_handler_is_told_of_jobs_that_end_without_success_in_the_settlement_that_ends_them(
    db: Database, executor_of: MakeExecutor
) -> None:
    async def jobs_failed(settlement: Settlement, failed: Sequence[Job], reason: str) -> None:
        for each in failed:
            settlement.add(Note(text=f"{each.id}: {reason}"))

    async def fail(_: Work) -> None:
        raise ZeroDivisionError("no")

    await leave(db, job("a"), job("b"))
    runner = Runner(fail)
    runner.jobs_failed = jobs_failed  # type: ignore[attr-defined]
    await executor_of({"stage": runner}, {"queue": quick(attempts=1)}).run("queue", ["a", "b"])
    assert await jobs(db) == {}
    assert sorted(note.text or "" for note in await notes(db)) == ["a: no", "b: no"]


async def test_jobs_end_also_where_their_handler_can_not_take_note_of_it(
    db: Database, executor_of: MakeExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    async def jobs_failed(settlement: Settlement, failed: Sequence[Job], reason: str) -> None:
        settlement.add(Note(number="no number"))  # type: ignore[arg-type]

    await leave(db, job("a"))
    runner = Runner(nothing)
    runner.jobs_failed = jobs_failed  # type: ignore[attr-defined]
    if db.dialect == "sqlite":

        async def fail(settlement: Settlement, failed: Sequence[Job], reason: str) -> None:
            raise ZeroDivisionError

        runner.jobs_failed = fail  # type: ignore[attr-defined]
    await executor_of({"stage": runner}, {"queue": quick(attempts=1)}).run("queue", ["a"])
    assert await jobs(db) == {}
    assert "can't take note of jobs that failed" in caplog.text
