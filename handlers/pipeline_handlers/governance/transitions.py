"""Changes of state that do not come from running actions: an execution goes on, or ends, because somebody said so."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, update

from pipeline.jobs.statements import listed, one_of
from pipeline.ledger.clean import clean_json, clean_text
from pipeline.ledger.job_tables import JobRow
from pipeline_handlers.governance.audit import audit_row
from pipeline_handlers.governance.planning import execution_job, execution_job_id, timer_job_id
from pipeline_handlers.governance.records import ACTIONS, EXECUTIONS, sorted_by, table_of
from pipeline_handlers.governance.tables import Approval

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from pipeline_handlers.governance.effects import Effects

__all__ = [
    "APPROVALS", "action_of", "approvals_of", "cancel", "close_approval", "fail", "give_up", "go_on", "lock",
    "set_action", "set_execution",
]  # fmt: skip

APPROVALS = table_of(Approval)
_JOBS = table_of(JobRow)


async def lock(connection: AsyncConnection, execution_ids: Iterable[str]) -> dict[str, Any]:
    """Lock executions, and before them their jobs; returns the executions' rows by id.

    Everybody locks jobs, executions, approvals and entities in this order, each kind by id, so that nobody waits for
    somebody who waits for him.
    """
    ids, dialect = sorted(set(execution_ids)), connection.dialect.name
    waiting = select(APPROVALS.c.id, APPROVALS.c.escalated).where(
        one_of(APPROVALS.c.execution_id, "ids", dialect), APPROVALS.c.status == "open"
    )
    open_ = await connection.execute(waiting, {"ids": listed(ids, dialect)})
    jobs = [*map(execution_job_id, ids), *(timer_job_id(row.id, row.escalated) for row in open_)]
    locked = select(_JOBS.c.id).where(one_of(_JOBS.c.id, "ids", dialect)).order_by(sorted_by(_JOBS.c.id))
    await connection.execute(locked.with_for_update(), {"ids": listed(jobs, dialect)})
    found = select(EXECUTIONS).where(one_of(EXECUTIONS.c.id, "ids", dialect)).order_by(sorted_by(EXECUTIONS.c.id))
    return {row.id: row for row in await connection.execute(found.with_for_update(), {"ids": listed(ids, dialect)})}


async def approvals_of(connection: AsyncConnection, execution_id: str) -> Sequence[Any]:
    """The approvals of an execution that is locked, oldest first, locked too."""
    found = select(APPROVALS).where(APPROVALS.c.execution_id == execution_id).order_by(APPROVALS.c.id).with_for_update()
    return sorted(await connection.execute(found), key=lambda row: (row.created_at, row.position, row.step))


async def action_of(connection: AsyncConnection, execution_id: str, position: int) -> Any:
    """The row of an action; None where it was not begun."""
    found = select(ACTIONS).where(ACTIONS.c.execution_id == execution_id, ACTIONS.c.position == position)
    return (await connection.execute(found)).one_or_none()


async def set_execution(connection: AsyncConnection, execution_id: str, now: datetime, **values: Any) -> None:
    """Write some of an execution's columns."""
    changed = update(EXECUTIONS).where(EXECUTIONS.c.id == execution_id).values(updated_at=now, **values)
    await connection.execute(changed)


async def set_action(connection: AsyncConnection, execution_id: str, position: int, **values: Any) -> None:
    """Write some of an action's columns."""
    same = (ACTIONS.c.execution_id == execution_id, ACTIONS.c.position == position)
    await connection.execute(update(ACTIONS).where(*same).values(**values))


async def close_approval(
    connection: AsyncConnection, effects: Effects, approval: Any, status: str, now: datetime
) -> None:
    """End an approval, and take back its timer."""
    changed = update(APPROVALS).where(APPROVALS.c.id == approval.id).values(status=status, decided_at=now)
    await connection.execute(changed)
    if approval.due_at is not None:
        effects.withdrawn.append(timer_job_id(approval.id, approval.escalated))


