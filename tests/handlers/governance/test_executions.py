"""Executions, looked at and steered: list, show, retry, cancel, resume."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from pipeline import Reject, Retry
from pipeline.errors import UserError
from pipeline.jobs import outbox
from pipeline.jobs.contract import NewJob
from pipeline.ledger.job_tables import JobRow, JobRun
from pipeline_handlers.audit.tables import AuditLog
from pipeline_handlers.governance.contract import Step
from pipeline_handlers.governance.tables import Approval, Notification
from tests.handlers.governance.engine_rig import PIPELINE, QUEUE, Rig, rig_on
from tests.handlers.governance.kit import STAGE
from tests.handlers.harness import WHEN

Make = Callable[..., Awaitable[Rig]]
ASK = {"use": "ask", "what": "ask"}
LEAVE = {"use": "leave", "what": "leave"}
CALL = {"use": "call", "what": "call"}
APPROVE = {"use": "approval", "approvers": ["ciso"], "timeout": "7d"}


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    async with AsyncExitStack() as stack:

        async def rig(*actions: dict[str, Any]) -> Rig:
            return await stack.enter_async_context(rig_on(f"sqlite:///{tmp_path}/test.db", actions))

        yield rig


async def test_executions_are_listed_newest_first_and_chosen_by_what_they_are(make: Make) -> None:
    rig = await make(LEAVE)
    first = await rig.trigger(2)
    await rig.run()
    rig.now = rig.now.replace(hour=13)
    [last] = await rig.trigger(1)
    listed = await rig.executions.list()
    assert listed[0].id == last
    assert {row.id for row in await rig.executions.list(status="completed")} == set(first)
    assert [row.id for row in await rig.executions.list(phase="queued")] == [last]
    assert len(await rig.executions.list(1)) == 1
    assert [row.entity_id for row in await rig.executions.list(entity="policy", entity_id="p-2")] == ["p-2"]
    assert await rig.executions.list(workflow="other") == []
    assert await rig.executions.count(status="completed") == 2
    with pytest.raises(UserError, match="status is 'done'"):
        await rig.executions.list(status="done")
    with pytest.raises(UserError, match="'stage'"):
        await rig.executions.list(stage="x")


async def test_show_tells_all_there_is_about_an_execution_in_json(make: Make) -> None:
    assign = {"use": "assign", "role": "owner", "to": "eve"}
    rig = await make(LEAVE, {"use": "create_task", "title": "t"}, assign, APPROVE)
    [id_, other] = await rig.trigger(2)
    await rig.run()
    await rig.approvals.decide(other, "ciso", "granted", request_id="r-1")
    shown = (await rig.executions.show(id_)).as_json()
    json.dumps(shown)
    assert (shown["id"], shown["status"], shown["phase"]) == (id_, "in_progress", "waiting")
    assert [step["action"] for step in shown["actions"]] == ["leave", "create_task", "assign", "approval"]
    assert [len(shown[name]) for name in ("tasks", "notifications", "assignments", "approvals", "runs")] == [1] * 5
    assert shown["decisions"] == []
    assert [job["id"] for job in shown["jobs"]] == [f"timeout:{id_}/3/0:0"]
    assert shown["definition"]["name"] == "review"
    assert {row["details"]["execution_id"] for row in shown["audit"]} == {id_}
    assert len((await rig.executions.show(other)).decisions) == 1
    with pytest.raises(UserError, match="'pipeline executions list'"):
        await rig.executions.show("nobody")


async def test_only_what_failed_can_be_retried(make: Make) -> None:
    rig = await make(LEAVE)
    [id_] = await rig.trigger()
    with pytest.raises(UserError, match=r"in progress \(queued\)"):
        await rig.executions.retry(id_)
    await rig.run()
    with pytest.raises(UserError, match="is completed"):
        await rig.executions.retry(id_)
    with pytest.raises(UserError, match="no execution"):
        await rig.executions.retry("nobody")


async def test_an_execution_that_waits_is_cancelled_with_its_action_approval_and_timer(make: Make) -> None:
    rig = await make(APPROVE, LEAVE)
    [id_] = await rig.trigger()
    await rig.run()
    assert await rig.executions.cancel(id_, actor="ann", reason="a mistake") is True
    assert await rig.state(id_) == ("failed", "cancelled")
    assert (await rig.execution(id_)).error == "cancelled: a mistake"
    assert [row.status for row in await rig.rows(Approval)] == ["cancelled"]
    assert [row.status for row in await rig.actions(id_)] == ["cancelled"]
    assert await rig.rows(JobRow) == []
    assert (await rig.audited(id_))[-3:] == ["action_cancelled", "approval_cancelled", "execution_cancelled"]
    last = (await rig.rows(AuditLog))[-1]
    assert (last.user_id, last.details["reason"]) == ("ann", "a mistake")
    assert await rig.executions.cancel(id_) is False
    with pytest.raises(UserError, match="which is final"):
        await rig.executions.retry(id_)
    with pytest.raises(Reject) as refused:
        await rig.approvals.decide(id_, "ciso", "granted", request_id="r-1")
    assert refused.value.kind == "approval_closed"


async def test_what_has_ended_cannot_be_cancelled(make: Make) -> None:
    rig = await make(LEAVE)
    [id_] = await rig.trigger()
    await rig.run()
    with pytest.raises(UserError, match="is completed: there is nothing to cancel"):
        await rig.executions.cancel(id_)


async def test_nothing_is_written_for_an_execution_that_was_cancelled_while_its_action_ran(make: Make) -> None:
    rig = await make(CALL, LEAVE)
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow(step: Step) -> None:
        begun.set()
        await go.wait()

    rig.script.plan("call", slow)
    [id_] = await rig.trigger()
    running = asyncio.create_task(rig.run())
    await begun.wait()
    await rig.executions.cancel(id_)
    go.set()
    await running
    assert await rig.state(id_) == ("failed", "cancelled")
    assert [row.status for row in await rig.actions(id_)] == ["cancelled"]
    assert await rig.rows(Notification) == []
    assert await rig.rows(JobRun) == []


async def test_a_cancel_job_ends_what_earlier_events_have_under_way_for_the_entity(make: Make) -> None:
    rig = await make(APPROVE)
    [first] = await rig.trigger(entity_id="p-0")
    [second] = await rig.trigger(entity_id="p-0")
    [other] = await rig.trigger(entity_id="p-1")
    [later] = await rig.trigger(entity_id="p-0")
    await rig.run()
    job = NewJob("cancel:x", QUEUE, {
        "kind": "cancel", "workflow": "review", "entity_type": "policy", "entity_id": "p-0", "time": WHEN, "offset": 3,
        "stream": "stream.gov", "actor_id": "ann", "reason": "policy/p-0 became revoked",
    }, stage=STAGE)  # fmt: skip
    async with rig.database.write() as connection:
        await outbox.enqueue(connection, rig.database.dialect, [job], rig.now, pipeline=PIPELINE)
    await rig.run()
    states = [(await rig.state(id_))[1] for id_ in (first, second, other, later)]
    assert states == ["cancelled", "cancelled", "waiting", "waiting"]
    assert (await rig.execution(first)).error == "cancelled: policy/p-0 became revoked"
    assert sorted(job.id for job in await rig.rows(JobRow)) == sorted(f"timeout:{id_}/0/0:0" for id_ in (other, later))


async def test_a_job_of_an_unknown_kind_fails_and_says_so(make: Make) -> None:
    rig = await make(LEAVE)
    async with rig.database.write() as connection:
        kinds = {"odd": "dance", "cancel:y": "cancel", "timeout:z": "timeout", "execute:gone": "execute"}
        jobs = [NewJob(id_, QUEUE, {"kind": kind}, stage=STAGE) for id_, kind in kinds.items()]
        await outbox.enqueue(connection, rig.database.dialect, jobs, rig.now, pipeline=PIPELINE)
    await rig.run()
    assert await rig.rows(JobRow) == []
    errors = {run.job_id: run.error or "" for run in await rig.rows(JobRun)}
    assert "'dance'" in errors["odd"]
    assert "what to cancel" in errors["cancel:y"]
    assert "which approval" in errors["timeout:z"]
    assert "not there" in errors["execute:gone"]


async def test_an_action_that_waits_is_resumed_once_with_its_result(make: Make) -> None:
    rig = await make(ASK, LEAVE)
    [id_] = await rig.trigger()
    await rig.run()
    assert await rig.state(id_) == ("in_progress", "waiting")
    assert await rig.executions.resume(id_, 0, {"answer": 42}, actor="oracle") is True
    assert await rig.executions.resume(id_, 0, {"answer": 43}) is False
    await rig.run()
    assert await rig.state(id_) == ("completed", None)
    assert [row.result for row in await rig.actions(id_)] == [{"answer": 42}, None]


async def test_only_what_waits_can_be_resumed_and_an_approval_never(make: Make) -> None:
    rig = await make(CALL, APPROVE)
    begun, go = asyncio.Event(), asyncio.Event()

    async def slow(step: Step) -> None:
        begun.set()
        await go.wait()

    rig.script.plan("call", slow)
    [id_] = await rig.trigger()
    with pytest.raises(UserError, match="was not begun"):
        await rig.executions.resume(id_, 0)
    running = asyncio.create_task(rig.run())
    await begun.wait()
    with pytest.raises(Retry):
        await rig.executions.resume(id_, 0)
    go.set()
    await running
    with pytest.raises(UserError, match="waits for an approval"):
        await rig.executions.resume(id_, 1)
    with pytest.raises(UserError, match="no execution"):
        await rig.executions.resume("nobody", 0)


async def failed_at_its_second_action(rig: Rig) -> str:
    rig.script.plan("leave-2", Reject("no"))
    [id_] = await rig.trigger()
    await rig.run()
    assert (await rig.execution(id_)).status == "failed"
    return id_


async def test_a_failed_execution_goes_on_with_the_current_definition(make: Make) -> None:
    rig = await make(LEAVE, {"use": "leave", "what": "leave-2"}, CALL)
    id_ = await failed_at_its_second_action(rig)
    rig.define([LEAVE, {"use": "leave", "what": "mended"}])
    await rig.executions.retry(id_, actor="ann", definitions={STAGE: rig.definitions})
    await rig.run()
    execution = await rig.execution(id_)
    assert (execution.status, execution.position, execution.actions) == ("completed", 2, 2)
    assert execution.definition_id == rig.definitions.current[0].id
    assert [rig.script.tried(what) for what in ("leave", "leave-2", "mended", "it")] == [1, 1, 1, 0]
    assert (await rig.executions.show(id_)).definition == rig.definitions.current[0].body


async def test_with_the_definition_that_it_has_it_is_simply_retried(make: Make) -> None:
    rig = await make(LEAVE, {"use": "leave", "what": "leave-2"})
    id_ = await failed_at_its_second_action(rig)
    await rig.executions.retry(id_, definitions={STAGE: rig.definitions})
    await rig.run()
    assert await rig.state(id_) == ("completed", None)


async def test_what_is_done_must_be_the_same_in_the_current_definition(make: Make) -> None:
    rig = await make(LEAVE, {"use": "leave", "what": "leave-2"})
    id_ = await failed_at_its_second_action(rig)
    started_with = (await rig.execution(id_)).definition_id

    async def refused() -> str:
        with pytest.raises(UserError, match="can't go on with the current definition of 'review'") as caught:
            await rig.executions.retry(id_, definitions={STAGE: rig.definitions})
        return str(caught.value)

    rig.define([CALL, {"use": "leave", "what": "mended"}])
    told = await refused()
    assert f"its action 0 (leave), which is done, is another one in {rig.definitions.current[0].id}" in told
    rig.define([LEAVE, LEAVE], entity="evidence")
    assert "it is about evidence, not policy" in await refused()
    rig.define([LEAVE, LEAVE], name="other")
    assert "the stage 'governance' of this file has no such workflow" in await refused()
    execution = await rig.execution(id_)
    assert (execution.status, execution.definition_id) == ("failed", started_with)
