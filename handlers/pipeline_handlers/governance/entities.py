"""The record of each governed entity: one statement that inserts or brings up to date, the same on both databases."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import Insert, case, func, literal_column, null, or_, text
from sqlalchemy.dialects import postgresql, sqlite

from pipeline import Event
from pipeline.ledger.clean import clean_id
from pipeline.ledger.units import Row
from pipeline_handlers.governance.events import Change
from pipeline_handlers.governance.tables import Entity

__all__ = ["entity_row", "upsert_entity"]

_NOT_OURS = "NOT EXISTS (SELECT 1 FROM workflow_executions AS ours WHERE ours.id = substr(excluded.event_id, 1, 36))"
"""Whether an event's id begins with the UUID of no execution of this database."""

_MERGED_ON_SQLITE = """(
SELECT json_group_object(key, CASE type WHEN 'true' THEN json('true') WHEN 'false' THEN json('false')
    WHEN 'object' THEN json(value) WHEN 'array' THEN json(value)
    WHEN 'real' THEN json(printf('%!.20g', value)) ELSE value END)
FROM (SELECT key, type, value FROM json_each(excluded.data)
      UNION ALL
      SELECT key, type, value FROM json_each(entities.data)
      WHERE key NOT IN (SELECT key FROM json_each(excluded.data))))"""
"""SQLite's own json_patch would merge deeply and drop nulls, which PostgreSQL's ``||`` does not. Values of SQL become
JSON again by their kind; a number would be cut to 15 digits."""


def upsert_entity(dialect: str, *, follow_up: bool = False) -> Insert:
    """The statement for a `Row` of `Entity`; build it once, and give it with every row.

    A follow-up is the event that tells of a step's change. The step has changed the record itself, perhaps long before
    the broker took the event, and what is known may be newer than what it says: it changes nothing that is known,
    unless the step was one of another pipeline, with a database of its own.

    An event that is older than the newest one applied, and that newest one itself when it comes again, change
    nothing. Else the fields that it names take the place of those known, whole and null included, and the others are
    kept; a status that it does not name is kept. A deletion keeps all that is known; an event that comes after it
    brings the entity back, with nothing but what that event says.
    """
    known: Any = Entity.__table__  # type: ignore[attr-defined]
    statement: Any = (postgresql.insert if dialect == "postgresql" else sqlite.insert)(known)
    new = statement.excluded
    merged: Any = known.c.data.op("||")(new.data) if dialect == "postgresql" else text(_MERGED_ON_SQLITE)
    revived = known.c.deleted_at.is_not(null()) & new.deleted_at.is_(null())
    deleted = known.c.deleted_at.is_(null()) & new.deleted_at.is_not(null())
    other_status = new.status.is_not(null()) & new.status.is_distinct_from(known.c.status)
    became = or_(revived, deleted, other_status)
    newer: Any = (new.changed_at >= known.c.changed_at) & (new.event_id != known.c.event_id)
    return statement.on_conflict_do_update(  # type: ignore[no-any-return]
        index_elements=[known.c.entity_type, known.c.entity_id],
        set_={
            "version": known.c.version + literal_column("1"),  # no parameter: so that many rows are one (`Recordsets`)
            "status": case((revived, new.status), else_=func.coalesce(new.status, known.c.status)),
            "data": case((revived, new.data), else_=merged),
            "deleted_at": new.deleted_at,
            "event_id": new.event_id,
            "changed_at": new.changed_at,
            "status_event": case((became, new.status_event), else_=known.c.status_event),
            "status_at": case((became, new.status_at), else_=known.c.status_at),
            "updated_at": new.updated_at,
        },
        where=newer & text(_NOT_OURS) if follow_up else newer,
    )


def entity_row(change: Change, event: Event[Any], now: datetime, upsert: Insert) -> Row:
    """What the event says of its entity, as a row to add."""
    return Row(
        Entity,
        {
            "entity_type": change.entity_type,
            "entity_id": change.entity_id,
            "version": 1,
            "status": change.new_status,
            "data": change.recorded,
            "deleted_at": now if change.kind == "deleted" else None,
            "event_id": clean_id(event.id),
            "changed_at": event.timestamp,
            "status_event": clean_id(event.id),
            "status_at": event.timestamp,
            "created_at": now,
            "updated_at": now,
        },
        upsert,
    )
