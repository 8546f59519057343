"""Async stages on PostgreSQL and Redis: each event's job is left once, run once, and a full queue pauses its source."""

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
from pipeline.worker import Worker

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


async def test_a_source_pauses_while_its_stages_queue_is_full_and_goes_on_by_itself(
    tmp_path: Path, postgres: str, redis_url: str
) -> None:
    (tmp_path / "handlers.py").write_text(HANDLERS)
    file = tmp_path / "pipeline.toml"
    small = FILE.replace("[source.s]\n", "[source.s]\nbatch = 50\nwindow = 50\n").replace(
        "PREFIX", f"test-{secrets.token_hex(6)}"
    )
    file.write_text(f"{small}\n[jobs.queue.slow]\nmax_waiting = 100\n")
    environ = {"PIPELINE_BROKER_URL": "memory://full", "DATABASE_URL": postgres, "REDIS_URL": redis_url}
    runner = Pipeline.from_file(file, environ=environ, worker=False)
    published = 0
    await migrate(runner.database, runner.plugins.branches())

    async def jobs() -> int:
        async with runner.database.read() as connection:
            return int((await connection.execute(text("SELECT count(*) FROM jobs WHERE queue = 'slow'"))).scalar_one())

    async def publish(count: int) -> None:
        nonlocal published
        ids = [f"e-{published + number}" for number in range(count)]
        published += count
        await runner.connector.publish("events", [Outgoing(b'{"n": 1, "k": 1}', "a.b", an_id) for an_id in ids])

    async def pauses_in_the_end() -> bool:
        await publish(50)
        return "the queue slow is full: max_waiting = 100" in runner.stats().sources["s"].reason

    async def has_rested() -> bool:
        return runner.stats().sources["s"].in_flight == 0

    async def all_is_done() -> bool:
        return runner.stats().messages_processed == published and await jobs() == 0

    async with runner:
        await eventually(pauses_in_the_end)
        await eventually(has_rested)
        assert await jobs() >= 100
        assert not runner.stats().is_healthy
        await publish(1)
        async with Worker.from_file(file, environ=environ):
            await eventually(all_is_done)
        assert runner.stats().is_healthy
        assert not await DeadLetters(runner.database).list(10)
