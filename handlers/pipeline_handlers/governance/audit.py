"""Audit rows of what becomes of executions, actions and approvals: one for each change of state."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final, Protocol

from pipeline.ledger.units import Row
from pipeline_handlers.audit.tables import AuditLog

if TYPE_CHECKING:
    from pipeline_handlers.governance.records import ExecutionRecord

__all__ = ["Audited", "Trail", "audit_row", "audit_values"]

_NOBODY: Final = object()


class Audited(Protocol):
    """What `audit_row` reads of an execution: a `WorkflowExecution` has it, and so has a row of its columns.

    Attributes:
        id: The execution.
        workflow: The workflow's name.
        entity_type: What kind of entity it is about.
        entity_id: Which one.
        actor_id: Who caused its event.
        event_id: Its event.
        event: Its event as `WorkflowExecution.event` keeps it.
    """

    id: Any
    workflow: Any
    entity_type: Any
    entity_id: Any
    actor_id: Any
    event_id: Any
    event: Any


def audit_row(action: str, execution: Audited, /, *, now: datetime, user_id: Any = _NOBODY, **details: Any) -> Row:
    """The row in ``audit_logs`` that tells of a change of state.

    Args:
        action: What happened: ``execution_queued``, ``action_failed``, ``approval_granted``, …
        execution: What it happened to.
        now: When it happened (aware, UTC).
        user_id: Who did it; by default whoever caused the execution's event, None for nobody.
        details: More about it, as JSON values; ``execution_id`` and ``workflow`` are always among them.

    ``event_id``, ``routing_key``, ``source`` and ``route`` are those of the event that triggered the execution;
    ``occurred_at`` is `now`, for it is the change of state that occurred then, not the event.
    """
    row = Trail(execution, now).row(action, details)
    return row if user_id is _NOBODY else row._replace(values={**row.values, "user_id": user_id})


class Trail:
    """The audit rows of one execution within one transaction, which say mostly the same.

    Args:
        execution: What they are about.
        now: When it happens.
    """

    __slots__ = ("_always", "_values")

    def __init__(self, execution: Audited | ExecutionRecord, now: datetime) -> None:
        entity = (execution.entity_type, execution.entity_id)
        self._values = _values("", execution.event, now, entity, execution.actor_id, {})
        self._always = {"execution_id": execution.id, "workflow": execution.workflow}

    def row(self, action: str, details: Mapping[str, Any]) -> Row:
        """One row; see `audit_row`, of which it has the defaults."""
        values = self._values.copy()
        values["action"] = action
        values["details"] = {**self._always, **details}
        return Row(AuditLog, values)


def audit_values(
    action: str,
    event: Mapping[str, Any],
    now: datetime,
    *,
    entity: tuple[str | None, str | None],
    user_id: str | None,
    details: dict[str, Any],
) -> Row:
    """The same where there is no execution (yet): `event` is what `triggers.event_record` makes of an event."""
    return Row(AuditLog, _values(action, event, now, entity, user_id, details))


def _values(
    action: str,
    event: Mapping[str, Any],
    now: datetime,
    entity: tuple[str | None, str | None],
    user_id: str | None,
    details: dict[str, Any],
) -> dict[str, Any]:
    return {
        "action": action,
        "entity_type": entity[0],
        "entity_id": entity[1],
        "user_id": user_id,
        "details": details,
        "event_id": event["id"],
        "routing_key": event["routing_key"],
        "source": event["source"],
        "route": event["route"],
        "occurred_at": now,
        "created_at": now,
    }
