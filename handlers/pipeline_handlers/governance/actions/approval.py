"""The action ``approval``: somebody must agree before the execution goes on; meanwhile it waits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from pipeline import Reject, Row
from pipeline.config.models import Seconds
from pipeline.jobs.contract import NewJob
from pipeline_handlers.governance.actions.notice import NOTICE_JOB, Notice
from pipeline_handlers.governance.actions.notify import NotifyAction
from pipeline_handlers.governance.actions.records import IGNORE, about
from pipeline_handlers.governance.actions.values import ActionTexts, names
from pipeline_handlers.governance.contract import WAIT, Action, Step, Wait
from pipeline_handlers.governance.planning import timer_job_id
from pipeline_handlers.governance.tables import Approval
from pipeline_handlers.governance.workflows import NotEmpty

if TYPE_CHECKING:
    from pipeline_handlers.governance.options import GovernanceOptions

__all__ = [
    "ApprovalAction", "ApprovalKeys", "ApprovalOptions", "ApprovalStep", "Escalation", "after_timeout", "approval_id",
    "escalate", "notice_job", "open_step", "timer",
]  # fmt: skip

_TEN_YEARS: Final = 315_360_000
_Timeout = Annotated[Seconds, Field(gt=0, le=_TEN_YEARS)]
_Decision = Literal["reject", "approve"]


class ApprovalKeys(BaseModel):
    """What one step of an approval says: who decides, and what happens when they don't."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    approvers: ActionTexts | None = Field(None, description="Who may decide; 'owner' for the entity's owner.")
    mode: Literal["any", "all", "quorum"] = Field(
        "any", description="Whether any of them, all, or a quorum must grant it."
    )
    quorum: int | None = Field(None, ge=1, description="How many must grant it, with mode = 'quorum'.")
    timeout: _Timeout | None = Field(None, description="How long there is time, as in '7d'; without it, for ever.")
    on_timeout: Literal["reject", "approve", "escalate"] = Field(
        "reject", description="What a time-out means: a rejection, a grant, or that others are to decide."
    )
    escalate_to: ActionTexts | None = Field(
        None, description="The others: any one of them decides, in the same time again."
    )
    default: _Decision = Field("reject", description="What it means when the others let the time pass, too.")
    notify: Notice | None = Field(None, description="How those who are asked are told of it; without it, not at all.")

    @model_validator(mode="after")
    def _keys_agree(self) -> ApprovalKeys:
        if self.mode == "quorum" and self.quorum is None:
            raise ValueError("mode = 'quorum' needs the key quorum: how many must grant it")
        if self.mode != "quorum" and self.quorum is not None:
            raise ValueError("quorum has a meaning with mode = 'quorum' only")
        if self.timeout is None and (without := self.model_fields_set & {"on_timeout", "escalate_to", "default"}):
            raise ValueError(f"{min(without)} has a meaning with a timeout only")
        escalates = self.on_timeout == "escalate"
        if escalates and self.escalate_to is None:
            raise ValueError("on_timeout = 'escalate' needs the key escalate_to: who is to decide then")
        if not escalates and (without := self.model_fields_set & {"escalate_to", "default"}):
            raise ValueError(f"{min(without)} has a meaning with on_timeout = 'escalate' only")
        self._quorum_can_be_reached()
        return self

    def _quorum_can_be_reached(self) -> None:
        texts = [template.text for template in self.approvers or ()]
        if self.quorum is None or not texts or any("{{" in text for text in texts):
            return  # how many a template names is known when it is rendered
        known = {name.strip() for text in texts for name in text.split(",") if name.strip()}
        if self.quorum > len(known):
            raise ValueError(_unreachable(self.quorum, len(known)))


class ApprovalStep(ApprovalKeys):
    """One of several ``steps``."""

    approvers: ActionTexts = Field(description="Who may decide; 'owner' for the entity's owner.")


class ApprovalOptions(ApprovalKeys):
    """``{ use = "approval", … }``: the keys of one step, or several ``steps``."""

    steps: Annotated[tuple[ApprovalStep, ...], NotEmpty] | None = Field(
        None, description="Several steps instead: each begins when the one before it is granted."
    )
    on_reject: Literal["fail"] = Field("fail", description="What a rejection means: the execution fails.")

    @model_validator(mode="after")
    def _one_step_or_several(self) -> ApprovalOptions:
        own = self.model_fields_set & ApprovalKeys.model_fields.keys()
        if self.steps is not None and own:
            raise ValueError(f"{min(own)} can't stand beside steps: write it into each of them")
        if self.steps is None and self.approvers is None:
            raise ValueError("approvers is missing: name who may decide, or several steps = [{ approvers = … }, …]")
        return self

    def ordered(self) -> Sequence[ApprovalKeys]:
        """The steps in order, at least one."""
        return self.steps or (self,)


