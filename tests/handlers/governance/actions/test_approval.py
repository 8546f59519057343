"""`approval`: the rows and timers of its steps, and the combinations of options that make sense."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from pydantic import ValidationError

from pipeline import Reject
from pipeline_handlers.governance.actions.approval import after_timeout, escalate, open_step
from pipeline_handlers.governance.contract import WAIT
from tests.handlers.governance.actions.books import Books
from tests.handlers.governance.actions.steps import EXECUTION, NOW, action, step, values

WEEK = timedelta(days=7)


async def test_an_approval_opens_its_row_and_its_timer_and_waits(books: Books) -> None:
    made = step()
    assert await action("approval", approvers=["ciso", "cto"], mode="all", timeout="7d").run(made) is WAIT
    [row] = values(made)
    assert row == {
        "id": f"{EXECUTION}/1/0",
        "execution_id": EXECUTION,
        "position": 1,
        "step": 0,
        "workflow": "review",
        "entity_type": "policy",
        "entity_id": "p-1",
        "mode": "all",
        "quorum": 2,
        "approvers": ["ciso", "cto"],
        "status": "open",
        "escalated": 0,
        "due_at": NOW + WEEK,
        "created_at": NOW,
    }
    [job] = made.jobs
    assert (job.id, job.queue, job.stage, job.due_at) == (
        f"timeout:{EXECUTION}/1/0:0", "governance:policy", "governance", NOW + WEEK,
    )  # fmt: skip
    assert job.payload == {"kind": "timeout", "approval_id": f"{EXECUTION}/1/0", "escalated": 0}
    await books.write(made)
    await books.write(made)
    assert await books.rows("SELECT status FROM approvals") == [{"status": "open"}]


async def test_without_a_timeout_there_is_no_timer() -> None:
    made = step()
    await action("approval", approvers="ciso").run(made)
    assert values(made)[0]["due_at"] is None
    assert made.jobs == []


async def test_a_retried_execution_opens_approvals_of_their_own() -> None:
    made = step(round=2)
    await action("approval", approvers="ciso", timeout="1h").run(made)
    assert values(made)[0]["id"] == f"{EXECUTION}/1/0/2"
    assert made.jobs[0].id == f"timeout:{EXECUTION}/1/0/2:0"


@pytest.mark.parametrize(("options", "wanted"), [({}, 1), ({"mode": "all"}, 3), ({"mode": "quorum", "quorum": 2}, 2)])
async def test_how_many_must_grant_it(options: dict[str, Any], wanted: int) -> None:
    made = step()
    await action("approval", approvers=["a", "b", "c"], **options).run(made)
    assert values(made)[0]["quorum"] == wanted


async def test_approvers_come_from_templates_lists_and_the_owner_each_once() -> None:
    made = step(data={"lawyers": ["lee", "kim"]})
    approvers = ["{{ data.new.lawyers.join(',') }}", "owner", " kim ", "{{ entity.data.owner }}, ann"]
    await action("approval", approvers=approvers, mode="all").run(made)
    row = values(made)[0]
    assert (row["approvers"], row["quorum"]) == (["lee", "kim", "bob", "ann"], 4)


async def test_an_approver_that_a_template_does_not_name_is_no_reason_to_ask_fewer() -> None:
    with pytest.raises(Reject, match=r"the approver '\{\{ data.new.lawyer \}\}' names nobody") as refused:
        await action("approval", approvers=["ciso", "{{ data.new.lawyer }}"], mode="all").run(step())
    assert refused.value.kind == "nobody"


async def test_a_quorum_that_the_named_can_not_reach_is_refused() -> None:
    asked = action("approval", approvers=["ann", "{{ data.new.other }}"], mode="quorum", quorum=2)
    with pytest.raises(Reject, match=r"a quorum of 2 can't be reached by 1 approver$"):
        await asked.run(step(data={"other": "ann"}))


async def test_a_later_step_has_its_own_row_and_timer() -> None:
    steps = [{"approvers": "ciso"}, {"approvers": ["cfo", "ceo"], "mode": "all", "timeout": "1d"}]
    options = action("approval", steps=steps).options
    assert len(options.ordered()) == 2
    row, job = open_step(options, 1, step(now=NOW + WEEK))
    assert (row.values["id"], row.values["step"], row.values["approvers"]) == (
        f"{EXECUTION}/1/1", 1, ["cfo", "ceo"],
    )  # fmt: skip
    assert row.values["due_at"] == NOW + timedelta(days=8)
    assert job is not None
    assert (job.id, job.due_at) == (f"timeout:{EXECUTION}/1/1:0", NOW + timedelta(days=8))
    made = step()
    assert await action("approval", steps=steps).run(made) is WAIT
    assert (values(made)[0]["step"], made.jobs) == (0, [])


async def test_a_timeout_passes_it_on_once_and_then_the_default_holds() -> None:
    options = action(
        "approval", approvers="ciso", timeout="2d", on_timeout="escalate", escalate_to=["ceo", "owner"],
        default="approve",
    ).options  # fmt: skip
    assert after_timeout(options, 0, 0) == "escalate"
    passed_on = escalate(options, 0, "the-id", step(now=NOW + WEEK))
    due_at = NOW + timedelta(days=9)
    assert passed_on.values == {
        "approvers": ["ceo", "bob"], "mode": "any", "quorum": 1, "escalated": 1, "due_at": due_at,
    }  # fmt: skip
    assert (passed_on.job.id, passed_on.job.due_at) == ("timeout:the-id:1", due_at)
    assert passed_on.job.payload == {"kind": "timeout", "approval_id": "the-id", "escalated": 1}
    assert after_timeout(options, 0, 1) == "approve"


@pytest.mark.parametrize(("given", "wanted"), [({}, "reject"), ({"on_timeout": "approve"}, "approve")])
def test_a_timeout_rejects_unless_it_is_to_grant(given: dict[str, str], wanted: str) -> None:
    options = action("approval", approvers="ciso", timeout="2d", **given).options
    assert after_timeout(options, 0, 0) == wanted


def test_passing_on_to_nobody_is_refused() -> None:
    options = action(
        "approval", approvers="a", timeout="2d", on_timeout="escalate", escalate_to="{{ data.new.boss }}"
    ).options
    with pytest.raises(Reject, match="names nobody"):
        escalate(options, 0, "the-id", step())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "approvers is missing: name who may decide, or several steps"),
        ({"approvers": []}, "at least 1 item"),
        ({"steps": []}, "it must not be empty"),
        ({"steps": [{}]}, "Field required"),
        ({"approvers": "a", "steps": [{"approvers": "b"}]}, "approvers can't stand beside steps"),
        ({"timeout": "1d", "steps": [{"approvers": "b"}]}, "timeout can't stand beside steps"),
        ({"approvers": "a", "mode": "quorum"}, "needs the key quorum"),
        ({"approvers": "a", "quorum": 1}, "mode = 'quorum' only"),
        ({"approvers": ["a", "b", "a"], "mode": "quorum", "quorum": 3}, "can't be reached by 2 approvers"),
        ({"approvers": "a", "on_timeout": "approve"}, "on_timeout has a meaning with a timeout only"),
        ({"approvers": "a", "timeout": 0}, "greater than 0"),
        ({"approvers": "a", "timeout": "1d", "on_timeout": "escalate"}, "needs the key escalate_to"),
        ({"approvers": "a", "timeout": "1d", "escalate_to": "b"}, "escalate_to has a meaning with on_timeout"),
        ({"approvers": "a", "timeout": "1d", "default": "approve"}, "default has a meaning with on_timeout"),
        ({"steps": [{"approvers": "a", "on_timeout": "approve"}]}, "on_timeout has a meaning with a timeout"),
        ({"approvers": "a", "on_reject": "ignore"}, "'fail'"),
        ({"approvers": "{{ data.x"}, "do not pair"),
    ],
)
def test_combinations_that_make_no_sense_are_told(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        action("approval", **options)
