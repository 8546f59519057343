"""What the handler leaves of each event: the entity's record, executions, jobs, audit rows; and what it refuses."""

from __future__ import annotations

import sys
import types
import uuid
from datetime import UTC, datetime
from typing import Any

import pytest

from pipeline import Event, Reject, Retry
from pipeline.jobs.contract import INLINE, NewJob
from pipeline_handlers.audit.tables import AuditLog
from pipeline_handlers.governance.events import read_change
from pipeline_handlers.governance.handler import GovernanceHandler
from pipeline_handlers.governance.tables import Entity, WorkflowDefinition, WorkflowExecution
from tests.handlers.governance.kit import (
    NOTE,
    an_event,
    deliver,
    entity_event,
    governing,
    handled,
    options,
    rows_of,
    status_event,
    workflow,
)
from tests.handlers.harness import WHEN


async def test_an_event_that_triggers_nothing_leaves_the_record_of_its_entity() -> None:
    event = entity_event("created", new={"status": "draft", "title": "Access"})
    [delivery] = await handled(event, workflows=[workflow(entity="evidence")])
    [row] = delivery.context.rows
    assert row.table is Entity
    values = dict(row.values)
    assert values.pop("created_at") == values.pop("updated_at")
    assert values == {
        "entity_type": "policy",
        "entity_id": "p-1",
        "version": 1,
        "status": "draft",
        "data": {"status": "draft", "title": "Access"},
        "deleted_at": None,
        "event_id": "e-1",
        "changed_at": WHEN,
        "status_event": "e-1",
        "status_at": WHEN,
    }
    assert delivery.context.jobs == []


async def test_a_deletion_leaves_a_tombstone() -> None:
    [delivery] = await handled(entity_event("deleted"), workflows=[])
    [row] = rows_of(delivery, Entity)
    assert row["deleted_at"] == row["updated_at"]


async def test_a_triggered_workflow_is_an_execution_with_all_that_it_needs() -> None:
    event = entity_event("created", new={"risk": "high"}, causation=[])
    [delivery] = await handled(event, workflows=[workflow(actions=[NOTE, NOTE])])
    [row] = rows_of(delivery, WorkflowExecution)
    execution = row["id"]
    assert execution == str(uuid.uuid5(uuid.UUID(delivery.context.request_id), "review"))
    assert row.pop("created_at").tzinfo is UTC
    del row["updated_at"]
    assert row == {
        "id": execution,
        "workflow": "review",
        "definition_id": row["definition_id"],
        "entity_type": "policy",
        "entity_id": "p-1",
        "actor_id": "ann",
        "trigger": "on_create",
        "stage": "governance",
        "queue": "governance:policy",
        "status": "in_progress",
        "phase": "queued",
        "position": 0,
        "actions": 2,
        "event_id": "e-1",
        "event": {
            "id": "e-1",
            "routing_key": "governance.policy.created",
            "data": event.data,
            "headers": {"trace": "t"},
            "time": event.time.isoformat(),
            "source": "governance",
            "stream": "stream.gov",
            "route": "route",
        },
        "event_time": WHEN,
        "event_offset": 7,
        "causation": [{"workflow": "review", "entity": "policy/p-1", "execution_id": execution}],
    }
    assert delivery.context.jobs == [
        NewJob(f"execute:{execution}", "governance:policy", {"kind": "execute"}, stage="governance")
    ]


async def test_each_execution_leaves_the_definition_that_it_started_with() -> None:
    [delivery] = await handled(entity_event("created"), workflows=[workflow()])
    [definition] = rows_of(delivery, WorkflowDefinition)
    [execution] = rows_of(delivery, WorkflowExecution)
    assert definition["id"] == execution["definition_id"] == f"review@{definition['version']}"
    assert definition["body"]["actions"] == [NOTE]
    assert {row.insert for row in delivery.context.rows if row.table in (WorkflowDefinition, WorkflowExecution)} == {
        "ignore"
    }


async def test_an_execution_that_is_queued_is_audited() -> None:
    [delivery] = await handled(entity_event("created"), workflows=[workflow()])
    [row] = rows_of(delivery, AuditLog)
    [execution] = rows_of(delivery, WorkflowExecution)
    assert isinstance(row.pop("occurred_at"), datetime)
    assert isinstance(row.pop("created_at"), datetime)
    assert row == {
        "action": "execution_queued",
        "entity_type": "policy",
        "entity_id": "p-1",
        "user_id": "ann",
        "details": {
            "execution_id": execution["id"],
            "workflow": "review",
            "definition_id": execution["definition_id"],
            "trigger": "on_create",
            "queue": "governance:policy",
        },
        "event_id": "e-1",
        "routing_key": "governance.policy.created",
        "source": "governance",
        "route": "route",
    }


