"""Whether what has become of an entity ends an execution: ``cancel_on``, looked at where the execution would go on."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pipeline_handlers.governance.contract import EntityView

__all__ = ["DELETED", "is_earlier", "why_cancelled"]

DELETED = "deleted"
"""Among the statuses of ``cancel_on``: the entity's deletion."""


def why_cancelled(view: EntityView, record: Any, cancel_on: Collection[str]) -> str:
    """Why an execution is to be cancelled, by its entity's record; empty where it is not.

    The job that an event of ``cancel_on`` leaves may come after the one that runs the execution: the record is as new
    as the event. What the execution did to the entity itself does not end it.

    Args:
        view: The entity's record.
        record: The execution's row.
        cancel_on: The statuses that end it.
    """
    if not cancel_on:
        return ""
    became = DELETED if view.deleted else view.status
    if became not in cancel_on or view.status_at <= record.event_time:
        return ""
    if view.status_event.startswith(f"{record.id}/"):
        return ""
    return f"{view.type}/{view.id} became {became}"


def is_earlier(record: Any, payload: Mapping[str, Any]) -> bool:
    """Whether an earlier event than the one of a job ``cancel`` triggered the execution.

    Streams may be made anew, and an entity may have several: times tell which was first. Those that the broker took in
    one millisecond are told apart by their places, where they are of one stream.

    Args:
        record: The execution's row.
        payload: The job's.
    """
    if record.event_id == payload.get("event_id") or record.id == payload.get("caused_by"):
        return False
    time, stream = int(payload["time"]), payload.get("stream")
    if record.event_time != time or record.event.get("stream") != stream:
        return bool(record.event_time <= time)
    return bool(record.event_offset <= int(payload["offset"]))
