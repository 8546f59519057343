"""Events to publish, and the books of what was published."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["KINDS", "Sent", "admin_event", "keyed_event", "ordered_by_workflow"]

KINDS = ("paused", "resumed")
"""Admin events that leave their workflow running, so that it can be signalled again and again."""


@dataclass(frozen=True, slots=True)
class Sent:
    """One message, as it is published.

    Attributes:
        id: Its message id.
        routing_key: What it is routed by.
        body: Its bytes.
        raw: Publish the body as the stream's entry itself, with no AMQP message around it (natively only).
    """

    id: str
    routing_key: str
    body: bytes
    raw: bool = False

    @property
    def data(self) -> dict[str, Any]:
        """What the body says."""
        data: dict[str, Any] = json.loads(self.body)
        return data


def admin_event(id_: str, workflow_id: str | None, kind: str = "paused") -> Sent:
    """The reference's event; without a workflow id, one that no signal can be made of."""
    data = {
        "event_type": f"admin.workflow.{kind}",
        "workflow_id": workflow_id,
        "bom_id": f"bom-{id_}",
        "admin_id": "user-uuid-54321",
        "timestamp": "2025-12-16T19:45:00Z",
    }
    kept = {name: value for name, value in data.items() if value is not None}
    return Sent(id_, f"admin.workflow.{kind}", json.dumps(kept).encode())


def keyed_event(id_: str, key: str) -> Sent:
    """An event for the local handlers of the rig."""
    return Sent(id_, "job.started", json.dumps({"key": key}).encode())


def ordered_by_workflow(events: Sequence[Sent]) -> dict[str, list[str]]:
    """The ids that each workflow is to see, in the order of publishing."""
    found: dict[str, list[str]] = {}
    for event in events:
        found.setdefault(event.data["workflow_id"], []).append(event.id)
    return found
