"""Executions as people look at them and steer them: list, show, retry, cancel, resume."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from sqlalchemy import and_, case, exists, func, or_, select
from sqlmodel import SQLModel, col

from pipeline.errors import UserError
from pipeline.ledger.job_tables import JobRow, JobRun
from pipeline_handlers.audit.tables import AuditLog
from pipeline_handlers.governance.actions.notice import NOTICE_JOB
from pipeline_handlers.governance.planning import EXECUTION_JOB, execution_job_id
from pipeline_handlers.governance.steering import Steering, no_execution
from pipeline_handlers.governance.tables import (
    Approval,
    ApprovalDecision,
    Assignment,
    Notification,
    Task,
    WorkflowAction,
    WorkflowDefinition,
    WorkflowExecution,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from pipeline.jobs.clock import Clock
    from pipeline.ledger.database import Database

__all__ = ["FILTERS", "ExecutionDetails", "Executions"]

_GIVEN_BACK = and_(
    col(WorkflowExecution.phase) == "running",
    exists().where(col(JobRow.id) == EXECUTION_JOB + col(WorkflowExecution.id), col(JobRow.state) == "queued"),
)
"""Of an execution: no worker runs it, though its phase says so, as one has stopped or died amid an action."""
FILTERS = {
    "status": col(WorkflowExecution.status),
    "phase": case((_GIVEN_BACK, "queued"), else_=col(WorkflowExecution.phase)),
    "workflow": col(WorkflowExecution.workflow),
    "entity": col(WorkflowExecution.entity_type),
    "entity_id": col(WorkflowExecution.entity_id),
    "queue": col(WorkflowExecution.queue),
    "event_id": col(WorkflowExecution.event_id),
}
"""What executions can be chosen by."""
KNOWN = {
    "status": ("in_progress", "completed", "failed"),
    "phase": ("queued", "running", "waiting", "backing_off", "cancelled"),
}
"""The values of those columns that have few."""


Found: TypeAlias = list[WorkflowExecution]
Ids: TypeAlias = list[str]


@dataclass(frozen=True, slots=True)
class ExecutionDetails:
    """All that there is about one execution, each list oldest first.

    Attributes:
        execution: Its row.
        definition: The definition that it started with, as in ``pipeline.toml``; None where it is not stored.
        actions: Its actions that were begun, by position.
        jobs: Its jobs, and its approvals' timers, as far as they are to come.
        runs: Runs of its job, as far as they are kept.
        audit: Its rows in the audit log.
    """

    execution: WorkflowExecution
    definition: dict[str, Any] | None
    actions: Sequence[WorkflowAction]
    approvals: Sequence[Approval]
    decisions: Sequence[ApprovalDecision]
    tasks: Sequence[Task]
    notifications: Sequence[Notification]
    assignments: Sequence[Assignment]
    jobs: Sequence[JobRow]
    runs: Sequence[JobRun]
    audit: Sequence[AuditLog]

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON values; times in ISO 8601. ``actions`` are those that were begun."""
        names = (
            "actions", "approvals", "decisions", "tasks", "notifications", "assignments", "jobs", "runs", "audit",
        )  # fmt: skip
        execution = plain(self.execution)
        return {
            **execution,
            "action_count": execution["actions"],
            "definition": self.definition,
            **{name: [plain(row) for row in getattr(self, name)] for name in names},
        }


