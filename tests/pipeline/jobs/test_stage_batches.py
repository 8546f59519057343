"""Events of asynchronous stages run in batches and beside other jobs, and none is lost, whatever fails."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy import MetaData, Text, TypeDecorator, update
from sqlmodel import Field, SQLModel

from pipeline.errors import Reject, Unavailable
from pipeline.events import Event
from pipeline.handlers import Context, Delivery
from pipeline.jobs.contract import Work
from pipeline.jobs.leftovers import WorkersLost
from pipeline.jobs.stage_jobs import StageJobs
from pipeline.ledger.database import Database
from pipeline.ledger.job_tables import JobRow
from tests.handlers.eventually import eventually
from tests.pipeline.dispatch.harness import batch_stage, stage
from tests.pipeline.jobs.samples import PIPELINE, Moment, job, jobs, leave, runs
from tests.pipeline.jobs.stage_samples import POLICY, MakeExecutor, dead, event_job, run
from tests.pipeline.ledger.samples import Note, SampleModel, notes


class ForeignModel(SQLModel):
    metadata = MetaData()


class Astray(ForeignModel, table=True):
    """Refers to a table that its metadata does not hold."""

    id: int | None = Field(default=None, primary_key=True)
    note: int = Field(foreign_key="notes.id")


class Surprise(Exception):
    """Neither the database's nor a value's."""


class Surprising(TypeDecorator[str]):
    impl = Text
    cache_ok = True

    def bind_processor(self, dialect: Any) -> Any:
        raise Surprise("a surprise")


async def test_batches_hold_at_most_max_batch_events_and_one_of_each_key(
    db: Database, executor_of: MakeExecutor
) -> None:
    batches: list[list[int]] = []

    async def handle_batch(batch: Sequence[Delivery]) -> None:
        batches.append([delivery.event.offset for delivery in batch])

    keys = ["x", "x", "y", None, None, None, "x"]
    ids = await leave(db, *(event_job(offset, key=key) for offset, key in enumerate(keys)))

    await run(db, executor_of, batch_stage("s", handle_batch, max_batch=3), ids)

    assert sorted(offset for batch in batches for offset in batch) == list(range(7))
    assert all(len(batch) <= 3 for batch in batches)
    assert all(len({0, 1, 6}.intersection(batch)) <= 1 for batch in batches)
    assert await jobs(db) == {}


async def test_a_batch_that_fails_unexpectedly_runs_again_one_by_one(db: Database, executor_of: MakeExecutor) -> None:
    async def handle_batch(batch: Sequence[Delivery]) -> None:
        for event, context in batch:
            context.add(Note(number=event.offset))
            if event.offset == 1:
                raise ZeroDivisionError

    ids = await leave(db, *(event_job(offset) for offset in range(3)))

    await run(db, executor_of, batch_stage("s", handle_batch, POLICY), ids)

    assert sorted(note.number or 0 for note in await notes(db)) == [0, 2]
    assert {row.id: row.failures for row in (await jobs(db)).values()} == {ids[1]: 1}


async def test_a_batch_may_end_differently_for_each_event(db: Database, executor_of: MakeExecutor) -> None:
    async def handle_batch(batch: Sequence[Delivery]) -> list[BaseException | None]:
        ends: list[BaseException | None] = [None, Reject("no"), Unavailable("smtp")]
        return [ends[delivery.event.offset] for delivery in batch]

    ids = await leave(db, *(event_job(offset) for offset in range(3)))

    await run(db, executor_of, batch_stage("s", handle_batch, POLICY), ids)

    assert {row.id: row.failures for row in (await jobs(db)).values()} == {ids[2]: 0}
    assert [letter.offset for letter in await dead(db)] == [1]


async def test_jobs_of_the_handlers_own_go_to_its_run_jobs(db: Database, executor_of: MakeExecutor) -> None:
    handled: list[str] = []

    async def handle(event: Event[Any], context: Context) -> None:
        handled.append(event.id)

    async def run_jobs(work: Work) -> None:
        handled.extend(each.id for each in work.jobs)
        async with work.transaction() as settlement:
            for each in work.jobs:
                settlement.done(each.id)

    ids = await leave(db, event_job(1), job("own", "stages", stage="s"))

    await run(db, executor_of, stage("s", handle, run_jobs=staticmethod(run_jobs)), ids)

    assert sorted(handled) == ["e1", "own"]
    assert await jobs(db) == {}


async def test_a_handlers_own_job_that_fails_leaves_the_events_alone(db: Database, executor_of: MakeExecutor) -> None:
    async def handle(event: Event[Any], context: Context) -> None:
        await asyncio.sleep(0)

    async def run_jobs(work: Work) -> None:
        raise ZeroDivisionError

    ids = await leave(db, event_job(1), job("own", "stages", stage="s"))

    await run(db, executor_of, stage("s", handle, run_jobs=staticmethod(run_jobs)), ids)

    assert {row.id: row.failures for row in (await jobs(db)).values()} == {"own": 1}


async def test_an_event_on_which_ten_workers_died_is_dead(db: Database, executor_of: MakeExecutor) -> None:
    handled: list[str] = []

    async def handle(event: Event[Any], context: Context) -> None:
        handled.append(event.id)

    ids = await leave(db, event_job(1), event_job(2))
    async with db.write() as connection:
        await connection.execute(update(JobRow).where(JobRow.id == ids[0]).values(lost=10))  # type: ignore[arg-type]

    await run(db, executor_of, stage("s", handle), ids)

    assert handled == ["e2"]
    assert [(letter.offset, letter.kind, letter.place) for letter in await dead(db)] == [(1, "worker_lost", None)]


async def test_each_asynchronous_stage_has_a_dead_letter_of_its_own(db: Database, executor_of: MakeExecutor) -> None:
    async def handle(event: Event[Any], context: Context) -> None:
        raise Reject(f"{context.stage} can not")

    for name in ("first", "second"):
        ids = await leave(db, event_job(1, on=name))
        await run(db, executor_of, stage(name, handle), ids)

    told = {(letter.stage, letter.job, letter.reason) for letter in await dead(db)}
    assert told == {("first", "first", "first can not"), ("second", "second", "second can not")}


async def test_a_job_that_holds_no_readable_event_fails_alone(db: Database, executor_of: MakeExecutor) -> None:
    async def handle(event: Event[Any], context: Context) -> None:
        await asyncio.sleep(0)

    ids = await leave(db, event_job(1), job("stage:broken", "stages", stage="s", payload={"event": {}}))

    await run(db, executor_of, stage("s", handle), ids)

    assert await jobs(db) == {}
    assert {each.job_id: each.state for each in await runs(db)} == {ids[0]: "completed", "stage:broken": "failed"}


async def test_a_stop_cancels_what_does_not_end_and_gives_it_back(db: Database, executor_of: MakeExecutor) -> None:
    ended: list[str] = []

    async def handle(event: Event[Any], context: Context) -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append(event.id)

    (job_id,) = await leave(db, event_job(1))
    executor = executor_of({"s": StageJobs(stage("s", handle), db, {}, PIPELINE)})
    task = asyncio.create_task(executor.run("stages", [job_id]))
    await eventually(lambda: executor.in_flight == 1)
    await asyncio.sleep(0)

    await executor.stop(0.01)
    await task

    assert ended in ([], ["e1"])
    row = (await jobs(db))[job_id]
    assert (row.state, row.owner, row.failures) == ("queued", None, 0)


async def test_no_event_is_lost_to_a_failure_of_the_engine_itself(
    db: Database, executor_of: MakeExecutor, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def handle(event: Event[Any], context: Context) -> None:
        context.add(Note(text=event.id))

    async def fail(*_: object) -> None:
        raise ZeroDivisionError("a bug")

    (job_id,) = await leave(db, event_job(1))
    monkeypatch.setattr("pipeline.jobs.event_settlement.EventSettler.settle", fail)

    await run(db, executor_of, stage("s", handle), [job_id])

    assert (await jobs(db))[job_id].failures == 0
    assert "the engine itself failed" in caplog.text


class Odd(SampleModel, table=True):
    """Its rows can't be written, for a reason that nobody foresees."""

    __tablename__ = "odd"

    id: int | None = Field(default=None, primary_key=True)
    value: str = Field(sa_type=Surprising)


