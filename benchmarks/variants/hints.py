"""Jobs by arq alone: row, queue, claim, run, row; with up to a hundred jobs to a hint, with one, or as arq has it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import asyncpg
from arq.connections import ArqRedis, RedisSettings, create_pool
from arq.worker import Worker, func

from benchmarks.job import Job, Result
from benchmarks.meter import Meter, settle
from benchmarks.workload import batches
from pipeline.jobs.arq_queue import ArqHints

__all__ = ["hinted", "one_each"]

_QUEUE = "benchmark"
_ROWS = 100
"""Rows that are written at a time, whatever the hints are."""
_AHEAD = 1_000
"""Hints that may wait in Redis; the runner's relay stops there, too."""
_CONCURRENCY = 100
_CONNECTIONS = 20


class _Rows:
    """The rows of jobs in PostgreSQL, as far as a job needs one; without a database, nothing is written.

    Args:
        job: Says which database.
        meter: Counts the jobs that are done.
    """

    def __init__(self, job: Job, meter: Meter) -> None:
        self._url = job.database_url
        self._meter = meter
        self._pool: Any = None
        self.running = 0

    async def open(self) -> None:
        """Make the table."""
        if not self._url:
            return
        self._pool = await asyncpg.create_pool(self._url, min_size=_CONNECTIONS, max_size=_CONNECTIONS)
        await self._pool.execute(
            "CREATE TABLE work (id text PRIMARY KEY, state text NOT NULL, payload text NOT NULL,"
            " created_at timestamptz NOT NULL DEFAULT now(), ended_at timestamptz)"
        )

    async def add(self, ids: Sequence[str]) -> None:
        """Leave jobs."""
        if self._pool is not None:
            await self._pool.execute("INSERT INTO work SELECT unnest($1::text[]), 'queued', 'payload'", ids)

    async def run(self, queue: str, ids: Sequence[str]) -> None:
        """Claim jobs, run them, and write that they are done: a transaction before, and one after."""
        self.running += len(ids)
        if self._pool is not None:
            ids = [
                row[0]
                for row in await self._pool.fetch(
                    "UPDATE work SET state = 'running' WHERE id = ANY($1) AND state = 'queued' RETURNING id, payload",
                    ids,
                )
            ]
            await self._pool.execute("UPDATE work SET state = 'done', ended_at = now() WHERE id = ANY($1)", ids)
        self.running -= len(ids)
        for _ in ids:
            self._meter.tick()

    def waiting(self, queue: str) -> int:
        """How many jobs wait until others are done."""
        return max(self.running - _CONCURRENCY, 0)

    def waits(self, queue: str, ids: Sequence[str]) -> bool:
        """Whether any of these jobs waits: none does for long."""
        return False

    async def close(self) -> None:
        """Check that each job was done, and let go of the connections."""
        if self._pool is not None:
            left = await self._pool.fetchval("SELECT count(*) FROM work WHERE state <> 'done'")
            await self._pool.close()
            if left:
                raise RuntimeError(f"{left} jobs are not done")


async def hinted(job: Job) -> Result:
    """By this project's transport, with ``options["size"]`` jobs to a hint."""
    size = job.options["size"]
    meter = Meter(job)
    rows = _Rows(job, meter)
    await rows.open()
    hints = ArqHints(job.redis_url, job.redis_prefix)
    hints.serve(_QUEUE, rows, _CONCURRENCY)

    async def put(ids: Sequence[str]) -> None:
        await hints.put(_QUEUE, [ids[begin : begin + size] for begin in range(0, len(ids), size)])

    try:
        return await _feed(job, meter, rows, put, most=_AHEAD * size)
    finally:
        await hints.close()
        await rows.close()


async def one_each(job: Job) -> Result:
    """By arq itself, as one would write it: a job each, put a hundred at a time, a hundred run at once."""
    meter = Meter(job)
    rows = _Rows(job, meter)
    await rows.open()
    settings = RedisSettings.from_dsn(job.redis_url)
    redis: ArqRedis = await create_pool(settings)
    queue = f"{job.redis_prefix}:stock"

    async def execute(ctx: dict[Any, Any], *ids: Any, **_: Any) -> None:
        await rows.run(queue, ids)

    worker = Worker(
        functions=[func(execute, name="execute")], queue_name=queue, redis_settings=settings, handle_signals=False,
        max_jobs=_CONCURRENCY, poll_delay=0.01, keep_result=0, log_results=False, max_tries=6,
    )  # fmt: skip
    working = asyncio.create_task(worker.async_run())

    async def put(ids: Sequence[str]) -> None:
        await asyncio.gather(*(redis.enqueue_job("execute", id_, _queue_name=queue) for id_ in ids))

    try:
        return await _feed(job, meter, rows, put, most=_AHEAD)
    finally:
        await asyncio.wait([working], timeout=0.2)  # its last jobs are done, and it notes that in Redis
        working.cancel()
        await asyncio.gather(working, *worker.tasks.values(), return_exceptions=True)
        worker.tasks.clear()
        await worker.close()
        await redis.aclose(close_connection_pool=True)
        await rows.close()


async def _feed(
    job: Job, meter: Meter, rows: _Rows, put: Callable[[Sequence[str]], Awaitable[None]], *, most: int
) -> Result:
    """Leave all jobs, as long as no more than so many wait."""
    settle()
    for numbers in batches(job.events, _ROWS):
        ids = [str(number) for number in numbers]
        await rows.add(ids)
        await put(ids)
        while numbers.stop - meter.count > most:
            await asyncio.sleep(0.002)
    return await meter.result()
