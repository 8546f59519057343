"""The notice of an approval: tells those who are asked that they are, by the means of the action ``notify``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BeforeValidator, Field

from pipeline.templates import Template, template_type
from pipeline_handlers.governance.actions.notify import NotifyOptions
from pipeline_handlers.governance.actions.values import filled, listed
from pipeline_handlers.governance.contract import Step

__all__ = ["NOTICE_JOB", "Notice", "NoticeStep", "notice_step"]

NOTICE_JOB: Final = "notice:"
"""What the id of a job that sends a notice begins with; the approval's id and how often it was escalated follow."""
_TO: Final = "{{ approval.approvers.join(',') }}"
_MESSAGE: Final = (
    "{{ entity.type }} {{ entity.id }} waits for your approval: workflow {{ execution.workflow }}, "
    "approval {{ approval.id }}"
)

NoticeText = Annotated[Template, template_type(extra=("entity", "execution", "approval")), AfterValidator(filled)]
"""A template that sees ``approval`` (``id``, ``step``, ``approvers``, ``due_at``) besides what an action's sees."""
NoticeTexts = Annotated[
    tuple[NoticeText, ...],
    BeforeValidator(listed, json_schema_input_type=NoticeText | tuple[NoticeText, ...]),
    Field(min_length=1),
]


class Notice(NotifyOptions):
    """``notify = { … }`` of an approval, or of one of its steps: the keys of the action ``notify``."""

    to: NoticeTexts = Field(
        _TO,
        validate_default=True,
        description="Whom it is for; by default all who may decide.",
    )
    subject: NoticeText | None = Field(None, description="What it is about, in a line.")
    message: NoticeText = Field(
        _MESSAGE,
        validate_default=True,
        description="What it says; by default what waits for whose approval.",
    )


@dataclass(slots=True)
class NoticeStep(Step):
    """The step of an approval as its notice sees it: with a key of its own, the same at every try."""

    notice: str = ""

    @property
    def key(self) -> str:
        """``<approval>:<how often it was escalated>``."""
        return self.notice


def notice_step(step: Step, approval: Mapping[str, Any]) -> NoticeStep:
    """The step whose templates see the approval, too.

    Args:
        step: The step that opened the approval, as it would be now.
        approval: The approval's row.
    """
    due_at = approval["due_at"]
    seen = {
        "id": approval["id"],
        "step": approval["step"],
        "approvers": list(approval["approvers"]),
        "due_at": None if due_at is None else due_at.isoformat(),
    }
    values = {one.name: getattr(step, one.name) for one in fields(Step)}
    values["variables"] = {**step.variables, "approval": seen}
    return NoticeStep(**values, notice=f"{approval['id']}:{approval['escalated']}")
