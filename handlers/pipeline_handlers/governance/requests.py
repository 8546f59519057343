"""Requests to decide on an approval: checked, then refused or recorded, in one transaction with what follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from sqlalchemy import insert, select

from pipeline.errors import Reject, Retry
from pipeline.ledger.clean import clean_text
from pipeline_handlers.governance.actions.approval import ApprovalAction
from pipeline_handlers.governance.audit import audit_row
from pipeline_handlers.governance.deciding import DECISIONS, Case, Deciding
from pipeline_handlers.governance.steering import Change
from pipeline_handlers.governance.transitions import approvals_of, cancel, lock

__all__ = ["Decided", "Decision", "Request", "Requests"]

Decision = Literal["granted", "rejected"]
_NOT_YET: Final = 1.0
"""Seconds after which an approval that is not open yet may be."""


@dataclass(frozen=True, slots=True)
class Decided:
    """What a decision came to.

    Attributes:
        approval_id: The approval.
        execution_id: The execution that waits for it.
        status: The approval's status now; ``open`` where others have to decide, too.
        repeated: Whether it had been decided so before, and nothing was changed.
    """

    approval_id: str
    execution_id: str
    status: str
    repeated: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """Somebody's decision, as it was sent. The attributes are the arguments of `Approvals.decide`."""

    execution_id: str
    approver: str
    decision: Decision
    comment: str | None
    request_id: str
    approval_id: str | None


class Requests:
    """Answers requests. Who has decided stays with it; what is refused is audited.

    Args:
        deciding: Ends the approvals that are decided.
    """

    def __init__(self, deciding: Deciding) -> None:
        self._deciding = deciding

    async def answer(self, change: Change, request: Request) -> Decided | Exception:
        """Decide, or return why not: an error to be raised once the transaction, with its audit row, is committed."""
        record = (await lock(change.connection, [request.execution_id])).get(request.execution_id)
        if record is None:
            return Reject(f"there is no execution {request.execution_id!r}", kind="unknown_execution")
        approvals = await approvals_of(change.connection, record.id)
        approval = _meant(approvals, request)
        if (before := await self._before(change, approvals, approval, request)) is not None:
            return before
        if approval is None or approval.status != "open":
            return await self._refuse_closed(change, record, approval, request)
        told = f"{request.approver!r} {{}} {approval.id}"
        if request.approver not in approval.approvers:
            return _refuse(change, record, request, told.format("is not entitled to decide on"), "not_entitled",
                           approval.id)  # fmt: skip
        if decided := await self._decided(change, approval, request):
            return _refuse(change, record, request, told.format(f"has {decided}, which stays,"), "already_decided",
                           approval.id)  # fmt: skip
        case = Case(record, approval)
        return await self._cancelled(change, case, request) or await self._record(change, case, request)

    async def _cancelled(self, change: Change, case: Case, request: Request) -> Exception | None:
        """What has become of the entity ends the execution, and so does this, where that job is still to come."""
        why = await self._deciding.cancelled(change, case.record)
        if not why:
            return None
        await cancel(change.connection, change.effects, case.record, change.now, user_id=None, reason=why)
        told = f"the execution {case.record.id} waits for no such decision any more: {why}"
        return _refuse(change, case.record, request, told, "approval_closed", case.approval.id)

    async def _before(self, change: Change, approvals: Sequence[Any], meant: Any, request: Request) -> Decided | None:
        """What this request has come to before, or this approver's same decision; None where it is new."""
        by_id = {approval.id: approval for approval in approvals}
        for one in await change.connection.execute(select(DECISIONS).where(DECISIONS.c.approval_id.in_(list(by_id)))):
            same = (one.approver, one.decision) == (request.approver, request.decision)
            if one.request_id == request.request_id or (same and meant is not None and one.approval_id == meant.id):
                approval = by_id[one.approval_id]
                return Decided(approval.id, approval.execution_id, approval.status, repeated=True)
        return None

    async def _refuse_closed(self, change: Change, record: Any, approval: Any, request: Request) -> Exception:
        if approval is None and request.approval_id is not None:
            told = f"the execution {record.id} has no approval {request.approval_id!r}"
            return _refuse(change, record, request, told, "unknown_approval")
        if request.approval_id is None and await self._is_to_come(change, record):
            return Retry(f"the execution {record.id} has not come to its approval yet", after=_NOT_YET)
        told = f"approval {approval.id} is {approval.status}" if approval else f"it is {record.status}"
        told = f"the execution {record.id} waits for no such decision: {told}"
        return _refuse(change, record, request, told, "approval_closed", approval.id if approval else None)

    async def _is_to_come(self, change: Change, record: Any) -> bool:
        """Whether an execution that has no open approval will ask for one."""
        if record.status != "in_progress":
            return False
        definition = await self._deciding.definition(change, record)
        return any(planned.use == ApprovalAction.name for planned in definition.actions[record.position :])

    async def _decided(self, change: Change, approval: Any, request: Request) -> str | None:
        mine = (DECISIONS.c.approval_id == approval.id, DECISIONS.c.approver == request.approver)
        return (await change.connection.execute(select(DECISIONS.c.decision).where(*mine))).scalar_one_or_none()

    async def _record(self, change: Change, case: Case, request: Request) -> Decided:
        row = {
            "approval_id": case.approval.id,
            "approver": request.approver,
            "request_id": request.request_id,
            "decision": request.decision,
            "comment": None if request.comment is None else clean_text(request.comment),
            "decided_at": change.now,
        }
        await change.connection.execute(insert(DECISIONS), [row])
        change.effects.rows.append(
            audit_row(
                "approval_decision", case.record, now=change.now, user_id=request.approver,
                position=case.approval.position, approval_id=case.approval.id, decision=request.decision,
                comment=row["comment"], request_id=request.request_id,
            )
        )  # fmt: skip
        verdict = await self._deciding.conclude(change, case, user_id=request.approver, comment=row["comment"])
        return Decided(case.approval.id, case.record.id, verdict)


def _meant(approvals: Sequence[Any], request: Request) -> Any:
    """The approval that a request is about: the one it names, else the open one, else the last."""
    if request.approval_id is not None:
        return next((one for one in approvals if one.id == request.approval_id), None)
    return next((one for one in approvals if one.status == "open"), approvals[-1] if approvals else None)


def _refuse(
    change: Change, record: Any, request: Request, reason: str, kind: str, approval_id: str | None = None
) -> Reject:
    change.effects.rows.append(
        audit_row(
            "approval_refused", record, now=change.now, user_id=clean_text(request.approver),
            approval_id=approval_id, decision=request.decision, reason=clean_text(reason), kind=kind,
            request_id=request.request_id,
        )
    )  # fmt: skip
    return Reject(reason, kind=kind)