class Executions(Steering):
    """The executions of all governance stages of a pipeline.

    Methods raise `Unavailable("database", …)` where the database can't be reached. Those that change something are
    idempotent, and safe while workers run.

    Args:
        database: The pipeline's database.
        clock: The time, for tests; by default the database's.
        pipeline: The pipeline's name, which jobs are left with.
    """

    def __init__(self, database: Database, clock: Clock | None = None, *, pipeline: str) -> None:
        super().__init__(database, clock, pipeline=pipeline)
        self._db = database

    async def list(self, limit: int = 50, *, since: datetime | None = None, **filters: str | None) -> Found:
        """The newest executions first.

        Args:
            limit: How many at most.
            since: Only those made then or later (aware).
            filters: `FILTERS` → the value that it must have; None does not filter.

        Raises:
            UserError: A filter, or its value, is unknown.
        """
        statement = (
            select(WorkflowExecution)
            .where(*_conditions(filters, since))
            .order_by(col(WorkflowExecution.created_at).desc(), col(WorkflowExecution.id).desc())
            .limit(limit)
        )
        return await self._fetch(statement)

    async def count(self, *, since: datetime | None = None, **filters: str | None) -> int:
        """How many there are; filters as for `list`."""
        statement = select(func.count()).select_from(WorkflowExecution).where(*_conditions(filters, since))
        return (await self._db.fetch(int, statement))[0]

    async def names(self, field: str) -> set[str]:
        """What stands in this column, one of `FILTERS`, of any execution; a thousand at most."""
        return set(await self._db.fetch(str, select(FILTERS[field]).distinct().limit(1_000)))

    async def ids(self, *, since: datetime | None = None, **filters: str | None) -> Ids:
        """The ids of those that can be steered together, the oldest first; filters as for `list`.

        Cancelled ones are among them with ``phase="cancelled"`` only, since that is final.
        """
        conditions = _conditions(filters, since)
        if filters.get("phase") is None:
            conditions.append(func.coalesce(col(WorkflowExecution.phase), "") != "cancelled")
        statement = select(col(WorkflowExecution.id)).where(*conditions)
        return await self._db.fetch(
            str, statement.order_by(col(WorkflowExecution.created_at), col(WorkflowExecution.id))
        )

    async def some(self, ids: Sequence[str]) -> Found:
        """The executions of these ids, the oldest first."""
        some = select(WorkflowExecution).where(col(WorkflowExecution.id).in_(ids))
        return await self._fetch(some.order_by(col(WorkflowExecution.created_at), col(WorkflowExecution.id)))

    async def get(self, execution_id: str) -> WorkflowExecution | None:
        """The execution of this id."""
        found = await self._fetch(select(WorkflowExecution).where(col(WorkflowExecution.id) == execution_id))
        return found[0] if found else None

    async def of_approval(self, approval_id: str) -> WorkflowExecution | None:
        """The execution that waits, or waited, for this approval; None where there is no such one."""
        mine = select(col(Approval.execution_id)).where(col(Approval.id) == approval_id)
        found = await self._db.fetch(
            WorkflowExecution, select(WorkflowExecution).where(col(WorkflowExecution.id).in_(mine))
        )
        return found[0] if found else None

    async def show(self, execution_id: str) -> ExecutionDetails:
        """All that there is about one execution. Raises `UserError` where there is no such one."""
        execution = await self.get(execution_id)
        if execution is None:
            raise no_execution(execution_id)
        approvals = await self._of(Approval, execution_id, col(Approval.created_at), col(Approval.id))
        ids = [approval.id for approval in approvals]
        definitions = select(WorkflowDefinition).where(col(WorkflowDefinition.id) == execution.definition_id)
        decisions = select(ApprovalDecision).where(col(ApprovalDecision.approval_id).in_(ids))
        job = execution_job_id(execution_id)
        timers = [
            col(JobRow.id).startswith(f"{kind}{id_}:", autoescape=True)
            for id_ in ids
            for kind in ("timeout:", NOTICE_JOB)
        ]
        jobs = select(JobRow).where(or_(col(JobRow.id) == job, *timers))
        runs = select(JobRun).where(col(JobRun.job_id) == job).order_by(col(JobRun.id))
        audit = select(AuditLog).where(col(AuditLog.event_id) == execution.event_id).order_by(col(AuditLog.id))
        stored = await self._db.fetch(WorkflowDefinition, definitions)
        rows = await self._db.fetch(AuditLog, audit)
        return ExecutionDetails(
            execution=execution,
            definition=stored[0].body if stored else None,
            actions=await self._of(WorkflowAction, execution_id, col(WorkflowAction.position)),
            approvals=approvals,
            decisions=await self._db.fetch(ApprovalDecision, decisions.order_by(col(ApprovalDecision.decided_at))),
            tasks=await self._of(Task, execution_id, col(Task.id)),
            notifications=await self._of(Notification, execution_id, col(Notification.id)),
            assignments=await self._of(Assignment, execution_id, col(Assignment.id)),
            jobs=await self._db.fetch(JobRow, jobs.order_by(col(JobRow.due_at))),
            runs=await self._db.fetch(JobRun, runs),
            audit=[row for row in rows if row.details.get("execution_id") == execution_id],
        )

    async def _fetch(self, statement: Any) -> Found:
        """Executions, with the phase that holds for one whose worker has given it back."""
        found = await self._db.fetch(WorkflowExecution, statement)
        if running := {one.id: one for one in found if one.phase == "running"}:
            given_back = select(col(WorkflowExecution.id)).where(
                col(WorkflowExecution.id).in_(list(running)), _GIVEN_BACK
            )
            for id_ in await self._db.fetch(str, given_back):
                running[id_].phase = "queued"
        return found

    async def _of(self, table: Any, execution_id: str, *order: Any) -> Sequence[Any]:
        """An execution's rows of one table."""
        return await self._db.fetch(table, select(table).where(table.execution_id == execution_id).order_by(*order))


def plain(row: SQLModel) -> dict[str, Any]:
    """A row as JSON values."""
    return row.model_dump(mode="json")


def _conditions(filters: dict[str, str | None], since: datetime | None = None) -> list[Any]:
    for name, value in filters.items():
        if name not in FILTERS:
            raise UserError(f"executions can't be chosen by {name!r}; known are {', '.join(FILTERS)}")
        if value is not None and value not in KNOWN.get(name, (value,)):
            raise UserError(f"no execution's {name} is {value!r}; it is one of {', '.join(KNOWN[name])}")
    found: list[Any] = [FILTERS[name] == value for name, value in filters.items() if value is not None]
    return found if since is None else [*found, col(WorkflowExecution.created_at) >= since]
