"""The peer of governance: events in memory, Bull on Redis, `pg`; the program is `benchmarks/bull/`."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from benchmarks.contest import Process, measure
from benchmarks.job import Job, Result
from benchmarks.npm import install
from benchmarks.variants.governance import make_tables

__all__ = ["run"]


async def run(job: Job) -> Result:
    """One process that submits events and runs their jobs; or two, one for each (``options["processes"]``)."""
    folder = await asyncio.to_thread(install)
    await make_tables(job)
    both = job.options.get("processes", 1) == 1
    async with AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(_node(job, folder, "producer", producer=True, worker=both))]
        if not both:
            processes.append(await stack.enter_async_context(_node(job, folder, "worker", producer=False, worker=True)))
        for process in processes:
            await process.hear("READY")

        async def submit(numbers: range) -> None:
            await processes[0].say(f"SUBMIT {numbers.start} {len(numbers)}")

        return await measure(job, processes, submit)


def _node(job: Job, folder: Path, name: str, **roles: bool) -> Any:
    settings = {
        "database": job.database_url,
        "redis": job.redis_url,
        "prefix": job.redis_prefix,
        "concurrency": job.options["concurrency"],
        "connections": job.options["connections"],
        **roles,
    }
    return Process.started(["node", "main.mjs", json.dumps(settings)], job.path(f"{name}.log"), folder=folder)