async def test_the_same_event_makes_the_same_execution_whenever_it_comes() -> None:
    first, again = await handled(entity_event("created"), entity_event("created"), workflows=[workflow()])
    [one], [two] = rows_of(first, WorkflowExecution), rows_of(again, WorkflowExecution)
    assert one["id"] == two["id"]
    [other] = await handled(entity_event("created", id="e-2"), workflows=[workflow()])
    assert rows_of(other, WorkflowExecution)[0]["id"] != one["id"]


async def test_several_workflows_are_an_execution_each() -> None:
    [delivery] = await handled(
        entity_event("created"), workflows=[workflow(), workflow(name="second"), workflow(name="third", when="false")]
    )
    rows = rows_of(delivery, WorkflowExecution)
    assert [row["workflow"] for row in rows] == ["review", "second"]
    assert [job.id for job in delivery.context.jobs] == [f"execute:{row['id']}" for row in rows]
    assert len({row["id"] for row in rows}) == 2


async def test_a_workflow_without_a_queue_goes_to_the_runners_own() -> None:
    [delivery] = await handled(entity_event("created"), workflows=[workflow(use_queue=False)])
    assert [job.queue for job in delivery.context.jobs] == [INLINE]
    assert rows_of(delivery, WorkflowExecution)[0]["queue"] == INLINE


async def test_a_caller_may_leave_the_queue_out() -> None:
    delivery = deliver(entity_event("created"))
    async with governing(workflow(cancel_on="deleted")) as handler:
        for event in (delivery.event, entity_event("deleted")):
            change = read_change(event)
            handler._triggers.leave(event, change, delivery.context, datetime.now(UTC), use_queue=False)
    assert [job.queue for job in delivery.context.jobs] == [INLINE, INLINE]


async def test_a_chain_of_causes_grows_by_the_execution() -> None:
    cause = {"workflow": "earlier", "entity": "policy/p-1", "execution_id": "x-1"}
    [delivery] = await handled(entity_event("created", causation=[cause]), workflows=[workflow()])
    [execution] = rows_of(delivery, WorkflowExecution)
    assert execution["causation"] == [
        cause, {"workflow": "review", "entity": "policy/p-1", "execution_id": execution["id"]},
    ]  # fmt: skip


async def test_a_workflow_that_caused_the_event_is_held_back_and_that_is_audited() -> None:
    cause = {"workflow": "review", "entity": "policy/p-1", "execution_id": "x-1"}
    [delivery] = await handled(
        entity_event("created", causation=[cause]), workflows=[workflow(), workflow(name="other")]
    )
    assert [row["workflow"] for row in rows_of(delivery, WorkflowExecution)] == ["other"]
    [row] = [row for row in rows_of(delivery, AuditLog) if row["action"] == "execution_held_back"]
    assert row["details"] == {
        "workflow": "review",
        "reason": "it is among its own causes for policy/p-1",
        "causation": [cause],
    }


async def test_a_status_of_cancel_on_leaves_a_job_that_ends_what_is_under_way() -> None:
    [delivery] = await handled(status_event("in_review", "revoked"), workflows=[workflow(cancel_on="revoked")])
    [job] = delivery.context.jobs
    assert (job.id, job.queue, job.stage) == (
        f"cancel:{delivery.context.request_id}:review", "governance:policy", "governance",
    )  # fmt: skip
    assert job.payload == {
        "kind": "cancel",
        "workflow": "review",
        "entity_type": "policy",
        "entity_id": "p-1",
        "status": "revoked",
        "reason": "policy/p-1 became revoked",
        "actor_id": "ann",
        "event_id": "e-1",
        "caused_by": None,
        "time": WHEN,
        "stream": "stream.gov",
        "offset": 7,
    }


@pytest.mark.parametrize(
    ("event", "cancels"),
    [
        (entity_event("updated", old=None, new={"status": "revoked"}), True),
        (status_event("draft", "revoked", change="updated"), True),
        (status_event("revoked", "revoked", change="updated"), False),
        (entity_event("updated", new={"title": "x"}), False),
        (entity_event("created", new={"status": "revoked"}), False),
    ],
)
@pytest.mark.parametrize("updates_change_status", [True, False])
async def test_the_new_status_alone_cancels_whatever_kind_of_event_tells_it(
    event: Event, cancels: bool, updates_change_status: bool
) -> None:
    workflows = [workflow(trigger="on_status_change", to="never", cancel_on="revoked")]
    [delivery] = await handled(event, workflows=workflows, updates_change_status=updates_change_status)
    assert [job.payload["kind"] for job in delivery.context.jobs] == ["cancel"] * cancels


