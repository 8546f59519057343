"""One execution that goes wrong in a way that nobody foresaw: it fails, and tells so; its batch goes on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import ClauseElement, Executable, MetaData
from sqlalchemy.ext.compiler import compiles
from sqlmodel import Field, SQLModel

from pipeline.jobs.contract import NewJob
from pipeline.ledger.job_tables import JobRow
from pipeline_handlers.governance.contract import Step
from pipeline_handlers.governance.rounds import Round
from pipeline_handlers.governance.tables import Notification
from tests.handlers.governance.engine_rig import QUEUE, Rig, rig_on

Make = Callable[..., Awaitable[Rig]]
LEAVE = {"use": "leave", "what": "it"}
CALL = {"use": "call", "what": "it"}


class Apart(SQLModel):
    metadata = MetaData()


class Ticket(Apart, table=True):
    """A table of somebody else's, whose foreign key names one that its metadata do not know."""

    __tablename__ = "tickets_elsewhere"

    id: str = Field(primary_key=True)
    execution_id: str = Field(foreign_key="workflow_executions.id")


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    async with AsyncExitStack() as stack:

        async def rig(*actions: dict[str, Any], **queue: Any) -> Rig:
            return await stack.enter_async_context(rig_on(f"sqlite:///{tmp_path}/test.db", actions, **queue))

        yield rig


async def to_the_end(rig: Rig) -> None:
    await rig.run()
    while jobs := await rig.rows(JobRow):
        rig.now = max(job.due_at for job in jobs)
        await rig.run()


def only(rig: Rig, bad: str, what: Any) -> None:
    """One execution's tries come to this; the others succeed."""
    rig.script.next = lambda _, step: what if step.execution_id == bad else None  # type: ignore[method-assign, assignment]


async def ends(rig: Rig, ids: list[str]) -> list[str]:
    return [(await rig.execution(id_)).status for id_ in ids]


async def test_a_row_that_sqlalchemy_itself_refuses_fails_only_its_execution(make: Make) -> None:
    rig = await make(LEAVE)
    ids = await rig.trigger(5)
    only(rig, ids[0], lambda step: step.add(Ticket(id="1", execution_id=step.execution_id)))
    await to_the_end(rig)
    assert await ends(rig, ids) == ["failed"] + ["completed"] * 4
    assert "could not find table" in str((await rig.execution(ids[0])).error)
    assert (await rig.audited(ids[0]))[-2:] == ["action_failed", "execution_failed"]


class Poison(Executable, ClauseElement):
    """A statement that breaks the writing in a way that no database knows."""

    inherit_cache = False


@compiles(Poison)
def _broken(element: Poison, compiler: Any, **_: Any) -> str:
    raise RuntimeError("a bug")


async def test_an_error_that_nobody_foresaw_is_a_failed_try_of_its_execution_alone(make: Make) -> None:
    rig = await make(LEAVE, retry={"attempts": 2})
    ids = await rig.trigger(5)

    def poison(step: Step) -> None:
        step.execute(Poison())

    only(rig, ids[2], poison)
    await to_the_end(rig)
    assert await ends(rig, ids) == ["completed"] * 2 + ["failed"] + ["completed"] * 2
    assert (await rig.execution(ids[2])).error == "RuntimeError: a bug"
    assert [action.failures for action in await rig.actions(ids[2])] == [2]
    assert len(await rig.rows(Notification)) == 4
    await rig.executions.retry(ids[2])
    only(rig, "", None)
    await to_the_end(rig)
    assert await ends(rig, ids) == ["completed"] * 5


class Panic(BaseException):
    """As extensions that are written in Rust raise it."""


@pytest.mark.parametrize("error", [asyncio.CancelledError, Panic])
@pytest.mark.parametrize("action", [LEAVE, CALL])
async def test_an_action_that_is_cancelled_from_within_or_panics_has_failed(
    make: Make, action: dict[str, Any], error: type[BaseException]
) -> None:
    rig = await make(action, retry={"attempts": 2})
    ids = await rig.trigger(3)

    def breaks(step: Step) -> None:
        raise error

    only(rig, ids[0], breaks)
    await to_the_end(rig)
    assert await ends(rig, ids) == ["failed", "completed", "completed"]
    assert (await rig.execution(ids[0])).error == error.__name__
    [tried] = await rig.actions(ids[0])
    assert (tried.attempts, tried.failures) == (2, 2)


