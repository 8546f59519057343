"""Steering executions: retry, cancel and resume, each in one transaction, whoever runs them meanwhile."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from sqlalchemy import select

from pipeline.errors import Retry, Unavailable, UserError
from pipeline.jobs.clock import Clock
from pipeline.ledger.rows import RowWriter
from pipeline.ledger.units import Row
from pipeline_handlers.governance.audit import audit_row
from pipeline_handlers.governance.cancelling import is_earlier
from pipeline_handlers.governance.effects import Effects
from pipeline_handlers.governance.journal import tell
from pipeline_handlers.governance.planning import execution_job
from pipeline_handlers.governance.records import EXECUTIONS
from pipeline_handlers.governance.redefining import successor
from pipeline_handlers.governance.tables import WorkflowDefinition
from pipeline_handlers.governance.transitions import (
    action_of,
    approvals_of,
    cancel,
    go_on,
    lock,
    set_action,
    set_execution,
)
from pipeline_handlers.governance.triggers import definition_values

if TYPE_CHECKING:
    import logging

    from sqlalchemy.ext.asyncio import AsyncConnection

    from pipeline.jobs.contract import Settlement
    from pipeline.ledger.database import Database
    from pipeline_handlers.governance.definitions import Definitions

__all__ = ["Change", "Steering", "no_execution", "once_more_after_a_deadlock"]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Change:
    """A transaction of somebody's who steers.

    Attributes:
        connection: The transaction.
        effects: What it leaves at its end.
        now: The time, by the database's clock.
    """

    connection: AsyncConnection
    effects: Effects
    now: datetime


def no_execution(execution_id: str) -> UserError:
    """The error that says so."""
    return UserError(f"there is no execution {execution_id!r}: 'pipeline executions list' shows them")


def once_more_after_a_deadlock(call: Callable[P, Awaitable[T]]) -> Callable[P, Awaitable[T]]:
    """A call that is a transaction of its own: where the database broke it off for another one's sake, it comes again.

    A time-out has locked its own job before it locks those of its execution; so a deadlock can't be ruled out.
    """

    @functools.wraps(call)
    async def patient(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return await call(*args, **kwargs)
        except Unavailable as error:
            if "deadlock" not in str(error):
                raise
        return await call(*args, **kwargs)

    return patient


class Steering:
    """Changes executions from outside. Every method is idempotent, and safe beside workers that run the execution.

    Methods raise `Unavailable` where the database can't be reached.

    Args:
        database: The pipeline's database.
        clock: The time, for tests; by default the database's.
        pipeline: The pipeline's name, which jobs are left with.
        log: Where changes of state are told; by default nowhere.
    """

    def __init__(
        self, database: Database, clock: Clock | None = None, *, pipeline: str, log: logging.Logger | None = None
    ) -> None:
        self._database = database
        self._clock = clock or Clock()
        self._told_to = log
        self._pipeline = pipeline
        self._writer = RowWriter(database.dialect)

    @asynccontextmanager
    async def change(self) -> AsyncIterator[Change]:
        """A transaction of its own; what is left in its effects is written at the end."""
        async with self._database.write() as connection:
            await self._clock.measure(connection)
            change = Change(connection, Effects(changes=[] if self._told_to else None), self._clock.now())
            yield change
            await change.effects.finish(connection, self._database.dialect, self._writer, change.now, self._pipeline)
        if self._told_to is not None:
            tell(self._told_to, change.effects.changes or ())

    @once_more_after_a_deadlock
    async def retry(
        self, execution_id: str, *, actor: str | None = None, definitions: Mapping[str, Definitions] | None = None
    ) -> None:
        """Run a failed execution again, from the action on that failed; its tries are counted anew.

        An approval that was rejected is asked for again.

        Args:
            execution_id: The execution.
            actor: Who wants it, for the audit log.
            definitions: The current ones by stage: it goes on with its workflow's, as `successor` says, and not with
                the definition that it started with.

        Raises:
            UserError: There is no such execution, or it has not failed, or was cancelled, or it can't go on with the
                current definition.
        """
        async with self.change() as change:
            record = (await lock(change.connection, [execution_id])).get(execution_id)
            if record is None:
                raise no_execution(execution_id)
            if record.status != "failed":
                raise UserError(f"the execution {execution_id} is {_state(record)}: only a failed one can be retried")
            if record.phase == "cancelled":
                raise UserError(f"the execution {execution_id} was cancelled ({record.error}), which is final")
            action = await action_of(change.connection, execution_id, record.position)
            if action is not None:
                again = {"round": action.round + 1, "failures": 0}
                await set_action(change.connection, execution_id, record.position, **again)
            other = None if definitions is None else await successor(change.connection, record, definitions)
            values: dict[str, Any] = {}
            told: dict[str, Any] = {"position": record.position}
            if other is not None:
                values = {"definition_id": other.id, "actions": len(other.actions)}
                told |= {"definition_id": other.id, "instead_of": record.definition_id}
                change.effects.rows.append(Row(WorkflowDefinition, definition_values(other, change.now), "ignore"))
            await set_execution(
                change.connection, execution_id, change.now,
                status="in_progress", phase="queued", error=None, completed_at=None, **values,
            )  # fmt: skip
            change.effects.jobs.append(execution_job(execution_id, record.queue, record.stage))
            change.effects.rows.append(audit_row("execution_retried", record, now=change.now, user_id=actor, **told))

    @once_more_after_a_deadlock
    async def cancel(self, execution_id: str, *, actor: str | None = None, reason: str = "") -> bool:
        """End an execution that is in progress, with its pending approvals and jobs.

        An external action that a worker is just running is not interrupted, but what comes of it is not kept.

        Args:
            execution_id: The execution.
            actor: Who wants it, for the audit log.
            reason: Why, for people.

        Returns:
            False where it was cancelled before.

        Raises:
            UserError: There is no such execution, or it has ended otherwise.
        """
        async with self.change() as change:
            record = (await lock(change.connection, [execution_id])).get(execution_id)
            if record is None:
                raise no_execution(execution_id)
            if record.phase == "cancelled":
                return False
            if record.status != "in_progress":
                raise UserError(f"the execution {execution_id} is {_state(record)}: there is nothing to cancel")
            why = reason or "no reason was given"
            await cancel(change.connection, change.effects, record, change.now, user_id=actor, reason=why)
            return True

    async def cancel_by_entity(
        self, settlement: Settlement, payload: Mapping[str, Any], effects: Effects | None = None
    ) -> str:
        """Run a job of the kind ``cancel``: end what a workflow has under way for an entity (``cancel_on``).

        Args:
            settlement: The job's settlement.
            payload: ``workflow``, ``entity_type``, ``entity_id``; ``time`` (milliseconds since 1970), ``stream``,
                ``offset``, ``event_id`` and ``caused_by`` of the event that causes this: what later events triggered,
                or that event itself, goes on, and so does the execution whose step it tells of; ``actor_id``,
                ``reason``.
            effects: Collects what this leaves.

        Returns:
            Why that can't be done, for ever; empty where it was done.
        """
        try:
            workflow, kind, id_ = (payload[name] for name in ("workflow", "entity_type", "entity_id"))
            time, _ = int(payload["time"]), int(payload["offset"])
        except (KeyError, TypeError, ValueError) as error:
            return f"the job does not say what to cancel: {error!r}"
        connection, effects = settlement.connection, Effects() if effects is None else effects
        wanted = select(EXECUTIONS.c.id).where(
            EXECUTIONS.c.entity_type == kind, EXECUTIONS.c.entity_id == id_, EXECUTIONS.c.workflow == workflow,
            EXECUTIONS.c.status == "in_progress", EXECUTIONS.c.event_time <= time,
        )  # fmt: skip
        for record in (await lock(connection, [row.id for row in await connection.execute(wanted)])).values():
            if record.status == "in_progress" and is_earlier(record, payload):
                await cancel(
                    connection, effects, record, settlement.now,
                    user_id=payload.get("actor_id"), reason=str(payload.get("reason") or "the entity has changed"),
                )  # fmt: skip
        await effects.write(connection, self._writer)
        effects.hand_to(settlement)
        return ""

    @once_more_after_a_deadlock
    async def resume(
        self, execution_id: str, position: int, result: Mapping[str, Any] | None = None, *, actor: str | None = None
    ) -> bool:
        """An action that returned `WAIT` has come to its end: the execution goes on with the next one.

        Args:
            execution_id: The execution.
            position: The action's index: `Step.position`.
            result: What came of it, JSON values, kept with the action.
            actor: Who says so, for the audit log.

        Returns:
            False where it was resumed before.

        Raises:
            Retry: The action is about to wait, but that is not written yet: ask again.
            UserError: There is no such execution, it does not wait for this action, or it waits for an approval.
        """
        async with self.change() as change:
            record = (await lock(change.connection, [execution_id])).get(execution_id)
            if record is None:
                raise no_execution(execution_id)
            action = await action_of(change.connection, execution_id, position)
            if action is not None and action.status == "completed":
                return False
            if action is not None and action.status == "running" and record.status == "in_progress":
                raise Retry(f"action {position} of the execution {execution_id} does not wait yet", after=1.0)
            if action is None or action.status != "waiting" or record.phase != "waiting":
                told = "was not begun" if action is None else f"is {action.status}"
                raise UserError(f"action {position} of the execution {execution_id} {told}: it does not wait")
            approvals = await approvals_of(change.connection, execution_id)
            if any(approval.status == "open" and approval.position == position for approval in approvals):
                raise UserError(f"the execution {execution_id} waits for an approval: decide on that")
            await go_on(
                change.connection, change.effects, record, change.now,
                action=action.action, result=result, user_id=actor,
            )  # fmt: skip
            return True


def _state(record: Any) -> str:
    return f"in progress ({record.phase})" if record.status == "in_progress" else str(record.status)
