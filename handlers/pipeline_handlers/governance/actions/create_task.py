"""The action ``create_task``: something for somebody to do, as a row of ``tasks``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline import Reject, Row
from pipeline.config.models import Seconds
from pipeline_handlers.governance.actions.records import IGNORE, about
from pipeline_handlers.governance.actions.values import LONGEST_LINE, ActionText, FilledText, line, name, text
from pipeline_handlers.governance.contract import Action, Step
from pipeline_handlers.governance.tables import Task

__all__ = ["CreateTaskAction", "CreateTaskOptions"]

_TEN_YEARS = 315_360_000


class CreateTaskOptions(BaseModel):
    """``{ use = "create_task", … }``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    title: FilledText = Field(description="What is to be done, in a line.")
    description: ActionText | None = Field(None, description="More about it.")
    assignee: ActionText | None = Field(None, description="Who is to do it; 'owner' for the entity's owner.")
    priority: Literal["low", "normal", "high", "urgent"] = Field("normal", description="How pressing it is.")
    due: Annotated[Seconds, Field(le=_TEN_YEARS)] | None = Field(
        None, description="How long there is time, as in '3d'."
    )


class CreateTaskAction(Action[CreateTaskOptions]):
    """Leaves a task, once for each step."""

    name = "create_task"
    Options: ClassVar[type[BaseModel]] = CreateTaskOptions

    async def run(self, step: Step) -> Mapping[str, Any]:
        """Leave the row. Raises `Reject` where there is no title, or the assignee's template names nobody."""
        options = self.options
        title = line(step, options.title, LONGEST_LINE)
        if not title:
            raise Reject(f"the title {options.title.text!r} is empty", kind="no_title")
        assignee = name(step, options.assignee, "the assignee") if options.assignee is not None else None
        due = step.now + timedelta(seconds=options.due) if options.due is not None else None
        values = {
            "key": step.key,
            "title": title,
            "description": text(step, options.description) if options.description is not None else None,
            "assignee": assignee,
            "priority": options.priority,
            "status": "open",
            "due_at": due,
        }
        step.add(Row(Task, about(step) | values, IGNORE))
        return {"key": step.key, "assignee": assignee, "due_at": due.isoformat() if due else None}
