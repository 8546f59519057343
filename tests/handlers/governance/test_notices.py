"""Notices of approvals: those who are asked are told, by rows or by calls, once for each approval that opens."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from pipeline import Reject, Unavailable
from pipeline.ledger.job_tables import JobRow
from pipeline_handlers.governance.actions.notify import NotifyAction
from pipeline_handlers.governance.contract import Step
from pipeline_handlers.governance.tables import Notification
from tests.handlers.governance.engine_rig import Rig, rig_on

Make = Callable[..., Awaitable[Rig]]


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    async with AsyncExitStack() as stack:

        async def rig(**approval: Any) -> Rig:
            actions = [{"use": "approval", **approval}]
            return await stack.enter_async_context(rig_on(f"sqlite:///{tmp_path}/test.db", actions))

        yield rig


async def told(rig: Rig) -> list[tuple[str, str]]:
    return [(row.recipient, row.message) for row in await rig.rows(Notification)]


async def test_those_who_are_asked_find_it_in_the_app(make: Make) -> None:
    rig = await make(approvers=["ciso", "cto"], notify={})
    [id_] = await rig.trigger()
    await rig.run()
    message = f"policy p-1 waits for your approval: workflow review, approval {id_}/0/0"
    assert await told(rig) == [("ciso", message), ("cto", message)]
    assert {row.execution_id for row in await rig.rows(Notification)} == {id_}
    assert await rig.rows(JobRow) == []
    assert await rig.state(id_) == ("in_progress", "waiting")


async def test_each_step_tells_its_own_people_when_it_opens(make: Make) -> None:
    notify = {"to": "{{ approval.approvers[0] }}-deputy", "message": "step {{ string(approval.step) }}"}
    rig = await make(steps=[{"approvers": "lead"}, {"approvers": "ciso", "notify": notify}])
    [id_] = await rig.trigger()
    await rig.run()
    assert await told(rig) == []
    await rig.approvals.decide(id_, "lead", "granted", request_id="r-1")
    await rig.run()
    assert await told(rig) == [("ciso-deputy", "step 1")]


async def test_those_it_is_passed_on_to_are_told_too(make: Make) -> None:
    rig = await make(
        approvers="ciso", timeout="1d", on_timeout="escalate", escalate_to="ceo", notify={"message": "please"}
    )
    await rig.trigger()
    await rig.run()
    await rig.until_next_job()
    assert await told(rig) == [("ciso", "please"), ("ceo", "please")]


async def test_what_was_decided_before_it_could_be_told_is_not_told(make: Make) -> None:
    rig = await make(approvers="ciso", notify={})
    [id_] = await rig.trigger()
    await rig.executor.run("governance:policy", await rig.due())
    assert await rig.due() == [f"notice:{id_}/0/0:0"]
    await rig.approvals.decide(id_, "ciso", "granted", request_id="r-1")
    await rig.run()
    assert await told(rig) == []
    assert await rig.state(id_) == ("completed", None)


async def test_a_notice_is_tried_again_with_the_same_key_and_its_execution_waits_on(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = await make(approvers="ciso", notify={"message": "please"})
    run, keys, failures = NotifyAction.run, [], [Unavailable("smtp", "away"), RuntimeError("no")]

    async def fails_first(action: NotifyAction, step: Step) -> Any:
        keys.append(step.key)
        if failures:
            raise failures.pop(0)
        return await run(action, step)

    monkeypatch.setattr(NotifyAction, "run", fails_first)
    [id_] = await rig.trigger()
    await rig.run()
    assert [await rig.until_next_job() for _ in range(2)] == [30, 2]
    assert keys == [f"{id_}/0/0:0"] * 3
    assert await told(rig) == [("ciso", "please")]


async def test_a_notice_that_can_never_be_sent_is_audited_and_fails_nothing_else(
    make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    rig = await make(approvers="ciso", notify={})

    async def refused(action: NotifyAction, step: Step) -> Any:
        raise Reject("nobody of this address")

    monkeypatch.setattr(NotifyAction, "run", refused)
    [id_] = await rig.trigger()
    await rig.run()
    assert await rig.rows(JobRow) == []
    assert await rig.audited(id_, "approval_notice") == ["approval_notice_failed"]
    assert await rig.state(id_) == ("in_progress", "waiting")


def test_a_notice_needs_what_its_channel_needs(tmp_path: Path) -> None:
    from pipeline_handlers.governance.actions.approval import ApprovalAction, ApprovalOptions
    from tests.handlers.governance.kit import options

    email = {"channel": "email", "to": "ciso@example.org"}
    action = ApprovalAction(ApprovalOptions.model_validate({"approvers": "ciso", "notify": email}))
    assert action.problem(options()) == "there is no mail server: add [stage.governance.smtp]"
