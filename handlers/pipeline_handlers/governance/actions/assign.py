"""The action ``assign``: somebody takes a role on the entity, and whoever had it gives it up."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from typing import Annotated, Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field
from sqlalchemy import Update, exists, update

from pipeline import Reject, Row
from pipeline_handlers.governance.actions.records import IGNORE, about, change_entity, known_entity
from pipeline_handlers.governance.actions.values import OWNER, FilledText, name
from pipeline_handlers.governance.contract import Action, Step
from pipeline_handlers.governance.records import table_of
from pipeline_handlers.governance.tables import Assignment

__all__ = ["AssignAction", "AssignOptions"]


class AssignOptions(BaseModel):
    """``{ use = "assign", … }``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    to: FilledText = Field(description="Who takes the role.")
    role: Annotated[str, Field(min_length=1, max_length=100, pattern=r"^[A-Za-z_][A-Za-z0-9_.-]*$")] = Field(
        OWNER, description="Which role; it is the field of the entity's data, too."
    )


class AssignAction(Action[AssignOptions]):
    """Leaves an assignment, and ends the one before.

    Our record of the entity names the new holder in the field of the role, so that later actions and workflows see
    it; no event tells of that.
    """

    name = "assign"
    Options: ClassVar[type[BaseModel]] = AssignOptions
    locks_entity = True

    async def run(self, step: Step) -> Mapping[str, Any]:
        """Leave it. Raises `Reject`: the entity is unknown or deleted, or the template does not name one person."""
        entity = known_entity(step)
        if self.options.role == step.settings.status_field:
            raise Reject(f"{self.options.role!r} is the field of the status, and no role", kind="invalid_value")
        role, assignee = self.options.role, name(step, self.options.to, "the assignee")
        before = entity.data.get(role)
        step.add(Row(Assignment, about(step) | {"key": step.key, "role": role, "assignee": assignee}, IGNORE))
        step.execute(_ended(step, role))
        if before != assignee:
            change_entity(step, replace(entity, version=entity.version + 1, data={**entity.data, role: assignee}))
        return {"role": role, "assignee": assignee, "before": before if isinstance(before, str) else None}


def _ended(step: Step, role: str) -> Any:
    """End all but the newest: by that it does not matter how many assignments one transaction writes before it."""
    held = table_of(Assignment).c
    return (
        _superseded()
        .where(held.entity_type == step.entity.type, held.entity_id == step.entity.id, held.role == role)
        .values(ended_at=step.now)
    )


@cache
def _superseded() -> Update:
    """An update of the assignments that hold although there is a newer one; made once, since that takes a while."""
    table = table_of(Assignment)
    held, newer = table.c, table.alias("newer").c
    return update(table).where(
        held.ended_at.is_(None),
        exists().where(
            newer.entity_type == held.entity_type,
            newer.entity_id == held.entity_id,
            newer.role == held.role,
            newer.id > held.id,
            newer.ended_at.is_(None),
        ),
    )
