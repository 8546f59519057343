"""Audit rows of what became of signals: each says what was asked for, when, and when it was seen to be so."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from pipeline import Context, Event
from pipeline.ledger.units import Row

__all__ = ["Cause", "audit_row", "told"]


@dataclass(frozen=True, slots=True)
class Cause:
    """The event behind a row; a job keeps it as JSON.

    Attributes:
        event_id: Its id.
        routing_key: Its routing key.
        source: The source that it came from.
        route: The route that it took.
        user_id: Who asked for it.
    """

    event_id: str
    routing_key: str
    source: str
    route: str
    user_id: str | None = None

    @classmethod
    def of(cls, event: Event[Any], context: Context, user_id: str | None) -> Cause:
        """Of an event that is handled now."""
        return cls(event.id, event.routing_key, event.source, context.route, user_id)

    def as_json(self) -> dict[str, Any]:
        """As a job's payload keeps it."""
        return asdict(self)


def audit_row(
    action: str,
    cause: Cause,
    details: Mapping[str, Any],
    *,
    entity: tuple[str, str | None],
    notes: str | None = None,
    at: datetime | None = None,
) -> Row:
    """A row of ``audit_logs``.

    Args:
        action: What happened: ``workflow_signal_confirmed``, …
        cause: The event that asked for it.
        details: More about it, as JSON values.
        entity: Type and id of what it happened to.
        notes: What there is to say about it besides.
        at: When it happened (aware, UTC); by default now.
    """
    from pipeline_handlers.audit.tables import AuditLog

    now = datetime.now(UTC)
    return Row(
        AuditLog,
        {
            "action": action,
            "entity_type": entity[0],
            "entity_id": entity[1],
            "user_id": cause.user_id,
            "details": dict(details),
            "event_id": cause.event_id,
            "routing_key": cause.routing_key,
            "source": cause.source,
            "route": cause.route,
            "notes": notes or None,
            "occurred_at": at or now,
            "created_at": now,
        },
    )


def told(time: datetime | None) -> str | None:
    """A time as rows tell it, in UTC."""
    return None if time is None else time.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
