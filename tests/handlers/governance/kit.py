"""What the tests of governance share: small actions, options of a stage, events, and a handler to hand them to."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from pipeline import Context, Delivery, Event, Row, Setup
from pipeline.ledger.database import Database
from pipeline_handlers.governance.contract import Action, Step
from pipeline_handlers.governance.handler import GovernanceHandler
from pipeline_handlers.governance.options import GovernanceOptions
from tests.handlers.harness import WHEN

STAGE = "governance"


class NoteOptions(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    text: str = Field(min_length=1, description="What to note.")
    tone: Literal["dry", "warm"] = "dry"
    people: tuple[str, ...] = ()


class NoteAction(Action[NoteOptions]):
    """A small action that does nothing."""

    name = "note"
    Options = NoteOptions
    timeout = 7.0
    stopped = 0

    async def run(self, step: Step) -> Mapping[str, Any]:
        return {"text": self.options.text}

    async def stop(self) -> None:
        type(self).stopped += 1


class IdleAction(Action[Any]):
    name = "idle"

    async def run(self, step: Step) -> None:
        return None


NOTE: dict[str, Any] = {"use": "note", "text": "hello"}


def context(base: Path | str = "", *actions: type[Action[Any]], **more: Any) -> dict[str, Any]:
    return {"extensions": {"governance_actions": actions or (NoteAction, IdleAction)}, "base": base, **more}


def workflow(**changes: Any) -> dict[str, Any]:
    """A table of ``[[stage.governance.workflow]]``; a change to None leaves the key out."""
    table = {"name": "review", "entity": "policy", "trigger": "on_create", "actions": [NOTE], **changes}
    return {key: value for key, value in table.items() if value is not None}


def options(*workflows: Mapping[str, Any], base: Path | str = "", **keys: Any) -> GovernanceOptions:
    return GovernanceOptions.model_validate({"workflow": list(workflows), **keys}, context=context(base))


def entity_event(change: str, *, entity: str = "policy", id: str = "e-1", **data: Any) -> Event:  # noqa: A002
    """An event about ``p-1``; a field that is None is left out."""
    fields = {"entity_type": entity, "entity_id": "p-1", "actor_id": "ann", "old": {}, "new": {}, **data}
    fields = {key: value for key, value in fields.items() if value is not None}
    return an_event(f"governance.{entity}.{change}", fields, id=id)


def status_event(old: str | None, new: str, *, change: str = "status_changed", **data: Any) -> Event:
    return entity_event(change, **{"old": {"status": old} if old else {}, "new": {"status": new}, **data})


def an_event(
    routing_key: str,
    data: dict[str, Any],
    *,
    id: str = "e-1",  # noqa: A002
    at: int = WHEN,
    offset: int = 7,
) -> Event:
    return Event(
        id, routing_key, data, {"trace": "t"}, "application/json", b"{}", at, "governance", "stream.gov", offset
    )


def deliver(event: Event, **context_of: Any) -> Delivery:
    return Delivery(event, Context(STAGE, "route", "group", event.id, **context_of))


def rows_of(delivery: Delivery, table: type[Any]) -> list[dict[str, Any]]:
    """What the handler left for a table."""
    return [dict(row.values) for row in delivery.context.rows if isinstance(row, Row) and row.table is table]


@asynccontextmanager
async def governing(
    *workflows: Mapping[str, Any], database: Database | None = None, **keys: Any
) -> AsyncIterator[GovernanceHandler]:
    handler = GovernanceHandler(options(*workflows, **keys))
    await handler.start(Setup(STAGE, "test", log=logging.getLogger("pipeline.stage.governance"), database=database))
    try:
        yield handler
    finally:
        await handler.stop()


async def handled(*events: Event, workflows: Sequence[Mapping[str, Any]], **keys: Any) -> list[Delivery]:
    """What a handler with these workflows leaves of these events, none of which it refuses."""
    deliveries = [deliver(event) for event in events]
    async with governing(*workflows, **keys) as handler:
        assert await handler.handle_batch(deliveries) == [None] * len(deliveries)
    return deliveries
