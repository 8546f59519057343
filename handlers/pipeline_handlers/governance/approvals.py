"""Approvals as people look at them and decide: by an event or by a command, the same function."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, TypeAlias

from sqlalchemy import cast, func, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlmodel import col

from pipeline.errors import UserError
from pipeline.ledger.clean import clean_id
from pipeline.ledger.rows import RowWriter
from pipeline_handlers.governance.deciding import Case, Deciding
from pipeline_handlers.governance.effects import Effects
from pipeline_handlers.governance.events import DECISIONS
from pipeline_handlers.governance.records import Records
from pipeline_handlers.governance.requests import Decided, Decision, Request, Requests
from pipeline_handlers.governance.steering import Change, Steering, once_more_after_a_deadlock
from pipeline_handlers.governance.tables import Approval, ApprovalDecision
from pipeline_handlers.governance.transitions import APPROVALS, approvals_of, cancel, lock

if TYPE_CHECKING:
    import logging

    from pipeline.jobs.clock import Clock
    from pipeline.jobs.contract import Settlement
    from pipeline.ledger.database import Database
    from pipeline_handlers.governance.definitions import Definitions
    from pipeline_handlers.governance.options import GovernanceOptions

__all__ = ["ApprovalRecords", "Approvals", "Decided", "Decision"]

Found: TypeAlias = list[Approval]
ByApproval: TypeAlias = dict[str, list[ApprovalDecision]]
STATUSES: Final = ("open", "granted", "rejected", "expired", "cancelled")


class ApprovalRecords:
    """The approvals of all governance stages, to look at.

    Methods raise `Unavailable("database", …)` where the database can't be reached.

    Args:
        database: The pipeline's database.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    async def list(
        self, limit: int = 50, *, status: str | None = None, approver: str | None = None, **filters: str | None
    ) -> Found:
        """The newest approvals first.

        Args:
            limit: How many at most.
            status: ``open``, ``granted``, ``rejected``, ``expired`` or ``cancelled``.
            approver: Only those that this person is, or was, entitled to decide.
            filters: ``id``, ``execution``, ``workflow``, ``entity`` and ``entity_id``.

        Raises:
            UserError: There is no such status or filter.
        """
        if status is not None and status not in STATUSES:
            raise UserError(f"no approval is {status!r}; its status is one of {', '.join(STATUSES)}")
        conditions = [col(Approval.status) == status] if status is not None else []
        if approver is not None:
            conditions.append(_asks(approver, self._database.dialect))
        statement = select(Approval).where(*conditions, *_conditions(filters))
        newest = statement.order_by(col(Approval.created_at).desc(), col(Approval.id).desc()).limit(limit)
        return await self._database.fetch(Approval, newest)

    async def decisions(self, approval_ids: Iterable[str]) -> ByApproval:
        """What was decided, by approval, oldest first."""
        ids = list(approval_ids)
        statement = select(ApprovalDecision).where(col(ApprovalDecision.approval_id).in_(ids))
        found: ByApproval = {id_: [] for id_ in ids}
        for one in await self._database.fetch(ApprovalDecision, statement.order_by(col(ApprovalDecision.decided_at))):
            found[one.approval_id].append(one)
        return found


