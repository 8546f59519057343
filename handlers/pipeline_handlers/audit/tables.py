"""The table of audit rows."""

from __future__ import annotations

from datetime import datetime
from typing import Any, ClassVar

from sqlalchemy import Index, MetaData, Text
from sqlmodel import Field, SQLModel

from pipeline.ledger.columns import NAMING, big_id, json_type, utcnow

__all__ = ["AuditLog"]


class AuditModel(SQLModel):
    """The base of this plugin's tables: metadata of their own, apart from other plugins' tables."""

    metadata: ClassVar[MetaData] = MetaData(naming_convention=NAMING)


def _text(**options: Any) -> Any:
    return Field(sa_type=Text, **options)


class AuditLog(AuditModel, table=True):
    """Who did what to which entity: one row for each audited event.

    Attributes:
        action: What was done (``workflow_paused``).
        entity_type: What kind of thing it was done to.
        entity_id: Which one.
        user_id: Who did it.
        details: More about it, a JSON object; the column ``metadata``, a name that the class itself needs.
        event_id: The event's id.
        routing_key: The event's routing key.
        source: The source that it came from.
        route: The route that it took.
        outcome: In a ``finally`` stage what became of the event: ``handled``, ``filtered`` or ``dead``; else null.
        error: What ended the event's stages, if anything did.
        notes: Which of the columns above could not be filled, and why; null where all could.
        occurred_at: When the broker took the event.
        created_at: When the row was made.
    """

    __tablename__ = "audit_logs"
    __table_args__ = (Index(None, "entity_type", "entity_id"), Index(None, "event_id"), Index(None, "occurred_at"))

    id: int | None = Field(default=None, primary_key=True, sa_type=big_id())
    action: str = _text()
    entity_type: str | None = _text(default=None)
    entity_id: str | None = _text(default=None)
    user_id: str | None = _text(default=None)
    details: dict[str, Any] = Field(default_factory=dict, sa_type=json_type(), sa_column_kwargs={"name": "metadata"})
    event_id: str = _text()
    routing_key: str = _text()
    source: str = _text()
    route: str = _text()
    outcome: str | None = _text(default=None)
    error: str | None = _text(default=None)
    notes: str | None = _text(default=None)
    occurred_at: datetime
    created_at: datetime = Field(default_factory=utcnow)
