"""Approvals: who decides what, when it is enough, and what becomes of the execution that waits."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any, Literal

import pytest

from pipeline import Reject, Retry
from pipeline.errors import UserError
from pipeline.ledger.job_tables import JobRow
from pipeline_handlers.governance.deciding import verdict_of
from pipeline_handlers.governance.requests import Decided
from pipeline_handlers.governance.tables import Approval, Task
from tests.handlers.governance.engine_rig import Rig, rig_on

Make = Callable[..., Awaitable[Rig]]
AFTER = {"use": "create_task", "title": "after"}


@pytest.fixture
async def make(tmp_path: Path) -> AsyncIterator[Make]:
    async with AsyncExitStack() as stack:

        async def rig(approval: dict[str, Any], *more: dict[str, Any]) -> Rig:
            actions = [{"use": "approval", **approval}, *(more or (AFTER,))]
            return await stack.enter_async_context(rig_on(f"sqlite:///{tmp_path}/test.db", actions))

        yield rig


requests = itertools.count(1)


async def decide(
    rig: Rig, execution: str, approver: str, decision: Literal["granted", "rejected"] = "granted", **more: Any
) -> Decided:
    return await rig.approvals.decide(
        execution, approver, decision, **{"request_id": f"r-{next(requests)}", **more}
    )  # fmt: skip


async def waiting(rig: Rig) -> str:
    [id_] = await rig.trigger()
    await rig.run()
    assert await rig.state(id_) == ("in_progress", "waiting")
    return id_


async def test_an_execution_waits_for_its_approval_without_a_job_and_goes_on_once_it_is_granted(make: Make) -> None:
    rig = await make({"approvers": ["ciso", "cto"]})
    id_ = await waiting(rig)
    assert await rig.rows(JobRow) == []
    [approval] = await rig.rows(Approval)
    assert (approval.id, approval.status, approval.approvers) == (f"{id_}/0/0", "open", ["ciso", "cto"])

    decided = await decide(rig, id_, "cto", comment="go")
    assert decided == Decided(f"{id_}/0/0", id_, "granted")
    assert await rig.state(id_) == ("in_progress", "queued")
    await rig.run()
    assert await rig.state(id_) == ("completed", None)
    assert [task.title for task in await rig.rows(Task)] == ["after"]
    [action, _] = await rig.actions(id_)
    assert action.result == {"approval_id": f"{id_}/0/0", "granted_by": ["cto"]}
    assert await rig.audited(id_) == [
        "execution_queued", "execution_running", "approval_opened", "action_waiting", "execution_waiting",
        "approval_decision", "approval_granted", "action_completed", "execution_queued", "execution_running",
        "action_completed", "execution_completed",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("approvers", "quorum", "granted", "rejected", "verdict"),
    [
        ("ab", 1, "", "", "open"),
        ("ab", 1, "a", "", "granted"),
        ("ab", 1, "", "a", "open"),
        ("ab", 1, "", "ab", "rejected"),
        ("ab", 2, "a", "", "open"),
        ("ab", 2, "ab", "", "granted"),
        ("ab", 2, "", "b", "rejected"),
        ("abc", 2, "a", "b", "open"),
        ("abc", 2, "", "bc", "rejected"),
        ("abc", 2, "ac", "b", "granted"),
        ("ab", 1, "z", "", "open"),
    ],
)
def test_decisions_suffice_as_soon_as_they_can_amount_to_nothing_else(
    approvers: str, quorum: int, granted: str, rejected: str, verdict: str
) -> None:
    decisions = dict.fromkeys(granted, "granted") | dict.fromkeys(rejected, "rejected")
    assert verdict_of(list(approvers), quorum, decisions) == verdict


async def test_with_all_everybody_must_grant_and_one_rejection_ends_the_execution(make: Make) -> None:
    rig = await make({"approvers": ["ciso", "cto"], "mode": "all"})
    id_ = await waiting(rig)
    assert (await decide(rig, id_, "ciso")).status == "open"
    assert (await decide(rig, id_, "cto", "rejected", comment="too early")).status == "rejected"
    assert await rig.state(id_) == ("failed", None)
    assert (await rig.execution(id_)).error == "rejected by cto: too early"
    assert (await rig.audited(id_))[-4:] == ["approval_decision", "approval_rejected", "action_failed",
                                             "execution_failed"]  # fmt: skip
    await rig.run()
    assert await rig.rows(Task) == []


async def test_a_rejected_approval_is_asked_for_again_by_a_retry(make: Make) -> None:
    rig = await make({"approvers": ["ciso"], "timeout": "1h"})
    id_ = await waiting(rig)
    await decide(rig, id_, "ciso", "rejected")
    await rig.executions.retry(id_)
    await rig.run()
    assert await rig.state(id_) == ("in_progress", "waiting")
    assert [(row.id, row.status) for row in await rig.rows(Approval)] == [
        (f"{id_}/0/0", "rejected"), (f"{id_}/0/0/1", "open"),
    ]  # fmt: skip
    await decide(rig, id_, "ciso")
    await rig.run()
    assert await rig.state(id_) == ("completed", None)


async def test_the_same_decision_again_changes_nothing(make: Make) -> None:
    rig = await make({"approvers": ["ciso", "cto"], "mode": "all"})
    id_ = await waiting(rig)
    await decide(rig, id_, "ciso", request_id="e-9")
    before = await rig.audited(id_)
    assert (await decide(rig, id_, "ciso", request_id="e-9")).repeated
    assert (await decide(rig, id_, "ciso")).repeated
    assert await rig.audited(id_) == before
    await decide(rig, id_, "cto")
    assert (await decide(rig, id_, "cto")).repeated  # the approval is closed, and this is how it came so


async def test_a_repeated_request_decides_no_further_step(make: Make) -> None:
    steps = [{"approvers": ["ciso"]}, {"approvers": ["ciso"]}]
    rig = await make({"steps": steps})
    id_ = await waiting(rig)
    assert (await decide(rig, id_, "ciso", request_id="e-9")).approval_id == f"{id_}/0/0"
    assert (await decide(rig, id_, "ciso", request_id="e-9")) == Decided(f"{id_}/0/0", id_, "granted", repeated=True)
    assert await rig.state(id_) == ("in_progress", "waiting")
    assert (await decide(rig, id_, "ciso", request_id="e-10")).approval_id == f"{id_}/0/1"
    assert await rig.state(id_) == ("in_progress", "queued")


async def test_steps_are_opened_one_after_the_other(make: Make) -> None:
    rig = await make({"steps": [{"approvers": ["lead"]}, {"approvers": ["ciso", "cto"], "mode": "all"}]})
    id_ = await waiting(rig)
    with pytest.raises(Reject) as refused:
        await decide(rig, id_, "cto")
    assert refused.value.kind == "not_entitled"
    await decide(rig, id_, "lead")
    assert [row.status for row in await rig.rows(Approval)] == ["granted", "open"]
    await decide(rig, id_, "cto")
    await decide(rig, id_, "ciso")
    await rig.run()
    assert await rig.state(id_) == ("completed", None)
    assert (await rig.audited(id_, "approval")).count("approval_opened") == 2


async def test_who_is_not_entitled_is_refused_and_audited(make: Make) -> None:
    rig = await make({"approvers": ["ciso"]})
    id_ = await waiting(rig)
    with pytest.raises(Reject, match="'eve' is not entitled") as refused:
        await decide(rig, id_, "eve")
    assert refused.value.kind == "not_entitled"
    with pytest.raises(Reject):
        await decide(rig, id_, "e\0ve")
    assert await rig.audited(id_, "approval_refused") == ["approval_refused"] * 2
    assert await rig.state(id_) == ("in_progress", "waiting")


async def test_what_was_decided_stays(make: Make) -> None:
    rig = await make({"approvers": ["ciso", "cto"], "mode": "all"})
    id_ = await waiting(rig)
    await decide(rig, id_, "ciso")
    with pytest.raises(Reject) as refused:
        await decide(rig, id_, "ciso", "rejected")
    assert refused.value.kind == "already_decided"
    assert await rig.state(id_) == ("in_progress", "waiting")


async def test_a_closed_approval_is_refused(make: Make) -> None:
    rig = await make({"approvers": ["ciso", "cto"]})
    id_ = await waiting(rig)
    await decide(rig, id_, "cto")
    for late in ({}, {"approval_id": f"{id_}/0/0"}):
        with pytest.raises(Reject) as refused:
            await decide(rig, id_, "ciso", **late)
        assert refused.value.kind == "approval_closed"
    assert await rig.audited(id_, "approval_refused") == ["approval_refused"] * 2


async def test_an_unknown_execution_or_approval_is_refused(make: Make) -> None:
    rig = await make({"approvers": ["ciso"]})
    id_ = await waiting(rig)
    with pytest.raises(Reject) as refused:
        await decide(rig, "nobody", "ciso")
    assert refused.value.kind == "unknown_execution"
    with pytest.raises(Reject) as refused:
        await decide(rig, id_, "ciso", approval_id="x")
    assert refused.value.kind == "unknown_approval"


async def test_a_decision_that_comes_before_its_approval_is_to_come_again(make: Make) -> None:
    rig = await make({"approvers": ["ciso"]})
    [id_] = await rig.trigger()
    with pytest.raises(Retry):
        await decide(rig, id_, "ciso")
    await rig.run()
    assert (await decide(rig, id_, "ciso")).status == "granted"


async def test_a_time_out_rejects_by_default(make: Make) -> None:
    rig = await make({"approvers": ["ciso"], "timeout": "7d"})
    id_ = await waiting(rig)
    assert await rig.until_next_job() == 7 * 86400
    assert await rig.state(id_) == ("failed", None)
    assert [row.status for row in await rig.rows(Approval)] == ["expired"]
    assert (await rig.execution(id_)).error == "nobody decided in time"
    assert "approval_expired" in await rig.audited(id_)
    assert await rig.rows(JobRow) == []


async def test_a_time_out_that_fails_for_good_comes_again_as_long_as_its_approval_is_open(
    make: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    rig = await make({"approvers": ["ciso"], "timeout": "1h"})
    id_ = await waiting(rig)

    async def broken(*_: object) -> str:
        raise RuntimeError("no")

    with monkeypatch.context() as breaking:
        breaking.setattr(rig.engine._approvals, "time_out", broken)
        waits = [await rig.until_next_job() for _ in range(rig.queue.retry.attempts)]
    assert waits == [3600, 2, 4, 8, 16, 32]
    assert "its time-out failed, and comes again in 300 s: no" in caplog.text
    assert await rig.state(id_) == ("in_progress", "waiting")
    assert await rig.until_next_job() == 300
    assert await rig.state(id_) == ("failed", None)
    assert await rig.rows(JobRow) == []


async def test_a_time_out_may_approve(make: Make) -> None:
    rig = await make({"approvers": ["ciso"], "timeout": "7d", "on_timeout": "approve"})
    id_ = await waiting(rig)
    await rig.until_next_job()
    assert await rig.state(id_) == ("completed", None)
    assert await rig.audited(id_, "approval") == ["approval_opened", "approval_expired", "approval_granted"]


ESCALATED = {"approvers": ["ciso"], "timeout": "1d", "on_timeout": "escalate", "escalate_to": ["ceo"]}


async def test_a_time_out_may_pass_it_on_to_others(make: Make) -> None:
    rig = await make(ESCALATED)
    id_ = await waiting(rig)
    await rig.until_next_job()
    [approval] = await rig.rows(Approval)
    assert (approval.status, approval.approvers, approval.escalated) == ("open", ["ceo"], 1)
    with pytest.raises(Reject):
        await decide(rig, id_, "ciso")
    await decide(rig, id_, "ceo")
    await rig.run()
    assert await rig.state(id_) == ("completed", None)
    assert await rig.rows(JobRow) == []


@pytest.mark.parametrize(("default", "state"), [("reject", ("failed", None)), ("approve", ("completed", None))])
async def test_when_those_it_was_passed_on_to_let_the_time_pass_too_the_default_counts(
    make: Make, default: str, state: tuple[str, None]
) -> None:
    rig = await make({**ESCALATED, "default": default})
    id_ = await waiting(rig)
    assert [await rig.until_next_job() for _ in range(2)] == [86400, 86400]
    assert await rig.state(id_) == state


async def test_a_grant_takes_the_timer_back_and_a_stale_timer_does_nothing(make: Make) -> None:
    rig = await make({"approvers": ["ciso"], "timeout": "1d"}, {"use": "ask"})
    id_ = await waiting(rig)
    [timer] = await rig.rows(JobRow)
    await decide(rig, id_, "ciso")
    assert [job.id for job in await rig.rows(JobRow)] == [f"execute:{id_}"]
    await rig.run()
    async with rig.database.write() as connection:
        values = timer.model_dump() | {"due_at": rig.now}
        await connection.run_sync(lambda sync: sync.execute(JobRow.__table__.insert(), [values]))  # type: ignore[attr-defined]
    await rig.run()
    assert await rig.state(id_) == ("in_progress", "waiting")
    assert await rig.rows(JobRow) == []


async def test_approvals_are_listed_by_status_and_approver(make: Make) -> None:
    rig = await make({"approvers": ["ciso", "{{ data.entity_id }}"]})
    ids = await rig.trigger(3)
    await rig.run()
    await decide(rig, ids[0], "ciso")
    assert len(await rig.approvals.list()) == 3
    assert {row.execution_id for row in await rig.approvals.list(status="open")} == set(ids[1:])
    assert [row.entity_id for row in await rig.approvals.list(approver="p-2")] == ["p-2"]
    assert len(await rig.approvals.list(2)) == 2
    assert [row.execution_id for row in await rig.approvals.list(execution=ids[1])] == [ids[1]]
    decisions = await rig.approvals.decisions([f"{ids[0]}/0/0", f"{ids[1]}/0/0"])
    assert [len(found) for found in decisions.values()] == [1, 0]
    with pytest.raises(UserError, match="'pending'"):
        await rig.approvals.list(status="pending")
    with pytest.raises(UserError, match="'queue'"):
        await rig.approvals.list(queue="x")


async def test_what_is_no_decision_is_refused_and_locks_nobody_out(make: Make) -> None:
    rig = await make({"approvers": ["ciso", "cto"]})
    [id_] = await rig.trigger()
    await rig.run()
    with pytest.raises(UserError, match="there is no decision 'grant': say granted or rejected"):
        await rig.approvals.decide(id_, "cto", "grant", request_id="r-1")  # type: ignore[arg-type]
    assert (await rig.approvals.decide(id_, "cto", "granted", request_id="r-2")).repeated is False
