"""Governance on PostgreSQL: whoever decides, cancels, retries or dies at the same moment, each effect is there once."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, suppress
from typing import Any

import pytest
from sqlalchemy import update

from pipeline import Reject
from pipeline.errors import UserError
from pipeline.jobs.listing import list_failed_runs, list_jobs
from pipeline.ledger.job_tables import JobRow
from pipeline_handlers.governance.contract import Step
from pipeline_handlers.governance.left import Notifications, Tasks
from pipeline_handlers.governance.tables import Approval, ApprovalDecision, Notification, Task, WorkflowExecution
from tests.handlers.governance.engine_rig import PIPELINE, QUEUE, Rig, note, rig_on
from tests.handlers.governance.kit import STAGE

Make = Callable[..., Awaitable[Rig]]
LONG = "".join(random.Random(7).choices("abcdefghijklmnopqrstuvwxyz0123456789", k=9000))
AFTER = {"use": "create_task", "title": "after"}
CALL = {"use": "call", "what": "call"}


@pytest.fixture
async def make(postgres: str) -> AsyncIterator[Make]:
    async with AsyncExitStack() as stack:

        async def rig(*actions: dict[str, Any], **queue: Any) -> Rig:
            return await stack.enter_async_context(rig_on(postgres, actions, **queue))

        yield rig


async def test_batches_are_completed_with_all_their_rows(make: Make) -> None:
    rig = await make({"use": "leave"}, AFTER, {"use": "assign", "role": "owner", "to": "eve"},
                     {"use": "change_status", "to": "published"}, {"use": "leave"})  # fmt: skip
    ids = await rig.trigger(150)
    await rig.run()
    assert {await rig.state(id_) for id_ in ids} == {("completed", None)}
    assert await rig.audited(ids[0]) == [
        "execution_queued", "execution_running", *["action_completed"] * 5, "execution_completed",
    ]  # fmt: skip
    assert [row.status for row in await rig.actions(ids[7])] == ["completed"] * 5
    assert len(await rig.rows(Task)) == 150
    assert len(await rig.rows(Notification)) == 300
    assert await rig.rows(JobRow) == []


async def test_two_who_decide_at_once_both_count_and_the_execution_goes_on_once(make: Make) -> None:
    rig = await make({"use": "approval", "approvers": ["ciso", "cto"], "mode": "all", "timeout": "7d"}, AFTER)
    ids = await rig.trigger(12)
    await rig.run()
    decisions = [
        rig.approvals.decide(id_, who, "granted", request_id=f"{who}-{id_}")
        for id_ in ids for who in ("ciso", "cto") for _ in range(2)
    ]  # fmt: skip
    decided = await asyncio.gather(*decisions)
    assert Counter(one.repeated for one in decided) == {False: 24, True: 24}
    assert Counter(one.status for one in decided if not one.repeated) == {"open": 12, "granted": 12}
    assert sorted(job.id for job in await rig.rows(JobRow)) == sorted(f"execute:{id_}" for id_ in ids)
    await rig.run()
    assert {await rig.state(id_) for id_ in ids} == {("completed", None)}
    assert len(await rig.rows(ApprovalDecision)) == 24
    for id_ in ids:
        assert Counter(await rig.audited(id_, "approval")) == {
            "approval_opened": 1, "approval_decision": 2, "approval_granted": 1,
        }  # fmt: skip


async def test_a_decision_and_a_time_out_at_once_end_an_approval_once(make: Make) -> None:
    rig = await make({"use": "approval", "approvers": ["ciso"], "timeout": "1h"}, AFTER)
    ids = await rig.trigger(10)
    await rig.run()
    rig.now = rig.now.replace(hour=20)
    late = [rig.approvals.decide(id_, "ciso", "granted", request_id=f"r-{id_}") for id_ in ids]
    outcomes = await asyncio.gather(rig.run(), *late, return_exceptions=True)
    assert [one for one in outcomes if isinstance(one, BaseException) and not isinstance(one, Reject)] == []
    await rig.run()
    states = Counter([await rig.state(id_) for id_ in ids])
    granted = sum(not isinstance(one, BaseException) for one in outcomes[1:])
    assert states == Counter({("completed", None): granted, ("failed", None): 10 - granted})
    assert Counter(row.status for row in await rig.rows(Approval)) == Counter(granted=granted, expired=10 - granted)
    assert len(await rig.rows(Task)) == granted
    assert await rig.rows(JobRow) == []


async def test_what_is_cancelled_while_it_runs_leaves_nothing_more(make: Make) -> None:
    rig = await make(CALL, {"use": "leave"}, CALL, {"use": "leave"}, retry={"attempts": 1})

    async def soon(step: Step) -> None:
        await asyncio.sleep(0.002)

    rig.script.plan("call", *[soon] * 200)
    ids = await rig.trigger(40)
    running = asyncio.create_task(rig.run())
    cancelled = []
    for id_ in ids:
        with suppress(UserError):  # it is completed
            cancelled.append(await rig.executions.cancel(id_))
    await running
    states = Counter([await rig.state(id_) for id_ in ids])
    assert states == Counter({("failed", "cancelled"): len(cancelled), ("completed", None): 40 - len(cancelled)})
    assert await rig.rows(JobRow) == []
    ends = Counter([(await rig.audited(id_))[-1] for id_ in ids])
    assert ends == Counter(execution_cancelled=len(cancelled), execution_completed=40 - len(cancelled))


async def test_a_retry_that_comes_twice_at_once_happens_once(make: Make) -> None:
    rig = await make({"use": "leave", "what": "flaky"}, retry={"attempts": 1})
    rig.script.plan("flaky", RuntimeError("no"))
    [id_] = await rig.trigger()
    await rig.run()
    outcomes = await asyncio.gather(*[rig.executions.retry(id_) for _ in range(4)], return_exceptions=True)
    assert sum(one is None for one in outcomes) == 1
    assert all(one is None or isinstance(one, UserError) for one in outcomes)
    await rig.run()
    assert await rig.state(id_) == ("completed", None)
    assert (await rig.actions(id_))[0].round == 1


async def test_an_action_whose_worker_dies_before_it_could_say_that_it_is_done_is_run_again_with_its_key(
    make: Make,
) -> None:
    rig = await make({"use": "leave"}, CALL, {"use": "leave"})
    done, go = asyncio.Event(), asyncio.Event()

    async def effect_then_death(step: Step) -> dict[str, str]:
        done.set()
        await go.wait()
        return {"by": "the first"}

    rig.script.plan("call", effect_then_death, {"by": "the second"})
    [id_] = await rig.trigger()
    first = asyncio.create_task(rig.executor.run(QUEUE, await rig.due()))
    await done.wait()
    async with rig.database.write() as connection:  # as the sweeper does with the jobs of a worker that is gone
        lost = {"state": "queued", "owner": None, "claimed_until": None, "lost": 1}
        await connection.execute(update(JobRow).values(**lost))
    second = rig.worker("second")
    await second.run(QUEUE, await rig.due())
    assert await rig.state(id_) == ("completed", None)
    go.set()
    await first  # it finds that the job is not its own any more
    [_, called, _] = await rig.actions(id_)
    assert (called.status, called.result, called.attempts) == ("completed", {"by": "the second"}, 2)
    assert [step.key for what, step in rig.script.tries if what == "call"] == [f"{id_}/1"] * 2
    assert len(await rig.rows(Notification)) == 2
    assert (await rig.audited(id_)).count("execution_completed") == 1


async def test_two_workers_that_are_told_of_the_same_jobs_run_each_once(make: Make) -> None:
    rig = await make({"use": "leave", "what": "one"}, CALL, {"use": "leave", "what": "two"})
    ids = await rig.trigger(60)
    due = await rig.due()
    workers = [rig.worker(f"w-{number}") for number in range(4)]
    await asyncio.gather(*[worker.run(QUEUE, due) for worker in workers])
    assert {await rig.state(id_) for id_ in ids} == {("completed", None)}
    assert rig.script.tried("call") == 60
    assert Counter(row.message for row in await rig.rows(Notification)) == {"one": 60, "two": 60}


@pytest.mark.parametrize(
    "bad",
    [{"message": "a\0b"}, {"status": None}, {"subject": {"no": "text"}}, {"key": "\ud800"}, {"key": LONG}],
    ids=["NUL", "null", "type", "surrogate", "too long for its index"],
)
async def test_what_postgresql_refuses_fails_only_the_execution_that_left_it(make: Make, bad: dict[str, Any]) -> None:
    rig = await make({"use": "leave", "what": "one"}, {"use": "leave", "what": "two"})
    ids = await rig.trigger(12)

    def odd(step: Step) -> None:
        if step.execution_id == ids[5]:
            step.rows[:] = [note(step, "odd", **bad)]

    rig.script.plan("two", *[odd] * 60)
    await rig.run()
    states = [await rig.state(id_) for id_ in ids]
    assert states.count(("completed", None)) == 11
    assert states[5] == ("failed", None)
    assert [row.status for row in await rig.actions(ids[5])] == ["completed", "failed"]
    assert len(await rig.rows(Notification)) == 11 * 2 + 1


async def test_what_operators_and_people_ask_for_and_change_is_the_same_on_postgresql(make: Make) -> None:
    """Notices, tasks that two end at once, phases of executions that were given back, and another definition."""
    rig = await make(AFTER, {"use": "leave", "what": "broken"}, {"use": "approval", "approvers": "ciso", "notify": {}})
    rig.script.plan("broken", Reject("no"))
    [id_] = await rig.trigger()
    await rig.run()
    rig.define([AFTER, {"use": "approval", "approvers": "cto", "notify": {"message": "{{ approval.id }}"}}])
    assert await rig.executions.ids(status="failed", since=rig.now) == [id_]
    await rig.executions.retry(id_, definitions={STAGE: rig.definitions})
    async with rig.database.write() as connection:
        await connection.execute(update(WorkflowExecution).values(phase="running"))  # as a worker that died left it
    assert [one.phase for one in await rig.executions.list(phase="queued")] == ["queued"]
    assert (await rig.executions.show(id_)).execution.phase == "queued"
    await rig.run()

    notifications = Notifications(rig.database, rig.clock, pipeline=PIPELINE)
    [told] = await notifications.list(recipient="cto", status="unread")
    assert told.message == f"{id_}/1/0/1"
    assert told.id is not None
    tasks = Tasks(rig.database, rig.clock, pipeline=PIPELINE)
    [task] = await tasks.list(entity="policy")
    assert task.id is not None
    assert sorted(await asyncio.gather(*(tasks.done(task.id) for _ in range(3)))) == [False, False, True]
    assert await notifications.read(told.id)
    await rig.approvals.decide(id_, "cto", "granted", request_id="r-1")
    await rig.run()
    assert await rig.state(id_) == ("completed", None)
    listing = await list_jobs(rig.database, PIPELINE, rig.now)
    assert listing.total == 0
    assert (await list_failed_runs(rig.database, PIPELINE)).total == 1
