"""How an approval comes to its end within a transaction: by decisions, or because its time is over."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from sqlalchemy import select, update

from pipeline.errors import Reject
from pipeline_handlers.governance.actions.approval import (
    ApprovalAction,
    ApprovalOptions,
    after_timeout,
    escalate,
    notice_job,
    open_step,
)
from pipeline_handlers.governance.actions.notice import notice_step
from pipeline_handlers.governance.audit import audit_row
from pipeline_handlers.governance.cancelling import why_cancelled
from pipeline_handlers.governance.contract import EntityView, Step
from pipeline_handlers.governance.planning import plan_step
from pipeline_handlers.governance.records import Records, table_of
from pipeline_handlers.governance.steering import Change
from pipeline_handlers.governance.tables import ApprovalDecision
from pipeline_handlers.governance.transitions import APPROVALS, action_of, close_approval, fail, go_on

if TYPE_CHECKING:
    from pipeline_handlers.governance.actions.notify import NotifyAction
    from pipeline_handlers.governance.definitions import Definition, Definitions
    from pipeline_handlers.governance.options import GovernanceOptions

__all__ = ["DECISIONS", "Case", "Deciding", "Verdict", "verdict_of"]

DECISIONS = table_of(ApprovalDecision)
Verdict = Literal["open", "granted", "rejected"]


def verdict_of(approvers: list[str], quorum: int, decisions: Mapping[str, str]) -> Verdict:
    """What decisions amount to: granted with so many grants, rejected once so many can't be reached any more.

    So with ``all`` one rejection rejects; with ``any`` all must reject; with ``quorum`` so many that too few are left.

    Args:
        approvers: Who is entitled; what others decided does not count.
        quorum: How many must grant it: 1 for ``any``, all of them for ``all``.
        decisions: ``granted`` or ``rejected``, by approver.
    """
    found = [decisions.get(approver) for approver in approvers]
    if found.count("granted") >= quorum:
        return "granted"
    return "rejected" if len(found) - found.count("rejected") < quorum else "open"


@dataclass(frozen=True, slots=True)
class Case:
    """An open approval, and the execution that waits for it; both are locked.

    Attributes:
        record: The execution's row.
        approval: The approval's row.
    """

    record: Any
    approval: Any


class Deciding:
    """Ends approvals, and lets their executions go on or fail.

    Args:
        definitions: The stage's definitions.
        settings: The stage's options.
        records: The statements.
    """

    def __init__(self, definitions: Definitions, settings: GovernanceOptions, records: Records) -> None:
        self._definitions = definitions
        self._settings = settings
        self._records = records

    async def definition(self, change: Change, record: Any) -> Definition:
        """The version that an execution started with. Raises `Reject` where it can't be used any more."""
        bodies = await self._records.bodies(change.connection, [record.definition_id])
        if record.definition_id not in bodies:
            raise Reject(f"its definition {record.definition_id} is not stored", kind="lost_definition")
        return self._definitions.restore(record.definition_id, bodies[record.definition_id])

    async def cancelled(self, change: Change, record: Any) -> str:
        """Why the execution ends by its ``cancel_on``, whose job is still to come; empty where it does not."""
        try:
            definition = await self.definition(change, record)
        except Reject:
            return ""
        if not definition.cancel_on:
            return ""
        return why_cancelled(await self._view(change, record), record, definition.cancel_on)

    async def conclude(self, change: Change, case: Case, *, user_id: str | None, comment: str | None = None) -> Verdict:
        """Look at an approval's decisions, and end it where they suffice; returns what they amount to."""
        found = await change.connection.execute(select(DECISIONS).where(DECISIONS.c.approval_id == case.approval.id))
        decisions = {row.approver: row.decision for row in found}
        verdict = verdict_of(case.approval.approvers, case.approval.quorum, decisions)
        if verdict == "granted":
            by = [approver for approver in case.approval.approvers if decisions.get(approver) == "granted"]
            await self.grant(change, case, {"granted_by": by}, user_id=user_id)
        elif verdict == "rejected":
            by = [approver for approver in case.approval.approvers if decisions.get(approver) == "rejected"]
            told = f": {comment}" if comment else ""
            await self.reject(change, case, "rejected", f"rejected by {', '.join(by)}{told}", user_id=user_id)
        return verdict

    async def grant(self, change: Change, case: Case, result: Mapping[str, Any], *, user_id: str | None) -> None:
        """The approval is granted: its next step is opened, or the execution goes on."""
        await close_approval(change.connection, change.effects, case.approval, "granted", change.now)
        self._audit(change, case, "approval_granted", user_id)
        try:
            options = self._options(await self.definition(change, case.record), case.approval.position)
            following = case.approval.step + 1
            if following < len(options.ordered()):
                step = await self._step(change, case)
                row, job = open_step(options, following, step)
                change.effects.rows.append(row)
                notice = notice_job(options, following, row.values["id"], 0, step)
                change.effects.jobs += [left for left in (job, notice) if left is not None]
                opened = {"step": following, "approvers": row.values["approvers"]}
                self._audit(change, case, "approval_opened", user_id, row.values["id"], **opened)
                return
        except Reject as error:
            await self._fail(change, case, str(error), user_id)
            return
        kept = {"approval_id": case.approval.id, **result}
        await go_on(
            change.connection, change.effects, case.record, change.now,
            action=ApprovalAction.name, result=kept, user_id=user_id,
        )  # fmt: skip

    async def reject(self, change: Change, case: Case, status: str, reason: str, *, user_id: str | None) -> None:
        """The approval ends as ``rejected`` or ``expired``, and its execution fails."""
        await close_approval(change.connection, change.effects, case.approval, status, change.now)
        self._audit(change, case, f"approval_{status}", user_id, reason=reason)
        await self._fail(change, case, reason, user_id)

    async def expire(self, change: Change, case: Case) -> None:
        """The approval's time is over: what that means, its definition says."""
        approval = case.approval
        try:
            options = self._options(await self.definition(change, case.record), approval.position)
            meaning: str = after_timeout(options, approval.step, approval.escalated)
        except Reject as error:
            await self.reject(change, case, "expired", f"its time was over, and {error}", user_id=None)
            return
        if meaning == "escalate":
            try:
                await self._escalate(change, case, options)
            except Reject:
                meaning = options.ordered()[approval.step].default  # nobody to pass it on to
            else:
                return
        if meaning == "approve":
            self._audit(change, case, "approval_expired", None, meaning=meaning)
            await self.grant(change, case, {"granted_by": [], "timeout": True}, user_id=None)
        else:
            await self.reject(change, case, "expired", "nobody decided in time", user_id=None)

    async def notice(self, change: Change, case: Case) -> tuple[NotifyAction, Step] | None:
        """What tells those who are asked, and the step that it is run with; None where nothing does.

        Raises `Reject` where the definition can't be used any more.
        """
        definition = await self.definition(change, case.record)
        action = definition.actions[case.approval.position].action
        self._options(definition, case.approval.position)
        notify: NotifyAction | None = action.notices[case.approval.step]
        if notify is None:
            return None
        return notify, notice_step(await self._step(change, case), case.approval._mapping)

    async def _escalate(self, change: Change, case: Case, options: ApprovalOptions) -> None:
        approval = case.approval
        passed = escalate(options, approval.step, approval.id, await self._step(change, case))
        await change.connection.execute(update(APPROVALS).where(APPROVALS.c.id == approval.id).values(**passed.values))
        change.effects.jobs += [passed.job, *([passed.notice] if passed.notice is not None else [])]
        self._audit(change, case, "approval_escalated", None, approvers=passed.values["approvers"])
        found = await change.connection.execute(select(APPROVALS).where(APPROVALS.c.id == approval.id))
        await self.conclude(change, Case(case.record, found.one()), user_id=None)

    async def _fail(self, change: Change, case: Case, reason: str, user_id: str | None) -> None:
        await fail(
            change.connection, change.effects, case.record, change.now,
            action=ApprovalAction.name, reason=reason, user_id=user_id,
        )  # fmt: skip

    def _options(self, definition: Definition, position: int) -> ApprovalOptions:
        action = definition.actions[position].action
        if not isinstance(action, ApprovalAction):
            raise Reject(f"the action {position} of {definition.id} is no approval", kind="lost_definition")
        return action.options

    async def _step(self, change: Change, case: Case) -> Step:
        """The step that opened the approval, as it would be now."""
        record = case.record
        view = await self._view(change, record)
        action = (await action_of(change.connection, record.id, case.approval.position))._mapping
        return plan_step(record, case.approval.position, action, view, self._settings, change.now)

    async def _view(self, change: Change, record: Any) -> EntityView:
        key = (record.entity_type, record.entity_id)
        return (await self._records.entities(change.connection, [key], ())).get(key) or EntityView(*key)

    def _audit(
        self, change: Change, case: Case, action: str, user_id: str | None, approval_id: str | None = None, **more: Any
    ) -> None:
        details = {"position": case.approval.position, "approval_id": approval_id or case.approval.id, **more}
        change.effects.rows.append(audit_row(action, case.record, now=change.now, user_id=user_id, **details))
