"""The action ``change_status``: our record of the entity changes, and an event tells the others."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal

import orjson
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

from pipeline import Reject
from pipeline.connectors import Outgoing
from pipeline_handlers.governance.actions.records import change_entity, known_entity
from pipeline_handlers.governance.actions.values import FilledText, word
from pipeline_handlers.governance.contract import Action, EntityView, Step

__all__ = ["ChangeStatusAction", "ChangeStatusOptions"]


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


class ChangeStatusOptions(BaseModel):
    """``{ use = "change_status", … }``."""

    model_config = ConfigDict(extra="forbid", frozen=True, populate_by_name=True)

    to: FilledText = Field(description="The new status.")
    from_: Annotated[tuple[str, ...], BeforeValidator(_listed, json_schema_input_type=str | tuple[str, ...])] = Field(
        (), alias="from", description="Only where it has this status, or one of these."
    )
    otherwise: Literal["fail", "skip"] = Field(
        "fail", description="Where it has another: fail the execution, or skip the action."
    )


class ChangeStatusAction(Action[ChangeStatusOptions]):
    """Changes the entity's status, unless it has it already.

    The event ``governance.<entity>.status_changed`` has the step's key as its id. Its ``old`` and ``new`` hold the
    status, and no other field. Its actor is ``workflow:<name>``, and its ``causation`` says what led to it.
    """

    name = "change_status"
    Options: ClassVar[type[BaseModel]] = ChangeStatusOptions
    locks_entity = True

    async def run(self, step: Step) -> Mapping[str, Any]:
        """Leave the change and its event. Raises `Reject`: the entity is unknown or deleted, or has another status."""
        entity = known_entity(step)
        to = word(step, self.options.to, "the status")
        result = {"from": entity.status, "to": to}
        if entity.status == to:
            return result | {"changed": False, "reason": "it has this status already"}
        if self.options.from_ and entity.status not in self.options.from_:
            reason = f"the status is {entity.status!r}, not {' or '.join(repr(one) for one in self.options.from_)}"
            if self.options.otherwise == "fail":
                raise Reject(reason, kind="other_status")
            return result | {"changed": False, "reason": reason}
        field = step.settings.status_field
        changed = replace(entity, status=to, version=entity.version + 1, data={**entity.data, field: to})
        change_entity(step, changed, step.key)
        if not step.publish(_event(step, entity, changed, field)):
            return result | {"changed": True, "reason": "no event tells of it: the workflow's own came from no stream"}
        return result | {"changed": True, "event_id": step.key}


def _event(step: Step, before: EntityView, after: EntityView, field: str) -> Outgoing:
    data = {
        "entity_type": after.type,
        "entity_id": after.id,
        "actor_id": f"workflow:{step.workflow}",
        "old": {field: before.status},
        "new": {field: after.status},
        "causation": [dict(cause) for cause in step.causation],
    }
    return Outgoing(orjson.dumps(data), f"governance.{after.type}.status_changed", step.key)
