"""The keys of ``[[stage.governance.workflow]]`` and of its actions, checked against the installed actions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PrivateAttr,
    ValidationError,
    ValidationInfo,
    model_validator,
)

from pipeline.config.models import Seconds
from pipeline.config.problems import near
from pipeline.errors import PluginError
from pipeline.expressions import Condition, compile_expression
from pipeline.ledger.clean import clean_json
from pipeline_handlers.governance.contract import Action
from pipeline_handlers.governance.events import APPROVAL, ON_STATUS_CHANGE
from pipeline_handlers.governance.faults import Fault, faults_at, with_known_keys

__all__ = ["ActionOptions", "EntityName", "NotEmpty", "QueueName", "WorkflowOptions", "listed"]

_RESERVED: Final = ("use", "timeout_action")
_WORD: Final = re.compile(r"[A-Za-z0-9_-]{1,100}")
_HOOK: Final = "governance_actions"


def listed(value: object) -> object:
    """A lone text as a list of one."""
    return [value] if isinstance(value, str) else value


def _not_empty(items: tuple[Any, ...]) -> tuple[Any, ...]:
    if not items:
        raise ValueError("it must not be empty")
    return items


NotEmpty: Final = AfterValidator(_not_empty)
"""Beside a list's type: unlike ``min_length``, it does not complain of a list whose items are wrong."""


def _word(name: str) -> str:
    if not _WORD.fullmatch(name):
        raise ValueError(f"{name!r} is no word of a routing key: write letters, digits, '_' and '-'")
    if name == APPROVAL:
        raise ValueError(f"no entity can be named {APPROVAL!r}: governance.{APPROVAL}.… are the decisions on approvals")
    return name


EntityName = Annotated[str, AfterValidator(_word)]
"""A word of a routing key."""
QueueName = Annotated[str, Field(min_length=1, max_length=200)]
Statuses = Annotated[
    tuple[Annotated[str, Field(min_length=1)], ...],
    BeforeValidator(listed, json_schema_input_type=str | tuple[str, ...]),
]
EventCondition = Annotated[
    Condition,
    # Compiled here, as no workflow runs in `finally`: `outcome` and `error` are unknown to it.
    BeforeValidator(lambda text: compile_expression(text, want="bool") if isinstance(text, str) else text),
]


class ActionOptions(BaseModel):
    """One of a workflow's ``actions``: the keys beside these are the action's own options."""

    model_config = ConfigDict(extra="allow", frozen=True)

    use: str = Field(description="The action's name; 'pipeline plugins' lists them.")
    timeout_action: Seconds | None = Field(
        None, gt=0, description="How long one try of an action that calls other systems may take; by default its own."
    )

    _kind: type[Action[Any]] = PrivateAttr()
    _options: BaseModel = PrivateAttr()

    @model_validator(mode="after")
    def _fits_the_action(self, info: ValidationInfo) -> ActionOptions:
        kinds = _installed(info)
        kind = kinds.get(self.use)
        if kind is None:
            raise faults_at([Fault(("use",), f"there is no action {self.use!r}{near(self.use, kinds)}", self.use)])
        given = dict(self.model_extra or {})
        try:
            options = kind.Options.model_validate(given, context=info.context)
        except ValidationError as error:
            raise with_known_keys(error, kind.Options, f"action {self.use!r}", _RESERVED) from None
        self._kind, self._options = kind, options
        return self

    @property
    def seconds(self) -> float:
        """How long one try may take."""
        return self._kind.timeout if self.timeout_action is None else self.timeout_action

    @property
    def options(self) -> BaseModel:
        """The action's own options, validated."""
        return self._options

    def build(self) -> Action[Any]:
        """A new instance of the action."""
        return self._kind(self._options)

    def body(self) -> dict[str, Any]:
        """As it was written, in JSON values."""
        timeout = {} if self.timeout_action is None else {"timeout_action": self.timeout_action}
        written: dict[str, Any] = clean_json(self.model_extra or {})
        return {"use": self.use, **timeout, **written}


class WorkflowOptions(BaseModel):
    """``[[stage.governance.workflow]]``: what triggers it, and what it does."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    name: str = Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._:-]*$", max_length=100, description="Its name: no other has the same."
    )
    entity: EntityName = Field(description="What it is about: policy, assessment, evidence, or any other.")
    trigger: Literal["on_create", "on_update", "on_status_change"] = Field(description="Which change triggers it.")
    from_: Statuses = Field((), alias="from", description="With on_status_change: only from this status, or these.")
    to: Statuses = Field((), description="With on_status_change: only to this status, or these.")
    when: EventCondition | None = Field(None, description="Only events that meet this condition.")
    queue: QueueName | None = Field(None, description="The queue of its executions; by default the stage's.")
    use_queue: bool | None = Field(
        None, description="Whether it runs on a queue; false: in the runner, right after the event's commit."
    )
    cancel_on: Statuses = Field(
        (), description="Statuses that end what is under way, with its approvals and jobs; also 'deleted'."
    )
    actions: Annotated[tuple[ActionOptions, ...], NotEmpty] = Field(description="What it does, one after the other.")

    @model_validator(mode="after")
    def _statuses_fit_the_trigger(self) -> WorkflowOptions:
        found = [
            Fault((key,), f"{key!r} needs trigger = {ON_STATUS_CHANGE!r}, not {self.trigger!r}")
            for key, statuses in (("from", self.from_), ("to", self.to))
            if statuses and self.trigger != ON_STATUS_CHANGE
        ]
        if found:
            raise faults_at(found)
        return self

    def body(self) -> dict[str, Any]:
        """As it was written, in JSON values: keys that only repeat a default are left out."""
        written: Mapping[str, Any] = {
            "from": list(self.from_),
            "to": list(self.to),
            "when": None if self.when is None else self.when.text,
            "queue": self.queue,
            "use_queue": self.use_queue,
            "cancel_on": list(self.cancel_on),
        }
        return {
            "name": self.name,
            "entity": self.entity,
            "trigger": self.trigger,
            **{key: value for key, value in written.items() if value not in (None, [])},
            "actions": [action.body() for action in self.actions],
        }


def _installed(info: ValidationInfo) -> dict[str, type[Action[Any]]]:
    """The installed actions by name. Raises `PluginError` where what plugins offer can't be used."""
    extensions: Mapping[str, Sequence[Any]] = (info.context or {}).get("extensions", {})
    kinds: dict[str, type[Action[Any]]] = {}
    for kind in extensions.get(_HOOK, ()):
        if not (isinstance(kind, type) and issubclass(kind, Action) and hasattr(kind, "name")):
            raise PluginError(f"{_HOOK}() returned {kind!r}: return subclasses of Action, each with a name")
        other = kinds.setdefault(kind.name, kind)
        if other is not kind:
            both = " and ".join(f"{one.__module__}.{one.__qualname__}" for one in (other, kind))
            raise PluginError(f"two actions are named {kind.name!r} ({both}): rename one of them")
    return kinds
