"""A source on a real ledger in a SQLite file, with handlers written as plain functions."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
from sqlalchemy import select

from pipeline.config.models import Policy, RetryPolicy, RouteTable, SourceTable
from pipeline.connectors import Message
from pipeline.dispatch.source import Source
from pipeline.events import Event, Outcome
from pipeline.expressions import FINALLY, compile_expression
from pipeline.handlers import Context, Handler
from pipeline.ledger.database import Database
from pipeline.ledger.dead_letters import DeadLetters
from pipeline.ledger.job_tables import JobRow
from pipeline.ledger.lease import Lease, acquire
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.migrations import migrate
from pipeline.ledger.tables import DeadLetter
from pipeline.ledger.units import SourceKey
from pipeline.resources import NoOptions
from pipeline.routing import Router
from pipeline.stages import Stage
from pipeline.stats import SourceStats

QUICK = Policy(timeout=5, retry=RetryPolicy(attempts=3, backoff=0.01, max_backoff=0.02, jitter=0))

Handle = Callable[[Event[Any], Context], Awaitable[None]]


async def eventually(condition: Callable[[], bool], within: float = 10.0) -> None:
    """Wait until the condition holds; fail when it does not within this many seconds."""
    until = time.monotonic() + within
    while not condition():
        assert time.monotonic() < until, "the condition did not come to hold"
        await asyncio.sleep(0.002)


def message(offset: int, data: Any = None, *, key: str | None = "a.b", id: str | None = None, **more: Any) -> Message:  # noqa: A002
    body = data if isinstance(data, bytes) else orjson.dumps({} if data is None else data)
    return Message(offset, 1_000_000 + offset // 10, body, key, id, **more)


def stage(name: str, handle: Handle, policy: Policy = QUICK, **attributes: Any) -> Stage:
    """A stage of a plain function."""
    kind = type("Plain", (Handler,), {"name": name, "handle": staticmethod(handle), **attributes})
    return Stage(name, kind(NoOptions()), policy)


def batch_stage(name: str, handle_batch: Any, policy: Policy = QUICK, **attributes: Any) -> Stage:
    """A stage of a function that takes batches."""
    kind = type("Batches", (Handler,), {"name": name, "handle_batch": staticmethod(handle_batch), **attributes})
    return Stage(name, kind(NoOptions()), policy)


def async_stage(name: str, queue: str = "stages", when: str | None = None) -> Stage:
    """An async stage, whose handler must not be called where its source is."""

    async def never(event: Event[Any], context: Context) -> None:
        raise AssertionError("an async stage's handler is called on a worker only")

    kind = type("Never", (Handler,), {"name": name, "handle": staticmethod(never)})
    condition = compile_expression(when, extra=FINALLY, want="bool") if when else None
    return Stage(name, kind(NoOptions()), QUICK, condition, is_async=True, queue=queue)


class Bench:
    """A source under test, and what it left."""

    def __init__(self, source: Source, ledger: Ledger, database: Database, lease: Lease, stats: SourceStats) -> None:
        self.source = source
        self.ledger = ledger
        self.database = database
        self.lease = lease
        self.stats = stats
        self.ended: list[BaseException | None] = []

    async def feed(self, *messages: Message) -> None:
        """Admit a batch."""
        await self.source.admit(list(messages))

    async def settle(self, count: int) -> None:
        """Wait until so many messages are committed."""
        await eventually(lambda: self.stats.processed >= count)
        assert self.stats.processed == count

    async def dead(self) -> list[DeadLetter]:
        """The dead letters, oldest first."""
        return sorted(await DeadLetters(self.database).list(1000), key=lambda row: row.offset)

    async def jobs(self) -> list[JobRow]:
        """The jobs that wait to be run, by their ids."""
        return sorted(await self.database.fetch(JobRow, select(JobRow)), key=lambda row: row.id)

    @property
    def outcomes(self) -> dict[str, int]:
        return {str(outcome): count for outcome, count in self.stats.outcomes.items() if count}


def route(stages: Sequence[str], closing: Sequence[str] = (), match: str = "#", **more: Any) -> RouteTable:
    return RouteTable(source="s", match=(match,), stages=tuple(stages), finally_=tuple(closing), **more)


@asynccontextmanager
async def bench(
    folder: Path,
    stages: Sequence[Stage],
    routes: Sequence[RouteTable] | None = None,
    *,
    resources: Mapping[str, Any] | None = None,
    owner: str = "one",
    on_jobs: Callable[[], None] = lambda: None,
    **source: Any,
) -> AsyncIterator[Bench]:
    """Open a source with these stages; by default one route runs all of them, keyed by `data.k`."""
    table = SourceTable(stream="st", group="g", **{"dedupe": False, **source})
    routes = routes or [route([one.name for one in stages], key=("data.k",))]
    database = Database(f"sqlite:///{folder / 'test.db'}")
    await migrate(database)
    ledger = Ledger(database)
    lease = await acquire(ledger, SourceKey("s", "g", "st"), owner)
    stats = SourceStats("s")
    ended: list[BaseException | None] = []
    made = Source(
        "s", table, Router(routes), {one.name: one for one in stages}, resources or {}, ledger, lease, stats,
        ended.append, on_jobs=on_jobs, pipeline="p",
    )  # fmt: skip
    made.start()
    result = Bench(made, ledger, database, lease, stats)
    result.ended = ended
    try:
        yield result
    finally:
        await made.close()
        await ledger.release(lease)
        await database.close()


__all__ = [
    "QUICK",
    "Bench",
    "Outcome",
    "async_stage",
    "batch_stage",
    "bench",
    "eventually",
    "message",
    "route",
    "stage",
]
