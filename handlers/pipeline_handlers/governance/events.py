"""The events of governance: what their routing keys and data say, checked and in one form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from typing_extensions import TypedDict

from pipeline import Event, Reject
from pipeline.config.problems import near
from pipeline.misfits import misfit

__all__ = [
    "APPROVAL", "CHANGES", "DECISIONS", "ON_CREATE", "ON_STATUS_CHANGE", "ON_UPDATE", "ApprovalDecided", "Cause",
    "Change", "Decision", "EntityChanged", "is_decision", "read_change", "read_decision",
]  # fmt: skip

APPROVAL: Final = "approval"
"""The word that stands in an entity's place in the keys of decisions; no entity may be named so."""
Decision: TypeAlias = Literal["granted", "rejected"]
DECISIONS: Final[tuple[Decision, ...]] = ("granted", "rejected")
CHANGES: Final = ("created", "updated", "status_changed", "deleted")

ON_CREATE: Final = "on_create"
ON_UPDATE: Final = "on_update"
ON_STATUS_CHANGE: Final = "on_status_change"

_PREFIX: Final = "governance"
_TRIGGERS: Final[Mapping[str, tuple[str, ...]]] = {
    "created": (ON_CREATE,),
    "updated": (ON_UPDATE,),
    "status_changed": (),
    "deleted": (),
}

Id: TypeAlias = Annotated[str, Field(min_length=1, max_length=500)]


class Cause(TypedDict):
    """One link of a causation chain: the execution of a workflow, and the entity (``policy/p-1``) it was about."""

    workflow: str
    entity: str
    execution_id: str


class EntityChanged(BaseModel):
    """The data of ``governance.<entity>.created|updated|status_changed|deleted``; other fields are left alone.

    Ids may be numbers; they are kept as texts.
    """

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True)

    entity_type: Id | None = Field(None, description="The entity's kind; by default as the routing key says.")
    entity_id: Id = Field(description="Which one.")
    actor_id: str | None = Field(None, description="Who changed it.")
    old: dict[str, Any] | None = Field(None, description="Its fields before, as far as they changed.")
    new: dict[str, Any] | None = Field(None, description="Its fields now, as far as they changed.")
    causation: tuple[Cause, ...] = Field((), description="What led to it, oldest first: change_status says it.")


class ApprovalDecided(BaseModel):
    """The data of ``governance.approval.granted|rejected``."""

    model_config = ConfigDict(frozen=True, coerce_numbers_to_str=True)

    execution_id: Id = Field(description="The execution that waits.")
    approver: Id = Field(description="Who decided.")
    comment: str | None = Field(None, description="What they said.")
    approval_id: Id | None = Field(None, description="Which approval; by default the execution's open one.")


@dataclass(frozen=True, slots=True)
class Change:
    """A change of an entity, as an event tells it.

    Attributes:
        kind: ``created``, ``updated``, ``status_changed`` or ``deleted``.
        old: The fields before, as far as the event names them.
        new: The fields now, as far as the event names them.
        old_status: Its status before; None where the event does not say.
        new_status: Its status now; None where the event does not say.
        triggers: What workflows it may trigger.
        causation: What led to it, oldest first.
    """

    entity_type: str
    entity_id: str
    kind: str
    actor_id: str | None
    old: Mapping[str, Any]
    new: Mapping[str, Any]
    old_status: str | None
    new_status: str | None
    triggers: tuple[str, ...]
    causation: Sequence[Cause] = ()

    @property
    def entity(self) -> str:
        """Type and id, as causation chains name it: ``policy/p-1``."""
        return f"{self.entity_type}/{self.entity_id}"

    @property
    def recorded(self) -> Mapping[str, Any]:
        """The fields to put into the entity's record.

        An event that a workflow caused tells all fields as they were when it was written; only those that it changed
        are news, and the others may have changed since.
        """
        if not self.causation:
            return self.new
        return {name: value for name, value in self.new.items() if name not in self.old or self.old[name] != value}

    @property
    def caused_by(self) -> str | None:
        """The execution that caused the event; None where no workflow did."""
        return self.causation[-1]["execution_id"] if self.causation else None


def is_decision(routing_key: str) -> bool:
    """Whether the key is one of ``governance.approval.…``."""
    return routing_key.startswith(f"{_PREFIX}.{APPROVAL}.")


def read_decision(event: Event[Any]) -> tuple[Decision, ApprovalDecided]:
    """``granted`` or ``rejected``, and who decided on what. Raises `Reject` where the event says neither."""
    for decision in DECISIONS:
        if event.routing_key == f"{_PREFIX}.{APPROVAL}.{decision}":
            return decision, _model(event, ApprovalDecided)
    word = event.routing_key.rpartition(".")[2]
    raise Reject(f"no decision: {event.routing_key!r}{near(word, DECISIONS)}", kind="unknown_change")


def read_change(event: Event[Any], status_field: str = "status", *, updates_change_status: bool = True) -> Change:
    """What the event says has changed.

    Args:
        event: ``governance.<entity>.<change>``; its data is validated here unless the engine did it.
        status_field: The field of ``old`` and ``new`` that holds the status.
        updates_change_status: Whether an ``updated`` event whose old and new status differ is a status change too.

    Raises:
        Reject: The routing key is no such one (kind ``unknown_change``), or the data lacks what the change needs or
            names another type of entity (kind ``invalid_data``).
    """
    entity_type, kind = _words(event.routing_key)
    data = _model(event, EntityChanged)
    if data.entity_type is not None and data.entity_type != entity_type:
        raise Reject(
            f"the routing key {event.routing_key!r} is about a {entity_type!r}, the data's entity_type is "
            f"{data.entity_type!r}",
            kind="invalid_data",
        )
    if data.new is None and kind != "deleted":
        raise Reject(f"the change {kind!r} needs 'new', an object of the entity's fields", kind="invalid_data")
    old, new = data.old or {}, data.new or {}
    before, after = _status(old.get(status_field)), _status(new.get(status_field))
    if kind == "status_changed" and after is None:
        raise Reject(f"the change 'status_changed' needs a text in new.{status_field}", kind="invalid_data")
    triggers = _TRIGGERS[kind]
    if (kind == "status_changed" and before != after) or (
        kind == "updated" and updates_change_status and None not in (before, after) and before != after
    ):
        triggers = (*triggers, ON_STATUS_CHANGE)
    return Change(
        entity_type, data.entity_id, kind, data.actor_id, old, new, before, after, triggers, data.causation
    )  # fmt: skip


def _words(routing_key: str) -> tuple[str, str]:
    words = routing_key.split(".")
    if len(words) != 3 or words[0] != _PREFIX or not words[1]:
        raise Reject(
            f"the routing key {routing_key!r} is not {_PREFIX}.<entity>.<{'|'.join(CHANGES)}>", kind="unknown_change"
        )
    if words[2] not in CHANGES:
        raise Reject(f"no change of an entity: {routing_key!r}{near(words[2], CHANGES)}", kind="unknown_change")
    return words[1], words[2]


def _status(value: Any) -> str | None:
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _model(event: Event[Any], kind: type[Any]) -> Any:
    """The data as this model: the engine's, where it validated the event for this stage."""
    if type(event.model) is kind:
        return event.model
    try:
        return kind.model_validate(event.data)
    except ValidationError as error:
        raise Reject(misfit(error, kind.__name__), kind="invalid_data") from None