async def test_a_job_that_an_action_leaves_without_a_stage_is_its_own_stages(make: Make) -> None:
    rig = await make(LEAVE)
    ids = await rig.trigger(2)
    only(rig, ids[0], lambda step: step.enqueue(NewJob("mine:1", "elsewhere", {"kind": "x"})))
    await rig.executor.run(QUEUE, await rig.due())
    assert await ends(rig, ids) == ["completed"] * 2
    assert [(job.id, job.stage) for job in await rig.rows(JobRow)] == [("mine:1", "governance")]


async def test_an_execution_whose_failure_can_not_even_be_told_is_given_up_and_the_others_go_on(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = await make(LEAVE)
    ids = await rig.trigger(4)
    run = Round.run

    async def broken(self: Round, jobs: Any, tried: Any) -> None:
        if any(job.id.endswith(ids[1]) for job in jobs):
            raise RuntimeError("a bug")
        await run(self, jobs, tried)

    monkeypatch.setattr(Round, "run", broken)
    await to_the_end(rig)
    assert await ends(rig, ids) == ["completed", "failed", "completed", "completed"]
    assert (await rig.execution(ids[1])).error == "RuntimeError: a bug"
    assert (await rig.audited(ids[1]))[-1] == "execution_failed"


async def test_an_engine_that_is_broken_leaves_no_execution_in_progress_without_a_job(make: Make) -> None:
    rig = await make(LEAVE, retry={"attempts": 2})
    ids = await rig.trigger(2)

    async def broken(work: Any) -> None:
        raise RuntimeError("a bug")

    rig.engine.run_jobs = broken  # type: ignore[method-assign]
    await to_the_end(rig)
    assert await ends(rig, ids) == ["failed", "failed"]
    assert (await rig.execution(ids[0])).error == "a bug"
    assert (await rig.audited(ids[0]))[-1] == "execution_failed"


async def test_jobs_that_end_without_success_fail_their_executions_and_the_action_under_way(make: Make) -> None:
    rig = await make(CALL)
    [id_] = await rig.trigger()
    begun = asyncio.Event()

    async def ended_by_others(step: Step) -> None:
        begun.set()
        await asyncio.Event().wait()

    only(rig, id_, ended_by_others)
    running = asyncio.create_task(rig.executor.run(QUEUE, await rig.due()))
    await begun.wait()
    await rig.executor.stop(grace=0)
    await asyncio.wait([running])

    class Fails:
        """What a bug of the engine's own would look like to the executor."""

        async def run_jobs(self, work: Any) -> None:
            async with work.transaction() as settlement:
                await rig.engine.jobs_failed(settlement, work.jobs, "it ended\0")
                for job in work.jobs:
                    settlement.failed(job.id, "it ended")

    rig.engine.run_jobs, engine = Fails().run_jobs, rig.engine.run_jobs  # type: ignore[method-assign]
    rig.executor = rig.worker("another")
    await rig.run()
    assert await rig.state(id_) == ("failed", None)
    assert [action.status for action in await rig.actions(id_)] == ["failed"]
    assert (await rig.audited(id_))[-2:] == ["action_failed", "execution_failed"]
    rig.engine.run_jobs = engine  # type: ignore[method-assign]
    await rig.executions.retry(id_)
    only(rig, "", None)
    await rig.run()
    assert await rig.state(id_) == ("completed", None)


async def test_jobs_failed_leaves_what_waits_or_has_ended_alone(make: Make) -> None:
    rig = await make({"use": "ask"})
    [id_] = await rig.trigger()
    [job] = await rig.rows(JobRow)
    await rig.run()

    class Held:
        now = rig.now

    async with rig.database.write() as connection:
        held: Any = Held()
        held.connection = connection
        await rig.engine.jobs_failed(held, [job], "late")
    assert await rig.state(id_) == ("in_progress", "waiting")