async def test_an_event_whose_rows_fail_oddly_stops_no_other_and_is_dead_in_the_end(
    db: Database, executor_of: MakeExecutor, moment: Moment
) -> None:
    async def handle(event: Event[Any], context: Context) -> None:
        context.add(Odd(value="x") if event.offset == 1 else Note(text=event.id))

    ids = await leave(db, *(event_job(offset) for offset in range(3)))
    for _ in range(8):
        await run(db, executor_of, stage("s", handle, POLICY), ids)
        moment.at = max((row.due_at for row in (await jobs(db)).values()), default=moment.at)
    assert sorted(note.text or "" for note in await notes(db)) == ["e0", "e2"]
    assert await jobs(db) == {}
    (letter,) = await dead(db)
    assert (letter.offset, letter.kind) == (1, "unwritable")
    assert "a surprise" in letter.reason


async def test_a_row_that_refers_to_a_table_of_nobodys_is_a_dead_letter_at_once(
    db: Database, executor_of: MakeExecutor
) -> None:
    async def handle(event: Event[Any], context: Context) -> None:
        if event.offset == 1:
            context.add(Astray(note=1))
        context.add(Note(text=event.id))

    ids = await leave(db, *(event_job(offset) for offset in range(3)))
    await run(db, executor_of, stage("s", handle, POLICY), ids)
    assert sorted(note.text or "" for note in await notes(db)) == ["e0", "e2"]
    assert [letter.offset for letter in await dead(db)] == [1]
    assert await jobs(db) == {}


async def test_an_event_whose_job_ends_without_success_leaves_a_dead_letter(
    db: Database, executor_of: MakeExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def handle(event: Event[Any], context: Context) -> None:
        await asyncio.sleep(0)

    async def fail(*_: object) -> None:
        raise WorkersLost(11)

    (id_,) = await leave(db, event_job(1))
    monkeypatch.setattr("pipeline.jobs.stage_jobs.StageJobs.run_jobs", fail)
    await run(db, executor_of, stage("s", handle), [id_])
    assert await jobs(db) == {}
    assert [(letter.offset, letter.kind, letter.place) for letter in await dead(db)] == [(1, "job_failed", None)]