@dataclass(frozen=True, slots=True)
class Escalation:
    """What an approval becomes when its time-out passes it on.

    Attributes:
        values: Columns of its row: ``approvers``, ``mode``, ``quorum``, ``escalated`` and ``due_at``.
        job: The next time-out.
        notice: What tells the others of it; None where nothing does.
    """

    values: Mapping[str, Any]
    job: NewJob
    notice: NewJob | None = None


class ApprovalAction(Action[ApprovalOptions]):
    """Asks for an approval, and waits for its end; the approvals' own functions then go on with the execution."""

    name = "approval"
    Options: ClassVar[type[BaseModel]] = ApprovalOptions

    def __init__(self, options: ApprovalOptions) -> None:
        super().__init__(options)
        self.notices = tuple(NotifyAction(keys.notify) if keys.notify else None for keys in options.ordered())
        """What tells of each step."""

    def problem(self, settings: GovernanceOptions) -> str:
        """Why a notice can never be sent."""
        return next(filter(None, (one.problem(settings) for one in self.notices if one is not None)), "")

    async def stop(self) -> None:
        """Close the connections that notices keep."""
        for one in self.notices:
            if one is not None:
                await one.stop()

    async def run(self, step: Step) -> Wait:
        """Open the first step. Raises `Reject` as `open_step` does."""
        row, job = open_step(self.options, 0, step)
        step.add(row)
        for left in (job, notice_job(self.options, 0, row.values["id"], 0, step)):
            if left is not None:
                step.enqueue(left)
        return WAIT


def approval_id(step: Step, index: int) -> str:
    """The id of one step's approval: ``<execution>/<position>/<index>``, with ``/<round>`` after a retry."""
    first = f"{step.key}/{index}"
    return f"{first}/{step.round}" if step.round else first


def timer(approval: str, escalated: int, due_at: datetime, step: Step) -> NewJob:
    """The job that fires when an approval's time is over."""
    return NewJob(
        id=timer_job_id(approval, escalated),
        queue=step.queue,
        payload={"kind": "timeout", "approval_id": approval, "escalated": escalated},
        due_at=due_at,
        stage=step.stage,
    )


def notice_job(options: ApprovalOptions, index: int, approval: str, escalated: int, step: Step) -> NewJob | None:
    """The job that tells those who are asked by a step; None where they are not to be told."""
    if options.ordered()[index].notify is None:
        return None
    payload = {"kind": "notice", "approval_id": approval, "escalated": escalated}
    return NewJob(f"{NOTICE_JOB}{approval}:{escalated}", step.queue, payload, stage=step.stage)


def open_step(options: ApprovalOptions, index: int, step: Step) -> tuple[Row, NewJob | None]:
    """The row of a step's approval, and the job of its time-out if it has one.

    Args:
        options: The action's options.
        index: Which of `ApprovalOptions.ordered`.
        step: Whose values the templates see; `Step.now` is when its time begins.

    Raises:
        Reject: One of the approvers' templates names nobody, or they are fewer than the quorum.
    """
    keys = options.ordered()[index]
    # Every template must name somebody: without one of them, fewer would agree than the definition asks for.
    approvers = names(step, keys.approvers or (), "the approver", all_needed=True)
    if keys.quorum is not None and keys.quorum > len(approvers):
        raise Reject(_unreachable(keys.quorum, len(approvers)), kind="nobody")
    due_at = step.now + timedelta(seconds=keys.timeout) if keys.timeout is not None else None
    made = approval_id(step, index)
    values = {
        "id": made,
        "position": step.position,
        "step": index,
        "workflow": step.workflow,
        "mode": keys.mode,
        "quorum": keys.quorum or (len(approvers) if keys.mode == "all" else 1),
        "approvers": list(approvers),
        "status": "open",
        "escalated": 0,
        "due_at": due_at,
    }
    return Row(Approval, about(step) | values, IGNORE), timer(made, 0, due_at, step) if due_at is not None else None


def after_timeout(options: ApprovalOptions, index: int, escalated: int) -> Literal["reject", "approve", "escalate"]:
    """What the time-out of a step's approval means, that was passed on `escalated` times."""
    keys = options.ordered()[index]
    return keys.default if escalated else keys.on_timeout


def escalate(options: ApprovalOptions, index: int, approval: str, step: Step) -> Escalation:
    """What becomes of a step's approval whose time-out passes it on.

    The others take the place of those who were asked first: whoever of them decides first, decides. A grant that one
    of the first gave counts only where they are among the others, too.

    Raises:
        Reject: The templates of `escalate_to` name nobody: treat it as `ApprovalKeys.default` says.
    """
    keys = options.ordered()[index]
    others = names(step, keys.escalate_to or (), "escalate_to")
    due_at = step.now + timedelta(seconds=keys.timeout or 0.0)
    values = {"approvers": list(others), "mode": "any", "quorum": 1, "escalated": 1, "due_at": due_at}
    return Escalation(values, timer(approval, 1, due_at, step), notice_job(options, index, approval, 1, step))


def _unreachable(quorum: int, known: int) -> str:
    return f"a quorum of {quorum} can't be reached by {known} approver{'' if known == 1 else 's'}"
