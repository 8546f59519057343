"""The engine alone: batches in memory through window, lanes, stage and committer; no broker, no FastStream."""

from __future__ import annotations

import asyncio
import time

from benchmarks.job import Job, Result
from benchmarks.meter import settle
from benchmarks.workload import ROUTING_KEY, batches, body
from pipeline import Context, Event, Handler, NoOptions
from pipeline.config.models import Policy, RouteTable, SourceTable
from pipeline.connectors import Message
from pipeline.dispatch.source import Source
from pipeline.ledger.database import Database
from pipeline.ledger.lease import acquire
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.migrations import migrate
from pipeline.ledger.units import SourceKey
from pipeline.routing import Router
from pipeline.stages import Stage
from pipeline.stats import SourceStats

__all__ = ["keyed", "unkeyed"]

_SOURCE = "events"


class _NoOp(Handler[NoOptions]):
    """Reads one field of the data."""

    name = "noop"

    async def handle(self, event: Event, context: Context) -> None:
        """Read it."""
        _ = event.data["workflow_id"]


async def unkeyed(job: Job) -> Result:
    """Events without an ordering key."""
    return await _run(job, ())


async def keyed(job: Job) -> Result:
    """Events that are ordered by their workflow."""
    return await _run(job, ("data.workflow_id",))


async def _run(job: Job, key: tuple[str, ...]) -> Result:
    database = Database(f"sqlite:///{job.path('pipeline.db')}")
    await migrate(database)
    ledger = Ledger(database)
    stats = SourceStats(_SOURCE)
    lease = await acquire(ledger, SourceKey(_SOURCE, "benchmark", _SOURCE), "benchmark")
    source = Source(
        _SOURCE,
        SourceTable(stream=_SOURCE, group="benchmark", dedupe=False),
        Router([RouteTable(source=_SOURCE, match=("admin.workflow.*",), key=key, stages=("noop",))]),
        {"noop": Stage("noop", _NoOp(NoOptions()), Policy())},
        {},
        ledger,
        lease,
        stats,
        lambda error: None,
        pipeline="benchmark",
    )
    source.start()
    try:
        return await _feed(job, source, stats)
    finally:
        await source.close()
        await ledger.release(lease)
        await database.close()


async def _feed(job: Job, source: Source, stats: SourceStats) -> Result:
    made = [
        [Message(number, 1_000, body(number), ROUTING_KEY) for number in numbers] for numbers in batches(job.events)
    ]
    settle()
    begin, wall, cpu = 0, time.perf_counter(), time.process_time()
    for batch in made:
        await source.admit(batch)
        await asyncio.sleep(0)  # as a broker's reader would
        if not begin and stats.processed >= job.warmup:
            begin, wall, cpu = stats.processed, time.perf_counter(), time.process_time()
    while stats.processed < job.events:
        await asyncio.sleep(0.001)
    return Result(stats.processed, stats.processed - begin, time.perf_counter() - wall, time.process_time() - cpu)
