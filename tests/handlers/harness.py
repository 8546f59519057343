"""What the engine does around a handler, in a few lines: build it, start it, hand it a batch, look at what it left."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

from pipeline import Context, Delivery, Event, Handler, Outcome, Setup

WHEN = 1_765_914_300_000  # 2025-12-16T19:45:00Z, the reference's example
LOG = logging.getLogger("pipeline.stage.test")


def reference_event(kind: str = "paused", *, id: str = "event-1", **changes: Any) -> Event:  # noqa: A002
    """The event of the reference; a change to None leaves the field out."""
    data: dict[str, Any] = {
        "event_type": f"admin.workflow.{kind}",
        "workflow_id": "bom-enrichment-uuid-12345",
        "bom_id": "bom-uuid-67890",
        "admin_id": "user-uuid-54321",
        "timestamp": "2025-12-16T19:45:00Z",
    }
    data = {name: value for name, value in {**data, **changes}.items() if value is not None}
    return make_event(f"admin.workflow.{kind}", data, id=id)


def make_event(routing_key: str, data: dict[str, Any], *, id: str = "event-1") -> Event:  # noqa: A002
    return Event(id, routing_key, data, {}, "application/json", b"{}", WHEN, "admin", "stream.platform.admin", 7)


def deliver(event: Event, outcome: Outcome | None = None, error: BaseException | None = None) -> Delivery:
    return Delivery(event, Context("stage", "route", "group", event.id, outcome=outcome, error=error))


@asynccontextmanager
async def started(
    kind: type[Handler[Any]], options: Mapping[str, Any] | None = None, **resources: Any
) -> AsyncIterator[Handler[Any]]:
    handler = kind(kind.Options.model_validate(options or {}))
    await handler.start(Setup("stage", "test", resources, LOG))
    try:
        yield handler
    finally:
        await handler.stop()


async def hand(handler: Handler[Any], *deliveries: Delivery) -> Sequence[BaseException | None]:
    errors = await handler.handle_batch(deliveries)
    return errors if errors is not None else [None] * len(deliveries)
