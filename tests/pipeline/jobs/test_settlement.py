"""A settlement writes the effects of jobs and what becomes of them together, or not at all."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta

import pytest
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from pipeline.connectors import Outgoing
from pipeline.errors import Unavailable
from pipeline.jobs.contract import Job, NewJob, Work
from pipeline.jobs.executor import Executor
from pipeline.ledger.database import Database
from pipeline.ledger.job_tables import JobRow
from pipeline.ledger.units import Row
from pipeline.ledger.writing import blames_data
from tests.pipeline.jobs.samples import NOON, Runner, job, jobs, leave, messages, quick, runs
from tests.pipeline.ledger.samples import Note, Owner, notes

MakeExecutor = Callable[..., Executor]


async def test_rows_the_jobs_end_new_jobs_and_messages_are_written_together(
    db: Database, executor_of: MakeExecutor
) -> None:
    async def effects(work: Work) -> None:
        async with work.transaction() as settlement:
            assert settlement.now == NOON
            for each in work.jobs:
                settlement.add(Row(Note, {"text": each.id, "owner_name": "owner"}))
            settlement.add(Owner(name="owner"))
            settlement.done("a")
            settlement.failed("b", "no such policy")
            settlement.again("c", after=7, error="not yet")
            settlement.again("d", after=3, error="smtp is down", counts=False)
            settlement.enqueue(job("e", due_at=NOON + timedelta(days=1)))
            settlement.withdraw("f")
            settlement.publish("stream.a", Outgoing(b"{}", "governance.policy.status_changed", "m1"))

    ids = await leave(db, *(job(name) for name in "abcd"))
    await leave(db, job("f"))

    await executor_of({"stage": Runner(effects)}).run("queue", ids)

    found = await jobs(db)
    assert sorted(found) == ["c", "d", "e"]
    assert (found["c"].failures, found["c"].due_at, found["c"].error) == (1, NOON + timedelta(seconds=7), "not yet")
    assert (found["d"].failures, found["d"].due_at) == (0, NOON + timedelta(seconds=3))
    assert {(row.state, row.owner, row.hinted_at, row.claimed_until) for row in found.values()} == {
        ("queued", None, None, None)
    }
    assert sorted(note.text or "" for note in await notes(db)) == ["a", "b", "c", "d"]
    assert {(run.job_id, run.state, run.error) for run in await runs(db)} == {
        ("a", "completed", None), ("b", "failed", "no such policy"), ("c", "failed", "not yet"),
        ("d", "failed", "smtp is down"),
    }  # fmt: skip
    assert [message.message_id for message in await messages(db)] == ["m1"]


async def test_an_error_in_the_block_undoes_all_of_it(db: Database, executor_of: MakeExecutor) -> None:
    async def fail(work: Work) -> None:
        async with work.transaction() as settlement:
            settlement.add(Note(text="never"))
            settlement.done("a")
            settlement.enqueue(job("b"))
            raise Unavailable("temporal")

    await leave(db, job("a"))

    await executor_of({"stage": Runner(fail)}).run("queue", ["a"])

    assert await notes(db) == []
    assert list(await jobs(db)) == ["a"]
    assert (await jobs(db))["a"].failures == 0


async def test_a_data_error_comes_out_of_the_block_and_the_handler_decides(
    db: Database, executor_of: MakeExecutor
) -> None:
    async def settle(work: Work, those: Sequence[Job]) -> bool:
        try:
            async with work.transaction(those) as settlement:
                for each in those:
                    settlement.add(Note(name=each.payload["name"]))
                    settlement.done(each.id)
        except IntegrityError as error:
            return not blames_data(error)
        return True

    async def one_by_one(work: Work) -> None:
        assert not await settle(work, work.jobs)
        for each in work.jobs:
            if not await settle(work, [each]):
                async with work.transaction([each]) as settlement:
                    settlement.failed(each.id, "the name is taken")

    named = {"a": "x", "b": "x", "c": "y"}
    ids = await leave(db, *(job(each, payload={"name": name}) for each, name in named.items()))

    await executor_of({"stage": Runner(one_by_one)}).run("queue", ids)

    assert await jobs(db) == {}
    assert sorted(run.state for run in await runs(db)) == ["completed", "completed", "failed"]
    assert sorted(note.name or "" for note in await notes(db)) == ["x", "y"]


async def test_a_job_may_leave_one_with_its_own_id(db: Database, executor_of: MakeExecutor) -> None:
    async def leave_itself(work: Work) -> None:
        async with work.transaction() as settlement:
            settlement.done("a")
            settlement.enqueue(job("a", payload={"round": 2}))

    await leave(db, job("a", payload={"round": 1}))

    await executor_of({"stage": Runner(leave_itself)}).run("queue", ["a"])

    assert (await jobs(db))["a"].payload == {"round": 2}


async def test_a_settled_job_is_not_held_in_the_works_next_transaction(db: Database, executor_of: MakeExecutor) -> None:
    held: list[frozenset[str]] = []

    async def in_two(work: Work) -> None:
        async with work.transaction([work.jobs[0]]) as settlement:
            settlement.done(work.jobs[0].id)
        async with work.transaction() as settlement:
            held.append(settlement.held)
            for each in settlement.held:
                settlement.done(each)

    ids = await leave(db, job("a"), job("b"))
    runner = Runner(in_two)

    await executor_of({"stage": runner}).run("queue", ids)

    assert held == [frozenset({runner.works[0][1].id})]


async def test_a_job_without_a_stage_is_refused_at_once(db: Database, executor_of: MakeExecutor) -> None:
    async def forget_the_stage(work: Work) -> None:
        async with work.transaction() as settlement:
            with pytest.raises(ValueError, match="names no stage"):
                settlement.enqueue(NewJob("b", "queue"))
            settlement.done("a")

    await leave(db, job("a"))

    await executor_of({"stage": Runner(forget_the_stage)}).run("queue", ["a"])

    assert await jobs(db) == {}


async def test_a_handler_may_read_and_write_with_the_transactions_connection(
    db: Database, executor_of: MakeExecutor
) -> None:
    async def count(work: Work) -> None:
        async with work.transaction() as settlement:
            found = (await settlement.connection.execute(select(JobRow.id))).scalars().all()
            settlement.add(Note(number=len(found)))
            settlement.done("a")

    await leave(db, job("a"), job("b", "elsewhere"))

    await executor_of({"stage": Runner(count)}).run("queue", ["a"])

    assert [note.number for note in await notes(db)] == [2]


async def test_an_errors_text_that_no_database_takes_is_kept_readable(db: Database, executor_of: MakeExecutor) -> None:
    async def fail(work: Work) -> None:
        async with work.transaction() as settlement:
            settlement.failed("a", "bad \0 byte")

    await leave(db, job("a"))

    await executor_of({"stage": Runner(fail)}).run("queue", ["a"])

    assert [run.error for run in await runs(db)] == [r"bad \u0000 byte"]


async def test_a_handler_asks_its_queue_how_long_to_wait(db: Database, executor_of: MakeExecutor) -> None:
    waits: list[float | None] = []

    async def ask(work: Work) -> None:
        assert work.max_failures == 4
        waits.extend(work.retry_after(failures) for failures in (1, 2, 3, 4))
        async with work.transaction() as settlement:
            settlement.done("a")

    await leave(db, job("a"))

    await executor_of({"stage": Runner(ask)}, {"queue": quick(attempts=4)}).run("queue", ["a"])

    assert waits == [2.0, 4.0, 8.0, None]