async def refused(event: Event, *workflows: dict[str, Any], **keys: Any) -> Reject:
    delivery = deliver(event)
    async with governing(*workflows, **keys) as handler:
        [error] = await handler.handle_batch([delivery])
    assert delivery.context.rows == []
    assert isinstance(error, Reject)
    return error


async def test_an_entity_that_nothing_names_is_refused_with_what_to_do() -> None:
    error = await refused(entity_event("created", entity="polcy"))
    assert error.kind == "unknown_entity"
    assert str(error) == (
        "nothing is known of the entity 'polcy'; did you mean 'policy'? (a workflow that names it, or 'entities' of "
        "the stage, makes it known)"
    )


@pytest.mark.parametrize("keys", [{"entities": ["vendor"]}, {"entities": ["*"]}])
async def test_any_entity_is_governed_by_configuration_alone(keys: dict[str, Any]) -> None:
    [delivery] = await handled(entity_event("created", entity="vendor"), workflows=[], **keys)
    assert rows_of(delivery, Entity)[0]["entity_type"] == "vendor"


async def test_an_event_that_is_refused_leaves_the_others_of_its_batch_alone() -> None:
    good, bad = deliver(entity_event("created")), deliver(an_event("governance.policy.created", {}, id="e-2"))
    async with governing(workflow()) as handler:
        errors = await handler.handle_batch([bad, good])
    assert isinstance(errors[0], Reject)
    assert errors[1] is None
    assert bad.context.rows == []
    assert len(rows_of(good, WorkflowExecution)) == 1


def test_the_queues_of_a_stage_are_those_of_its_workflows() -> None:
    found = options(workflow(), workflow(name="b", entity="evidence"), workflow(name="c"))
    assert GovernanceHandler.queues(found) == ("governance:policy", "governance:evidence")
    assert GovernanceHandler.queues(options()) == ()


class FakeApprovals:
    """Stands in for what decides; `answers` are raised by execution."""

    calls: list[dict[str, Any]]
    answers: dict[str, Exception]

    def __init__(self, *_: Any, **__: Any) -> None: ...

    async def decide(self, **values: Any) -> None:
        self.calls.append(values)
        if error := self.answers.get(values["execution_id"]):
            raise error


@pytest.fixture
def approvals(monkeypatch: pytest.MonkeyPatch) -> type[FakeApprovals]:
    module = types.ModuleType("pipeline_handlers.governance.approvals")

    fresh: type[FakeApprovals] = type("Fresh", (FakeApprovals,), {"calls": [], "answers": {}})
    module.Approvals = fresh  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, module.__name__, module)
    return fresh


def decision(execution: str, *, verdict: str = "granted", id: str = "d-1", **more: Any) -> Event:  # noqa: A002
    return an_event(f"governance.approval.{verdict}", {"execution_id": execution, "approver": "ciso", **more}, id=id)


class AnyDatabase:
    dialect = "sqlite"

    def write(self) -> Any:
        raise NotImplementedError


async def decided(*events: Event) -> list[BaseException | None]:
    async with governing() as handler:
        handler._database = AnyDatabase()  # type: ignore[assignment]
        return list(await handler.handle_batch([deliver(event) for event in events]))


async def test_a_decision_is_handed_to_the_approvals(approvals: type[FakeApprovals]) -> None:
    assert await decided(decision("x-1", verdict="rejected", comment="no", approval_id="a")) == [None]
    assert approvals.calls == [
        {
            "execution_id": "x-1",
            "approver": "ciso",
            "decision": "rejected",
            "comment": "no",
            "request_id": "d-1",
            "approval_id": "a",
        }
    ]


async def test_a_decision_that_can_not_be_applied_ends_its_own_event_only(approvals: type[FakeApprovals]) -> None:
    approvals.answers = {"x-1": Reject("no", kind="not_entitled"), "x-2": Retry("not yet"), "x-3": ValueError("bug")}
    events = [decision(f"x-{number}", id=f"d-{number}") for number in range(5)]
    found = await decided(*events, decision("x-1", verdict="granted").with_model(None))
    assert [type(error) for error in found] == [type(None), Reject, Retry, ValueError, type(None), Reject]


async def test_decisions_on_one_execution_are_applied_in_their_order(approvals: type[FakeApprovals]) -> None:
    events = [decision(f"x-{number % 3}", id=f"d-{number}") for number in range(9)]
    assert await decided(*events) == [None] * 9
    for execution in ("x-0", "x-1", "x-2"):
        ids = [call["request_id"] for call in approvals.calls if call["execution_id"] == execution]
        assert ids == sorted(ids)


async def test_actions_are_stopped_with_the_handler() -> None:
    from tests.handlers.governance.kit import NoteAction

    before = NoteAction.stopped
    async with governing(workflow(actions=[NOTE, NOTE])):
        pass
    assert NoteAction.stopped == before + 2
