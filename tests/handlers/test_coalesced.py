"""A coalesced event leaves its audit row, which names the event that stands for it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from sqlmodel import select

from pipeline.config.models import Policy
from pipeline.events import Event
from pipeline.handlers import Context, Setup
from pipeline.ledger.migrations import migrate
from pipeline.stages import Stage
from pipeline_handlers.audit import AuditHandler, pipeline_tables
from pipeline_handlers.audit.options import AuditOptions
from pipeline_handlers.audit.tables import AuditLog
from tests.pipeline.dispatch.harness import bench, message, route, stage

ROWS = [
    {"when": "outcome == 'filtered'", "action": "'coalesced'", "metadata": {"reason": "error"}},
    {"action": "routing_key.split('.')[2]"},
]


async def test_a_coalesced_event_is_audited_with_its_successor(tmp_path: Path) -> None:
    async def handle(event: Event[Any], context: Context) -> None: ...

    policy = Policy.model_validate({"coalesce": {"window": "20ms", "match": "admin.workflow.*"}})
    audit = AuditHandler(AuditOptions.model_validate({"row": ROWS}))
    await audit.start(Setup("audit", "p"))
    stages = [stage("x", handle, policy), Stage("audit", audit, Policy())]
    async with bench(tmp_path, stages, [route(["x"], ["audit"], key=("data.w",))]) as pipe:
        await migrate(pipe.database, pipeline_tables())
        await pipe.feed(
            message(1, {"w": 1}, key="admin.workflow.paused", id="e1"),
            message(2, {"w": 1}, key="admin.workflow.resumed", id="e2"),
        )
        await pipe.settle(2)
        rows = await pipe.database.fetch(AuditLog, select(AuditLog))
    assert {(row.event_id, row.action, row.outcome, row.error, row.details.get("reason")) for row in rows} == {
        ("e1", "coalesced", "filtered", "coalesced into e2", "coalesced into e2"),
        ("e2", "resumed", "handled", None, None),
    }
