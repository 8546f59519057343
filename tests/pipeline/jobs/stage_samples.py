"""Events of asynchronous stages as jobs, and how the tests have them run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import orjson

from pipeline.config.models import Policy, RetryPolicy
from pipeline.connectors import Message
from pipeline.events import Event
from pipeline.handlers import Context
from pipeline.jobs.contract import NewJob
from pipeline.jobs.executor import Executor
from pipeline.jobs.stage_event import stage_job
from pipeline.jobs.stage_jobs import StageJobs
from pipeline.ledger.database import Database
from pipeline.ledger.dead_letters import DeadLetters
from pipeline.ledger.tables import DeadLetter
from pipeline.stages import Stage
from tests.pipeline.jobs.samples import PIPELINE

__all__ = ["POLICY", "MakeExecutor", "dead", "event_job", "run"]

POLICY = Policy(timeout=5, retry=RetryPolicy(attempts=3, backoff=2.0, jitter=0))
MakeExecutor = Callable[..., Executor]


def event_job(
    offset: int, data: Any = None, *, key: str | None = None, route: str = "route", on: str = "s", redrive: int = 0
) -> NewJob:
    body = orjson.dumps({"n": offset} if data is None else data)
    message = Message(offset, 1_000 + offset, body, "a.b", f"e{offset}", {"h": 1}, "application/json")
    event: Event[Any] = Event(
        f"e{offset}", "a.b", orjson.loads(body), message.headers, message.content_type, body, message.timestamp,
        "source", "st", offset,
    )  # fmt: skip
    return stage_job("stages", Context(on, route, "group", event.id), event, message, 2, key, redrive=redrive)


async def run(
    db: Database, executor_of: MakeExecutor, stage: Stage, ids: Sequence[str], resources: dict[str, Any] | None = None
) -> None:
    stage_jobs = StageJobs(stage, db, resources or {}, PIPELINE)
    await executor_of({stage.name: stage_jobs}).run("stages", ids)
    stage_jobs.close()


async def dead(db: Database) -> list[DeadLetter]:
    return sorted(await DeadLetters(db).list(1000), key=lambda row: row.offset)