class Approvals(ApprovalRecords):
    """The approvals, and decisions on those of one governance stage.

    Args:
        database: The pipeline's database.
        definitions: The stage's definitions.
        settings: The stage's options.
        clock: The time, for tests; by default the database's.
        pipeline: The pipeline's name, which jobs are left with.
        log: Where changes of state are told, if the stage's options say so; by default nowhere.
    """

    def __init__(
        self,
        database: Database,
        definitions: Definitions,
        settings: GovernanceOptions,
        clock: Clock | None = None,
        *,
        pipeline: str,
        log: logging.Logger | None = None,
    ) -> None:
        super().__init__(database)
        self._steering = Steering(database, clock, pipeline=pipeline, log=log if settings.log else None)
        self._writer = RowWriter(database.dialect)
        self._deciding = Deciding(definitions, settings, Records(database.dialect))
        self._requests = Requests(self._deciding)

    @once_more_after_a_deadlock
    async def decide(
        self,
        execution_id: str,
        approver: str,
        decision: Decision,
        *,
        request_id: str,
        comment: str | None = None,
        approval_id: str | None = None,
    ) -> Decided:
        """Grant or reject what an execution waits for; the execution goes on, or fails, where that suffices.

        One transaction. Who has decided stays with it: the same decision again changes nothing, and neither does
        anything more that comes with a `request_id` which has decided before, even where a further step is open by
        then. What is refused leaves a row ``approval_refused`` in the audit log.

        Args:
            execution_id: The execution.
            approver: Who decides.
            decision: ``granted`` or ``rejected``.
            request_id: Names the request for good: the event's id.
            comment: What the approver says.
            approval_id: Which approval; by default the execution's open one.

        Raises:
            Reject: There is no such execution (kind ``unknown_execution``) or approval (``unknown_approval``), the
                approver is not entitled (``not_entitled``) or has decided otherwise before (``already_decided``), or
                the approval is closed (``approval_closed``).
            Retry: The execution has not come to its approval yet.
            UserError: `decision` is neither of the two.
        """
        if decision not in DECISIONS:
            raise UserError(f"there is no decision {decision!r}: say {' or '.join(DECISIONS)}")
        request = Request(execution_id, approver, decision, comment, clean_id(request_id), approval_id)
        async with self._steering.change() as change:
            decided = await self._requests.answer(change, request)
        if isinstance(decided, Exception):
            raise decided
        return decided

    async def time_out(self, settlement: Settlement, payload: Mapping[str, Any], effects: Effects | None = None) -> str:
        """Run a job of the kind ``timeout``; one that is stale does nothing.

        Args:
            settlement: The job's settlement.
            payload: ``approval_id`` and ``escalated``.
            effects: Collects what this leaves.

        Returns:
            Why that can't be done, for ever; empty where it was done.
        """
        try:
            approval_id, escalated = str(payload["approval_id"]), int(payload["escalated"])
        except (KeyError, TypeError, ValueError) as error:
            return f"the job does not say which approval's time is over: {error!r}"
        change = Change(settlement.connection, Effects() if effects is None else effects, settlement.now)
        found = select(APPROVALS.c.execution_id).where(APPROVALS.c.id == approval_id)
        execution_id = (await change.connection.execute(found)).scalar_one_or_none()
        if execution_id is None:
            return f"there is no approval {approval_id!r}"
        record = (await lock(change.connection, [execution_id])).get(execution_id)
        for approval in await approvals_of(change.connection, execution_id):
            if (approval.id, approval.status, approval.escalated) == (approval_id, "open", escalated):
                if why := await self._deciding.cancelled(change, record):
                    await cancel(change.connection, change.effects, record, change.now, user_id=None, reason=why)
                else:
                    await self._deciding.expire(change, Case(record, approval))
        await change.effects.write(change.connection, self._writer)
        change.effects.withdrawn = [id_ for id_ in change.effects.withdrawn if id_ not in settlement.held]
        change.effects.hand_to(settlement)
        return ""


def _asks(approver: str, dialect: str) -> Any:
    """The condition that somebody is among an approval's approvers."""
    if dialect == "postgresql":
        return cast(APPROVALS.c.approvers, JSONB).contains([approver])
    values = func.json_each(APPROVALS.c.approvers).table_valued("value")
    return select(values.c.value).where(values.c.value == approver).exists()


def _conditions(filters: Mapping[str, str | None]) -> list[Any]:
    known = {
        "id": col(Approval.id),
        "execution": col(Approval.execution_id),
        "workflow": col(Approval.workflow),
        "entity": col(Approval.entity_type),
        "entity_id": col(Approval.entity_id),
    }
    for name in filters:
        if name not in known:
            raise UserError(f"approvals can't be chosen by {name!r}; known are {', '.join(known)}")
    return [known[name] == value for name, value in filters.items() if value is not None]
