"""Programs that use governance without a stream: their file, their events, and what they leave in the database."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from sqlalchemy import select

from pipeline import Event
from pipeline.ledger.database import Database
from pipeline_handlers.governance.service import WorkflowService

FILE = """
[source.governance]
stream = "stream.governance"
group = "governance"

[[route]]
name = "govern"
match = "governance.#"
key = "data.entity_id"
stages = ["governance"]

[[stage.governance.workflow]]
name = "review"
entity = "policy"
trigger = "on_create"
actions = [
  { use = "create_task", title = "Read {{ data.entity_id }}" },
  { use = "approval", approvers = ["ciso", "cto"], mode = "all" },
]

[[stage.governance.workflow]]
name = "evidence"
entity = "evidence"
trigger = "on_create"
actions = [{ use = "create_task", title = "Check {{ data.entity_id }}" }]

[[stage.governance.workflow]]
name = "broken"
entity = "assessment"
trigger = "on_create"
actions = [{ use = "create_task", title = "{{ data.new.title }}" }]
"""
Body = Callable[[WorkflowService], Awaitable[Any]]


def created(entity: str = "policy", id_: str = "p-1", event: str = "e-1", **new: Any) -> Event:
    data = {"entity_type": entity, "entity_id": id_, "actor_id": "ann", "old": {}, "new": new or {"status": "draft"}}
    return Event(event, f"governance.{entity}.created", data, {})


def with_service(file: Path, body: Body) -> Any:
    async def enter() -> Any:
        async with WorkflowService.from_file(file) as service:
            return await body(service)

    return asyncio.run(enter())


def rows(file: Path, table: Any) -> list[Any]:
    async def ask() -> list[Any]:
        database = Database(f"sqlite:///{file.parent}/test.db")
        try:
            return await database.fetch(table, select(table))
        finally:
            await database.close()

    return asyncio.run(ask())


def trigger(file: Path, *events: Event, use_queue: bool = False) -> list[str]:
    async def body(service: WorkflowService) -> list[str]:
        return [id_ for one in events for id_ in await service.check_and_trigger_workflows(one, use_queue)]

    found: list[str] = with_service(file, body)
    return found
