"""The keys of ``[stage.governance]``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Final, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationInfo, model_validator

from pipeline.jobs.contract import INLINE
from pipeline_handlers.governance.actions.smtp import SmtpOptions
from pipeline_handlers.governance.actions.webhook import WebhookOptions
from pipeline_handlers.governance.faults import Fault, Place, faults_at
from pipeline_handlers.governance.include import IncludeText, included
from pipeline_handlers.governance.workflows import EntityName, QueueName, WorkflowOptions, listed

__all__ = ["ANY_ENTITY", "GovernanceOptions", "SmtpOptions", "WebhookOptions", "WorkflowOptions"]

ANY_ENTITY: Final = "*"
"""Among ``entities``: whatever entity an event is about."""
_OUT_OF_THE_BOX: Final = ("policy", "assessment", "evidence")
_PLACEHOLDER: Final = re.compile(r"\{[^{}]*\}")
_ENTITY: Final = "{entity}"


class GovernanceOptions(BaseModel):
    """``[stage.governance]``: which changes of which entities trigger what."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    workflow: tuple[WorkflowOptions, ...] = Field((), description="The workflows' definitions.")
    include: Annotated[
        tuple[IncludeText, ...], BeforeValidator(listed, json_schema_input_type=str | tuple[str, ...])
    ] = Field(
        (), description="Files with more [[workflow]] tables: paths relative to this file, also with '*' and '**'."
    )
    entities: tuple[EntityName | Literal["*"], ...] = Field(
        (), description="Entities besides policy, assessment, evidence and those that workflows name; '*' for any."
    )
    queue: QueueName = Field(
        f"governance:{_ENTITY}", description="The queue of workflows that name none; {entity} stands for their entity."
    )
    use_queue: bool = Field(
        True, description="Whether workflows run on queues; false: in the runner, right after the event's commit."
    )
    status_field: str = Field("status", min_length=1, description="The field of an entity that holds its status.")
    updates_change_status: bool = Field(
        True, description="Whether an updated event whose old and new status differ is a status change, too."
    )
    log: bool = Field(False, description="Also log each change of state of executions and approvals, at level info.")
    smtp: SmtpOptions | None = Field(None, description="The mail server of notifications.")
    webhook: WebhookOptions = Field(default_factory=WebhookOptions, description="How webhooks are signed and guarded.")

    _context: Mapping[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="after")
    def _fits_together(self, info: ValidationInfo) -> GovernanceOptions:
        self._context = info.context or {}
        if found := [*self._repeated_names(), *self._impossible_actions(), *self._unknown_placeholders()]:
            raise faults_at(found)
        return self

    def _repeated_names(self) -> Iterator[Fault]:
        """A workflow's name stands for it in executions and chains of causes: no two may have the same."""
        places: dict[str, str] = {}
        for place, where, workflow in self._placed():
            first = places.setdefault(workflow.name, where)
            if first is not where:
                told = f"there are two workflows named {workflow.name!r} (the first: {first}): rename one of them"
                yield _fault(place, where, ("name",), told)

    def _impossible_actions(self) -> Iterator[Fault]:
        for place, where, workflow in self._placed():
            for index, action in enumerate(workflow.actions):
                if told := action.build().problem(self):
                    yield _fault(place, where, ("actions", index, "use"), told)

    def _unknown_placeholders(self) -> Iterator[Fault]:
        """A misspelt placeholder would become a part of a queue's name, which no worker serves that is told its queues.

        Looked for here and not in definitions, as one that is stored must stay usable.
        """
        if told := _wrong_placeholder(self.queue):
            yield Fault(("queue",), told, self.queue)
        for place, where, workflow in self._placed():
            if told := _wrong_placeholder(workflow.queue or ""):
                yield _fault(place, where, ("queue",), told)

    def _placed(self) -> Iterator[tuple[Place, str, WorkflowOptions]]:
        """Each workflow, with its place below this table and in words."""
        for index, workflow in enumerate(self.workflow):
            yield ("workflow", index), f"workflow[{index}]", workflow
        for one in included(self.include):
            yield ("include",), one.place, one.options

    @property
    def workflows(self) -> tuple[WorkflowOptions, ...]:
        """All workflows: those of the stage's own table, then those of the included files."""
        return (*self.workflow, *(one.options for one in included(self.include)))

    @property
    def known_entities(self) -> frozenset[str]:
        """The entities whose events the stage takes; with `ANY_ENTITY` among them, all."""
        return frozenset((*_OUT_OF_THE_BOX, *self.entities, *(workflow.entity for workflow in self.workflows)))

    @property
    def context(self) -> Mapping[str, Any]:
        """What the validators were given; a stored definition is validated with it again."""
        return self._context

    @property
    def queues(self) -> tuple[str, ...]:
        """The queues of all workflows, each once."""
        return tuple(dict.fromkeys(self.queue_of(workflow) for workflow in self.workflows))

    def queue_of(self, workflow: WorkflowOptions) -> str:
        """Where new executions of this workflow go."""
        uses_queue = self.use_queue if workflow.use_queue is None else workflow.use_queue
        return (workflow.queue or self.queue).replace(_ENTITY, workflow.entity) if uses_queue else INLINE


def _wrong_placeholder(queue: str) -> str:
    """What is wrong with a placeholder in a queue's name; empty where nothing is."""
    unknown = next((found for found in _PLACEHOLDER.findall(queue) if found != _ENTITY), "")
    return f"there is no placeholder {unknown!r}; a queue's name may have {_ENTITY!r}" if unknown else ""


def _fault(place: Place, where: str, key: Place, message: str) -> Fault:
    """A fault at a workflow's key; of an included workflow, at ``include``, with file and line in words."""
    return Fault(place, f"{where}: {message}") if place == ("include",) else Fault((*place, *key), message)