async def go_on(
    connection: AsyncConnection,
    effects: Effects,
    record: Any,
    now: datetime,
    *,
    action: str,
    result: Mapping[str, Any] | None,
    user_id: str | None,
) -> None:
    """The action that an execution waits for is completed: the next one is run.

    Args:
        connection: The transaction, which has locked the execution.
        effects: What the transaction leaves.
        record: The execution's row.
        now: The time.
        action: The action's name.
        result: What came of it, kept with it.
        user_id: Who caused this; None for nobody.
    """
    kept = None if result is None else clean_json(result)
    await set_action(connection, record.id, record.position, status="completed", ended_at=now, result=kept, error=None)
    await set_execution(connection, record.id, now, phase="queued", position=record.position + 1, error=None)
    effects.jobs.append(execution_job(record.id, record.queue, record.stage))
    effects.rows += [
        audit_row(
            "action_completed", record, now=now, user_id=user_id, position=record.position, action=action
        ),
        audit_row("execution_queued", record, now=now, user_id=user_id, position=record.position + 1),
    ]  # fmt: skip


async def fail(
    connection: AsyncConnection, effects: Effects, record: Any, now: datetime, *, action: str, reason: str,
    user_id: str | None,
) -> None:  # fmt: skip
    """The action that an execution waits for has failed, and with it the execution. Arguments as for `go_on`."""
    told = clean_text(reason)
    await set_action(connection, record.id, record.position, status="failed", ended_at=now, error=told)
    await set_execution(connection, record.id, now, status="failed", phase=None, error=told, completed_at=now)
    effects.rows += [
        audit_row(
            "action_failed", record, now=now, user_id=user_id, position=record.position, action=action, error=told
        ),
        audit_row("execution_failed", record, now=now, user_id=user_id, error=told),
    ]  # fmt: skip


async def give_up(connection: AsyncConnection, effects: Effects, record: Any, now: datetime, *, reason: str) -> None:
    """An execution that nothing runs any more has failed, for a reason that is no action's own.

    Args:
        connection: The transaction, which has locked the execution.
        effects: What the transaction leaves.
        record: The execution's row.
        now: The time.
        reason: Why, for people.
    """
    told = clean_text(reason)
    action = await action_of(connection, record.id, record.position)
    if action is not None and action.status == "running":
        await set_action(connection, record.id, record.position, status="failed", ended_at=now, error=told)
        effects.rows.append(
            audit_row("action_failed", record, now=now, user_id=None, position=record.position, action=action.action,
                      error=told)
        )  # fmt: skip
    await set_execution(connection, record.id, now, status="failed", phase=None, error=told, completed_at=now)
    effects.rows.append(audit_row("execution_failed", record, now=now, user_id=None, error=told))


async def cancel(
    connection: AsyncConnection, effects: Effects, record: Any, now: datetime, *, user_id: str | None, reason: str
) -> None:
    """End an execution that is in progress, with its action, its approvals and its jobs.

    Args:
        connection: The transaction, which has locked the execution.
        effects: What the transaction leaves.
        record: The execution's row.
        now: The time.
        user_id: Who wants it; None for nobody.
        reason: Why, for people.
    """
    why = clean_text(reason)
    action = await action_of(connection, record.id, record.position)
    if action is not None and action.status != "completed":
        await set_action(connection, record.id, record.position, status="cancelled", ended_at=now)
        effects.rows.append(
            audit_row("action_cancelled", record, now=now, user_id=user_id, position=record.position,
                      action=action.action, reason=why)
        )  # fmt: skip
    for approval in await approvals_of(connection, record.id):
        if approval.status == "open":
            await close_approval(connection, effects, approval, "cancelled", now)
            effects.rows.append(
                audit_row("approval_cancelled", record, now=now, user_id=user_id, approval_id=approval.id, reason=why)
            )
    effects.withdrawn.append(execution_job_id(record.id))
    await set_execution(
        connection, record.id, now, status="failed", phase="cancelled", error=f"cancelled: {why}", completed_at=now
    )
    effects.rows.append(audit_row("execution_cancelled", record, now=now, user_id=user_id, reason=why))
