"""Async stages on PostgreSQL and Redis: each event's job is left once, run once, and the route goes on at once."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from sqlalchemy import text

from pipeline import Pipeline
from pipeline.connectors import Outgoing
from pipeline.ledger.dead_letters import DeadLetters
from pipeline.ledger.migrations import migrate

FILE = """
[pipeline]
handlers = "handlers.py"

[source.s]
stream = "events"
group = "g"

[[route]]
match = "#"
key = "data.k"
stages = ["slow", "quick"]
finally = ["last"]

[stage.slow]
async = "slow"
policy = { retry = { attempts = 2, backoff = "10ms" } }

[stage.last]
use = "quick"
async = true

[jobs]
prefix = "PREFIX"
"""
HANDLERS = """
from pipeline import Reject, Row, handler
from pipeline_handlers.audit.tables import AuditLog

def row(context, event):
    return Row(AuditLog, {
        "action": f"{context.stage}:{context.outcome or '-'}", "entity_id": event.id, "event_id": event.id,
        "routing_key": event.routing_key, "source": event.source, "route": context.route, "occurred_at": event.time,
    })

@handler("slow")
async def slow(event, context):
    if event.data["n"] == 7:
        raise Reject("seven", kind="seven")
    context.add(row(context, event))

@handler("quick")
async def quick(event, context):
    context.add(row(context, event))
"""
COUNT = 1000


async def eventually(condition: Callable[[], Awaitable[bool]], within: float = 60.0) -> None:
    until = time.monotonic() + within
    while not await condition():
        assert time.monotonic() < until, "the condition did not come to hold"
        await asyncio.sleep(0.05)


async def test_every_events_job_is_left_once_and_run_once(tmp_path: Path, postgres: str, redis_url: str) -> None:
    (tmp_path / "handlers.py").write_text(HANDLERS)
    file = tmp_path / "pipeline.toml"
    file.write_text(FILE.replace("PREFIX", f"test-{secrets.token_hex(6)}"))
    environ = {"PIPELINE_BROKER_URL": "memory://async", "DATABASE_URL": postgres, "REDIS_URL": redis_url}
    pipeline = Pipeline.from_file(file, environ=environ)
    await migrate(pipeline.database, pipeline.plugins.branches())

    async def jobs() -> int:
        async with pipeline.database.read() as connection:
            return int((await connection.execute(text("SELECT count(*) FROM jobs"))).scalar_one())

    async def all_is_done() -> bool:
        return pipeline.stats().messages_processed == COUNT and await jobs() == 0

    async with pipeline:
        messages = [
            Outgoing(f'{{"n": {number}, "k": {number % 10}}}'.encode(), "a.b", f"e-{number}") for number in range(COUNT)
        ]
        await pipeline.connector.publish("events", messages)
        await eventually(all_is_done)
        async with pipeline.database.read() as connection:
            found = await connection.execute(
                text("SELECT action, count(*), count(DISTINCT entity_id) FROM audit_logs GROUP BY 1")
            )
            actions = {action: (rows, events) for action, rows, events in found}
        (letter,) = await DeadLetters(pipeline.database).list(10)
    assert actions == {
        "slow:-": (COUNT - 1, COUNT - 1),
        "quick:-": (COUNT, COUNT),
        "last:handled": (COUNT, COUNT),
    }
    assert (letter.stage, letter.kind, letter.event_id) == ("slow", "seven", "e-7")
    assert pipeline.stats().messages_succeeded == COUNT
