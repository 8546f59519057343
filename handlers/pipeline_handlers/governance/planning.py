"""An execution under way: what is known of it, and the steps that are planned from that."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from pipeline.jobs.contract import NewJob
from pipeline_handlers.governance.contract import EntityView, Step

if TYPE_CHECKING:
    from pipeline.jobs.contract import Job
    from pipeline_handlers.governance.audit import Trail
    from pipeline_handlers.governance.definitions import Definition, PlannedAction
    from pipeline_handlers.governance.options import GovernanceOptions
    from pipeline_handlers.governance.records import ExecutionRecord

__all__ = [
    "EXECUTION_JOB", "Running", "execution_job", "execution_job_id", "plan_step", "timer_job_id",
    "variables_of",
]  # fmt: skip

EXECUTION_JOB: Final = "execute:"
"""What the id of a job that runs an execution begins with; the execution's id follows."""


def execution_job_id(execution_id: str) -> str:
    """The id of the job that runs this execution: it has one at most."""
    return EXECUTION_JOB + execution_id


def execution_job(execution_id: str, queue: str, stage: str) -> NewJob:
    """The job that runs this execution, from the action on that it stands at."""
    return NewJob(execution_job_id(execution_id), queue, {"kind": "execute"}, stage=stage)


def timer_job_id(approval_id: str, escalated: int) -> str:
    """The id of the job that fires the time-out of an approval, as often as it was escalated."""
    return f"timeout:{approval_id}:{escalated}"


@dataclass(slots=True)
class Running:
    """One execution within one transaction of the engine.

    Attributes:
        job: The job that runs it.
        record: Its row of ``workflow_executions``, as it was found.
        definition: The version that it started with.
        position: The index of the action that is next, or under way.
        action: The row of the action at `position` as it was found, or as this transaction writes it; None where it
            was not begun yet.
        variables: What its expressions see; None where the entity must be looked at first.
        trail: Makes its audit rows; None before the first.
        tries: How many tries were concluded in this transaction.
        status: What its row will say.
        phase: What its row will say.
        error: What its row will say.
        ended: Whether it is over, or waits: nothing more is to be done for it now.
    """

    job: Job
    record: ExecutionRecord
    definition: Definition
    position: int
    action: dict[str, Any] | None = None
    variables: dict[str, Any] | None = None
    trail: Trail | None = None
    tries: int = 0
    status: str = "in_progress"
    phase: str | None = "running"
    error: str | None = None
    ended: bool = False

    @property
    def whose(self) -> str:
        """Which execution this is, for people."""
        record = self.record
        return f"{record.workflow} {record.entity_type}/{record.entity_id} ({record.id})"

    @property
    def planned(self) -> PlannedAction | None:
        """The action that is next; None after the last."""
        actions = self.definition.actions
        return actions[self.position] if self.position < len(actions) else None

    @property
    def entity_key(self) -> tuple[str, str]:
        """Which entity it is about."""
        return self.record.entity_type, self.record.entity_id


def plan_step(
    record: Any,
    position: int,
    action: Mapping[str, Any],
    entity: EntityView,
    settings: GovernanceOptions,
    now: datetime,
    variables: Mapping[str, Any] | None = None,
) -> Step:
    """The step that runs one action.

    Args:
        record: The execution's row.
        position: The action's index.
        action: The action's row: its `attempts` and `round`.
        entity: The entity, as it is now.
        settings: The stage's options.
        now: The time.
        variables: What `variables_of` gives, where that is known already.
    """
    return Step(
        execution_id=record.id,
        workflow=record.workflow,
        stage=record.stage,
        queue=record.queue,
        position=position,
        attempt=action["attempts"],
        round=action["round"],
        entity=entity,
        actor_id=record.actor_id,
        stream=record.event.get("stream", ""),
        causation=record.causation,
        variables=variables_of(record, entity) if variables is None else variables,
        settings=settings,
        now=now,
    )


def variables_of(record: Any, entity: EntityView) -> dict[str, Any]:
    """What expressions and templates of an execution see."""
    event = record.event
    time = event.get("time")
    return {
        "routing_key": event.get("routing_key", ""),
        "id": event.get("id", ""),
        "data": event.get("data", {}),
        "headers": event.get("headers", {}),
        "time": datetime.fromisoformat(time) if isinstance(time, str) else time,
        "entity": {
            "type": entity.type,
            "id": entity.id,
            "status": entity.status,
            "version": entity.version,
            "data": entity.data,
        },
        "execution": {"id": record.id, "workflow": record.workflow},
    }
