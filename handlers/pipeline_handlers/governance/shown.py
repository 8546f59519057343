"""Executions and approvals as the commands print them: pages, lines of tables, JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pipeline.commands import iso, say, show_table
from pipeline_handlers.governance.executions import ExecutionDetails
from pipeline_handlers.governance.tables import Approval, ApprovalDecision, WorkflowExecution

if TYPE_CHECKING:
    from pipeline_handlers.governance.requests import Decided

__all__ = [
    "LEAST", "approval_json", "approval_line", "came_to", "execution_json", "execution_line", "print_table",
    "show_details",
]  # fmt: skip

LEAST = ("created_at", "done", "phase", "entity")
"""Columns of a list of executions that a narrow terminal may lack, the least important first."""
_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


def show_details(details: ExecutionDetails) -> None:
    """Print all there is about an execution; lists that are empty are left out."""
    for name, value in _summary(details):
        say(f"{name:<12} {'-' if value in (None, '') else value}")
    _show("actions", ("position", "action", "status", "attempts", "started_at", "ended_at", "result", "error"),
          details.actions)  # fmt: skip
    for action in details.actions:
        for entry in action.history:
            at = iso(datetime.fromisoformat(entry["at"]))
            say(f"  action {action.position}, try {entry['attempt']}, {at}: {entry['error']}")
    _show("approvals", ("id", "mode", "approvers", "status", "due_at", "decided_at"), details.approvals)
    _show("decisions", ("approver", "decision", "comment", "decided_at"), details.decisions)
    _show("tasks", ("title", "assignee", "priority", "status", "due_at"), details.tasks)
    _show("notifications", ("channel", "recipient", "subject", "message", "status"), details.notifications)
    _show("assignments", ("role", "assignee", "created_at", "ended_at"), details.assignments)
    _show("jobs", ("id", "queue", "state", "failures", "due_at", "error"), details.jobs)
    _show("runs", ("run", "state", "started_at", "ended_at", "worker", "error"), details.runs)
    _show_audit(details)


def _show_audit(details: ExecutionDetails) -> None:
    say()
    say("audit", style="bold")
    rows = [(iso(row.occurred_at), row.action, row.user_id or "-", _more(row.details)) for row in details.audit]
    show_table(("occurred_at", "action", "user_id", "details"), rows)


def _more(details: Mapping[str, Any]) -> str:
    """What a row of the audit log says beside the execution, which is the same for all."""
    more = {name: value for name, value in details.items() if name not in ("execution_id", "workflow")}
    return (
        ", ".join(
            f"{name} {value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)}"
            for name, value in more.items()
            if value not in (None, "", [], {})
        )
        or "-"
    )


def _summary(details: ExecutionDetails) -> Iterator[tuple[str, Any]]:
    execution = details.execution
    yield "id", execution.id
    yield "workflow", f"{execution.workflow} ({execution.definition_id})"
    yield "entity", f"{execution.entity_type}/{execution.entity_id}"
    yield "status", execution.status + (f" ({execution.phase})" if execution.phase else "")
    yield "done", f"{execution.position} of {execution.actions} actions"
    yield "error", execution.error
    yield "event", f"{execution.event_id} by {execution.actor_id or '-'}, {execution.trigger}"
    yield "queue", execution.queue
    for name in ("created_at", "started_at", "completed_at"):
        yield name, iso(getattr(execution, name))
    if len(execution.causation) > 1:
        yield "caused by", " > ".join(f"{cause['workflow']} of {cause['entity']}" for cause in execution.causation[:-1])


def _show(title: str, columns: Sequence[str], rows: Sequence[Any]) -> None:
    if not rows:
        return
    say()
    say(title, style="bold")
    show_table(columns, [[_cell(row, name) for name in columns] for row in rows])


def _cell(row: Any, name: str) -> Any:
    value = getattr(row, name)
    if name.endswith("_at"):
        value = iso(value)
    if isinstance(value, list):
        value = ", ".join(map(str, value))
    if isinstance(value, dict):
        value = json.dumps(value, ensure_ascii=False, default=str)
    return "-" if value in (None, "") else value


def print_table(
    columns: Sequence[str], rows: Sequence[dict[str, Any]], *, fold: Sequence[str] = (), drop: Sequence[str] = ()
) -> None:
    """Print these columns of rows; what is empty is a dash. `fold` and `drop` are those of `show_table`."""
    cells = [["-" if row[name] in (None, "") else row[name] for name in columns] for row in rows]
    show_table(columns, cells, fold=fold, drop=drop)


def execution_json(one: WorkflowExecution) -> dict[str, Any]:
    """An execution as the list tells of it, in JSON values."""
    return {
        "id": one.id,
        "workflow": one.workflow,
        "definition_id": one.definition_id,
        "entity_type": one.entity_type,
        "entity_id": one.entity_id,
        "trigger": one.trigger,
        "queue": one.queue,
        "status": one.status,
        "phase": one.phase,
        "position": one.position,
        "action_count": one.actions,
        "actor_id": one.actor_id,
        "event_id": one.event_id,
        "error": one.error,
        "created_at": iso(one.created_at),
        "started_at": iso(one.started_at),
        "completed_at": iso(one.completed_at),
    }


def execution_line(one: WorkflowExecution) -> dict[str, Any]:
    """The same as a line of a table."""
    return execution_json(one) | {
        "entity": f"{one.entity_type}/{one.entity_id}",
        "done": f"{one.position}/{one.actions}",
    }


def approval_json(one: Approval, decisions: Sequence[ApprovalDecision]) -> dict[str, Any]:
    """An approval and its decisions in JSON values."""
    made = [
        {"approver": each.approver, "decision": each.decision, "comment": each.comment, "at": iso(each.decided_at)}
        for each in decisions
    ]
    times = {name: iso(getattr(one, name)) for name in ("due_at", "created_at", "decided_at")}
    return one.model_dump(mode="json") | times | {"decisions": made}


def approval_line(one: Approval, decisions: Sequence[ApprovalDecision]) -> dict[str, Any]:
    """The same as a line of a table."""
    return approval_json(one, decisions) | {
        "entity": f"{one.entity_type}/{one.entity_id}",
        "mode": f"{one.mode} ({one.quorum})" if one.mode == "quorum" else one.mode,
        "approvers": ", ".join(one.approvers),
        "decided": ", ".join(f"{each.approver}: {each.decision}" for each in decisions),
    }


def came_to(
    approval: Approval, decisions: Mapping[str, Sequence[ApprovalDecision]], approver: str, decided: Decided
) -> str:
    """What somebody's decision came to, in a sentence."""
    made = decisions[approval.id]
    mine = next((each.decision for each in made if each.approver == approver), decided.status)
    verb = {"granted": "granted", "rejected": "rejected"}.get(mine, "decided on")
    told = f"approval {approval.id}: {approver} {'had ' if decided.repeated else ''}{verb} it"
    told += " before" if decided.repeated else ""
    if decided.status != "open":
        return f"{told}; the step is {decided.status}"
    granted = sum(each.decision == "granted" and each.approver in approval.approvers for each in made)
    return f"{told}; it has {_number(granted)} of {_number(approval.quorum)} grants"


def _number(count: int) -> str:
    return _NUMBERS[count] if count < len(_NUMBERS) else str(count)
