"""Events of an asynchronous stage obey its policy; what they leave is written once, with the end of their job."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel
from sqlalchemy import update

from pipeline.config.models import Policy, RetryPolicy
from pipeline.errors import Reject, Retry, Skip, Unavailable
from pipeline.events import Event
from pipeline.handlers import Context
from pipeline.jobs.contract import NewJob
from pipeline.ledger.database import Database
from pipeline.ledger.units import Row
from tests.handlers.eventually import eventually
from tests.pipeline.dispatch.harness import stage
from tests.pipeline.jobs.samples import NOON, Moment, jobs, leave, runs
from tests.pipeline.jobs.stage_samples import POLICY, MakeExecutor, dead, event_job, run
from tests.pipeline.ledger.samples import Note, notes


async def test_what_a_handler_leaves_is_written_with_the_end_of_its_job(
    db: Database, executor_of: MakeExecutor
) -> None:
    async def handle(event: Event[Any], context: Context) -> None:
        context.add(Note(text=event.id))
        context.add(Row(Note, {"number": event.data["n"]}))
        context.execute(update(Note).where(Note.text == event.id).values(tag="x"))  # type: ignore[arg-type]
        context.enqueue(NewJob(f"execute:{event.id}", "queue"))

    ids = await leave(db, event_job(1), event_job(2))

    await run(db, executor_of, stage("s", handle), ids)

    found = await notes(db)
    assert sorted(note.text for note in found if note.text) == ["e1", "e2"]
    assert [note.tag for note in found if note.text] == ["x", "x"]
    assert sorted(note.number for note in found if note.number) == [1, 2]
    left = await jobs(db)
    assert {(row.id, row.stage) for row in left.values()} == {("execute:e1", "s"), ("execute:e2", "s")}
    assert [each.state for each in await runs(db)] == ["completed", "completed"]


async def test_a_failed_event_waits_in_the_database_and_is_dead_with_its_bytes_and_place_in_the_end(
    db: Database, executor_of: MakeExecutor, moment: Moment
) -> None:
    attempts: list[int] = []

    async def handle(event: Event[Any], context: Context) -> None:
        attempts.append(context.attempt)
        context.add(Note(text="of a failed try"))
        raise ValueError("no")

    (job_id,) = await leave(db, event_job(7))
    waits = []
    for _ in range(3):
        await run(db, executor_of, stage("s", handle, POLICY), [job_id])
        if row := (await jobs(db)).get(job_id):
            waits.append((row.due_at - moment.at).total_seconds())
            moment.at = row.due_at

    assert attempts == [1, 2, 3]
    assert waits == [2.0, 4.0]
    assert await jobs(db) == {}
    assert await notes(db) == []
    (letter,) = await dead(db)
    assert (letter.source, letter.group, letter.stream, letter.incarnation, letter.offset) == (
        "source", "group", "st", 2, 7,
    )  # fmt: skip
    assert (letter.route, letter.stage, letter.kind, letter.reason, letter.attempts) == (
        "route", "s", "ValueError", "no", 3,
    )  # fmt: skip
    assert (letter.body, letter.event_id, letter.routing_key, letter.headers) == (b'{"n":7}', "e7", "a.b", {"h": 1})
    assert letter.first_at == NOON
    assert (letter.place or "").rpartition("/")[
        2
    ] == f"test_stage_jobs.py:{handle.__qualname__.replace('.<locals>', '')}"
    assert (letter.traceback or "").endswith("ValueError: no")


async def test_the_log_tells_where_an_event_failed_that_has_a_single_try(
    db: Database, executor_of: MakeExecutor, caplog: pytest.LogCaptureFixture
) -> None:
    async def handle(event: Event[Any], context: Context) -> None:
        raise ValueError("no")

    ids = await leave(db, event_job(7))

    await run(db, executor_of, stage("s", handle, Policy(retry=RetryPolicy(attempts=1))), ids)

    assert len(await dead(db)) == 1
    assert "Traceback" in caplog.text
    assert "in handle" in caplog.text


async def test_skip_reject_and_retry_mean_what_they_mean_in_a_runner(
    db: Database, executor_of: MakeExecutor, moment: Moment
) -> None:
    async def handle(event: Event[Any], context: Context) -> None:
        context.add(Note(text=event.id))
        raise {1: Skip(), 2: Reject("never", kind="not_found"), 3: Retry("later", after=50)}[event.data["n"]]

    ids = await leave(db, *(event_job(number) for number in (1, 2, 3)))

    await run(db, executor_of, stage("s", handle, POLICY), ids)

    (row,) = (await jobs(db)).values()
    assert (row.id, row.failures, (row.due_at - moment.at).total_seconds()) == (ids[2], 1, 50.0)
    (letter,) = await dead(db)
    assert (letter.offset, letter.kind, letter.attempts) == (2, "not_found", 1)
    assert ((letter.place or "").endswith(".handle"), letter.traceback) == (True, None)
    assert await notes(db) == []


async def test_an_outage_uses_no_attempt(db: Database, executor_of: MakeExecutor, moment: Moment) -> None:
    async def handle(event: Event[Any], context: Context) -> None:
        raise Unavailable("temporal", "refused")

    (job_id,) = await leave(db, event_job(1))
    for _ in range(5):
        await run(db, executor_of, stage("s", handle, POLICY), [job_id])
        moment.at = (await jobs(db))[job_id].due_at

    row = (await jobs(db))[job_id]
    assert (row.failures, row.error) == (0, "temporal is unavailable: refused")
    assert await dead(db) == []


@pytest.mark.parametrize("answers", [True, False])
async def test_a_time_out_is_an_outage_where_a_resource_does_not_answer(
    db: Database, executor_of: MakeExecutor, answers: bool
) -> None:
    class Resource:
        async def probe(self) -> None:
            if not answers:
                raise Unavailable("temporal", "refused")

    async def handle(event: Event[Any], context: Context) -> None:
        await asyncio.sleep(60)

    quick = Policy(timeout=0.05, retry=POLICY.retry)
    (job_id,) = await leave(db, event_job(1))

    await run(db, executor_of, stage("s", handle, quick, resources=("temporal",)), [job_id], {"temporal": Resource()})

    assert (await jobs(db))[job_id].failures == (1 if answers else 0)


async def test_the_data_is_validated_before_the_handler_sees_it(db: Database, executor_of: MakeExecutor) -> None:
    class Model(BaseModel):
        n: int

    seen: list[Any] = []

    async def handle(event: Event[Any], context: Context) -> None:
        seen.append(event.model)

    ids = await leave(db, event_job(1), event_job(2, {"n": "many"}))

    await run(db, executor_of, stage("s", handle, POLICY, models={"#": Model}), ids)

    assert seen == [Model(n=1)]
    assert [(letter.offset, letter.kind) for letter in await dead(db)] == [(2, "invalid_data")]


async def test_events_run_at_once_and_none_waits_for_a_slower_one(db: Database, executor_of: MakeExecutor) -> None:
    may_end = asyncio.Event()

    async def handle(event: Event[Any], context: Context) -> None:
        if event.data["n"] == 1:
            await may_end.wait()

    ids = await leave(db, *(event_job(number) for number in range(5)))
    task = asyncio.create_task(run(db, executor_of, stage("s", handle), ids))

    async def only_the_slow_one_is_left() -> bool:
        return list(await jobs(db)) == [ids[1]]

    await eventually(only_the_slow_one_is_left)
    may_end.set()
    await task
    assert await jobs(db) == {}


async def test_rows_that_the_database_refuses_kill_only_the_event_that_left_them(
    db: Database, executor_of: MakeExecutor
) -> None:
    async def handle(event: Event[Any], context: Context) -> None:
        context.add(Note(name="taken" if event.data["n"] in (2, 4) else f"free-{event.data['n']}"))

    ids = await leave(db, *(event_job(number) for number in range(6)))

    await run(db, executor_of, stage("s", handle), ids)

    assert sorted(note.name or "" for note in await notes(db)) == ["free-0", "free-1", "free-3", "free-5", "taken"]
    (letter,) = await dead(db)
    assert (letter.kind, letter.body) == ("unwritable", b'{"n":%d}' % letter.offset)
    assert letter.offset in (2, 4)
    assert await jobs(db) == {}
    assert sorted(each.state for each in await runs(db)) == ["completed"] * 5 + ["failed"]


class Untold(Exception):
    def __str__(self) -> str:
        return self.args[0]  # type: ignore[no-any-return]


class Panic(BaseException):
    """As extensions that are written in Rust raise it."""


@pytest.mark.parametrize("error", [Untold(404), Panic("at the disco"), Reject("gone", kind=410)])  # type: ignore[arg-type]
async def test_whatever_a_handler_raises_its_job_comes_to_an_end(
    db: Database, executor_of: MakeExecutor, error: BaseException
) -> None:
    async def handle(event: Event[Any], context: Context) -> None:
        if event.data["n"] == 1:
            raise error

    ids = await leave(db, event_job(1), event_job(2))

    once = Policy(timeout=5, retry=RetryPolicy(attempts=1))
    await run(db, executor_of, stage("s", handle, once), ids)

    assert await jobs(db) == {}
    kind = error.kind if isinstance(error, Reject) else type(error).__name__
    assert [(letter.offset, letter.kind) for letter in await dead(db)] == [(1, kind)]
