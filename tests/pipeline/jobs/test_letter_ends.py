"""A redrive that was left as a job: the job's end is its outcome, and its history has one line of it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from sqlalchemy import update

from pipeline.errors import Reject, Skip
from pipeline.events import Event, Outcome
from pipeline.handlers import Context
from pipeline.jobs.contract import LOST_LIMIT
from pipeline.jobs.outbox import job_row
from pipeline.ledger.database import Database
from pipeline.ledger.dead_letters import DeadLetters
from pipeline.ledger.job_tables import JobRow
from pipeline.ledger.lease import Lease
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.units import Redriven, SourceKey, Unit
from pipeline.stages import Stage
from tests.pipeline.dispatch.harness import stage
from tests.pipeline.jobs.samples import NOON, PIPELINE, jobs, leave
from tests.pipeline.jobs.stage_samples import POLICY, MakeExecutor, dead, event_job, run
from tests.pipeline.ledger.samples import Note, message

KEY = SourceKey("source", "group", "st")


async def reject(event: Event[Any], context: Context) -> None:
    raise Reject("no", kind="rejected")


async def skip(event: Event[Any], context: Context) -> None:
    raise Skip


async def succeed(event: Event[Any], context: Context) -> None:
    context.add(Note(text=event.id))


async def leave_what_is_refused(event: Event[Any], context: Context) -> None:
    context.add(Note(number=2**70))


@dataclass
class Redrive:
    """A dead letter whose redrive is left as a job, and the worker of its stage."""

    db: Database
    executor_of: MakeExecutor
    letter: int
    request: str
    job: str
    lease: Lease
    result: Redriven

    async def run(self, handle: Callable[[Event[Any], Context], Awaitable[None]], *jobs: str) -> None:
        await run(self.db, self.executor_of, stage_of(handle), jobs or [self.job])

    async def outcomes(self) -> dict[str, int]:
        return await DeadLetters(self.db).outcomes(self.request)

    async def state(self) -> tuple[str, str | None]:
        (letter,) = await dead(self.db)
        return letter.state, letter.outcome

    async def history(self) -> list[tuple[str, str]]:
        return [(act.action, act.reason) for act in await DeadLetters(self.db).history(self.letter)][1:]


def stage_of(handle: Callable[[Event[Any], Context], Awaitable[None]]) -> Stage:
    return stage("s", handle, POLICY)


@pytest.fixture
async def redrive(db: Database, executor_of: MakeExecutor) -> Redrive:
    """As the source's owner leaves it."""
    await run(db, executor_of, stage_of(reject), await leave(db, event_job(7)))
    asked = await DeadLetters(db).redrive(by="ann", reason="mended", force=True)
    ledger = Ledger(db)
    lease = await ledger.try_acquire(KEY, "runner-1")
    assert isinstance(lease, Lease)
    (letter,) = await ledger.redrives.requested(KEY, (), 10, 1_000)
    new = event_job(7, redrive=letter.redrives + 1)
    unit = Unit(message(7), None, "a.b", Outcome.HANDLED, [job_row(new, NOON, PIPELINE)])
    left = Redriven(letter.id or 0, 0, "route", 2, Outcome.HANDLED, unit=unit, left="s")
    await ledger.redrives.settle(lease, [left])
    return Redrive(db, executor_of, letter.id or 0, asked.request, new.id, lease, left)


LEFT = ("left", "as a job of the stage 's'")


async def test_until_its_job_has_ended_it_is_redriving_and_nobody_runs_it_anew(redrive: Redrive) -> None:
    ledger = Ledger(redrive.db)
    await ledger.redrives.settle(redrive.lease, [redrive.result])  # as after an answer that was lost

    assert await ledger.redrives.requested(KEY, (), 10, 1_000) == []
    assert await redrive.state() == ("redriving", "left")
    assert await redrive.outcomes() == {"waiting": 0, "left": 1}
    assert await redrive.history() == [LEFT]
    again = await DeadLetters(redrive.db).redrive(by="ann", reason="more", force=True, ids=[redrive.letter])
    assert again.refused == {redrive.letter: "it is redriving, and not open"}


@pytest.mark.parametrize(("handle", "outcome"), [(succeed, "handled"), (skip, "filtered")])
async def test_a_job_that_succeeds_is_the_end_of_the_redrive(redrive: Redrive, handle: Any, outcome: str) -> None:
    await redrive.run(handle)
    await redrive.run(handle)  # the queue's hint may come twice

    assert await redrive.state() == ("redriven", outcome)
    assert await redrive.outcomes() == {"waiting": 0, outcome: 1}
    assert await redrive.history() == [LEFT, ("redriven", "")]
    assert (await DeadLetters(redrive.db).history(redrive.letter))[-1].actor.startswith("worker worker-")


@pytest.mark.parametrize(
    ("handle", "reason"), [(reject, "s: no"), (leave_what_is_refused, "s: the database refused what the stages left")]
)
async def test_a_job_that_fails_opens_it_again_and_its_history_says_why(
    redrive: Redrive, handle: Any, reason: str
) -> None:
    await redrive.run(handle)
    await redrive.run(handle)

    assert await redrive.state() == ("open", None)
    assert await redrive.outcomes() == {"waiting": 0, "failed": 1}
    first, (action, why) = await redrive.history()
    assert (first, action, why[: len(reason)]) == (LEFT, "failed", reason)


async def test_what_another_worker_has_taken_over_is_told_by_that_one_alone(redrive: Redrive) -> None:
    async def lose(event: Event[Any], context: Context) -> None:
        async with redrive.db.write() as connection:
            await connection.execute(update(JobRow).values(owner="another"))

    await redrive.run(lose)
    assert await redrive.history() == [LEFT]
    async with redrive.db.write() as connection:
        await connection.execute(update(JobRow).values(owner=None, state="queued", claimed_until=None))

    await redrive.run(succeed)

    assert await redrive.history() == [LEFT, ("redriven", "")]


async def test_a_job_that_kills_its_workers_opens_it_again(redrive: Redrive) -> None:
    async with redrive.db.write() as connection:
        await connection.execute(update(JobRow).values(lost=LOST_LIMIT + 1))

    await redrive.run(succeed)

    assert await redrive.state() == ("open", None)
    assert await redrive.outcomes() == {"waiting": 0, "failed": 1}
    assert await redrive.history() == [LEFT, ("failed", "s: 11 workers died while they ran it")]


async def test_of_two_jobs_of_the_event_the_one_that_fails_decides(redrive: Redrive) -> None:
    """The other is of the route's own dead letter, that was redriven from the start."""
    (other,) = await leave(redrive.db, event_job(7))
    await redrive.run(succeed, other)
    assert await redrive.state() == ("redriving", "left")
    await leave(redrive.db, event_job(7))
    await redrive.run(succeed)
    assert await redrive.state() == ("redriven", "handled")

    await redrive.run(reject, other)

    assert await redrive.state() == ("open", None)
    assert await redrive.history() == [LEFT, ("redriven", ""), ("failed", "s: no")]
    assert await redrive.outcomes() == {"waiting": 0, "failed": 1}


async def test_what_was_discarded_meanwhile_stays_so_where_its_job_succeeds(redrive: Redrive) -> None:
    await DeadLetters(redrive.db).discard(by="ann", reason="enough", ids=[redrive.letter])

    await redrive.run(succeed)

    assert await redrive.state() == ("discarded", None)
    assert await redrive.history() == [LEFT, ("discard", "enough")]
    assert await redrive.outcomes() == {"waiting": 0}
    assert await jobs(redrive.db) == {}
