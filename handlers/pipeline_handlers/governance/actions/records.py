"""Our record of an entity, as actions change it."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import update

from pipeline import Reject
from pipeline_handlers.governance.contract import EntityView, Step
from pipeline_handlers.governance.records import table_of
from pipeline_handlers.governance.tables import Entity

__all__ = ["IGNORE", "about", "change_entity", "known_entity"]

IGNORE: Final = "ignore"
"""For `pipeline.Row`: a row whose key is there already is left as it is."""


def about(step: Step) -> dict[str, Any]:
    """The values that rows of all actions have in common."""
    return {
        "execution_id": step.execution_id,
        "entity_type": step.entity.type,
        "entity_id": step.entity.id,
        "created_at": step.now,
    }


def known_entity(step: Step) -> EntityView:
    """The entity. Raises `Reject` where there is no record of it, or it is deleted."""
    entity = step.entity
    if entity.deleted:
        raise Reject(f"{entity.type} {entity.id!r} is deleted", kind="deleted_entity")
    if entity.version < 1:
        raise Reject(f"nothing is known of {entity.type} {entity.id!r}", kind="unknown_entity")
    return entity


def change_entity(step: Step, after: EntityView, event_id: str | None = None) -> None:
    """Leave the change of the record.

    When the broker took the newest event about the entity stays as it was: what is on its way already is no older than
    that, and what it says must not be lost.

    Args:
        step: Whose effect this is.
        after: The entity as it is to be.
        event_id: The event that tells of the change, if one does; when it comes back, it is known already.
    """
    table = table_of(Entity)
    values = {"status": after.status, "data": dict(after.data), "version": after.version, "updated_at": step.now}
    if event_id is not None:
        values["event_id"] = event_id
    if after.status != step.entity.status:
        values |= {"status_event": step.key, "status_at": int(step.now.timestamp() * 1000)}
    step.execute(update(table).where(table.c.entity_type == after.type, table.c.entity_id == after.id).values(values))
