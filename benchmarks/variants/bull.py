"""The peer of governance: Bull on Redis, and `pg`; the program is `benchmarks/bull/`."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from benchmarks.contest import Process, measure
from benchmarks.job import Job, Result
from benchmarks.npm import install
from benchmarks.variants.governance import make_tables, publishing
from pipeline_plugins.rabbitmq_streams.url import parse_url

__all__ = ["run"]


async def run(job: Job) -> Result:
    """One process that takes events and runs their jobs; or two, one for each (``options["processes"]``).

    It reads the events from the job's stream, or makes them in memory where there is none.
    """
    folder = await asyncio.to_thread(install)
    await make_tables(job)
    both = job.options.get("processes", 1) == 1
    async with AsyncExitStack() as stack:
        processes = [await stack.enter_async_context(_node(job, folder, "producer", producer=True, worker=both))]
        if not both:
            processes.append(await stack.enter_async_context(_node(job, folder, "worker", producer=False, worker=True)))
        for process in processes:
            await process.hear("READY")

        async def ask(numbers: range) -> None:
            await processes[0].say(f"SUBMIT {numbers.start} {len(numbers)}")

        submit = await stack.enter_async_context(publishing(job)) if job.stream else ask
        return await measure(job, processes, submit)


def _node(job: Job, folder: Path, name: str, **roles: bool) -> Any:
    settings = {
        "database": job.database_url,
        "redis": job.redis_url,
        "prefix": job.redis_prefix,
        "concurrency": job.options["concurrency"],
        "connections": job.options["connections"],
        "broker": _broker(job) if job.stream else None,
        **roles,
    }
    return Process.started(["node", "main.mjs", json.dumps(settings)], job.path(f"{name}.log"), folder=folder)


def _broker(job: Job) -> dict[str, Any]:
    """Where the stream is, as RabbitMQ's client for Node.js is told."""
    address = parse_url(job.stream_url)
    return {
        "hostname": address.host, "port": address.port, "username": address.user, "password": address.password,
        "vhost": address.vhost, "stream": job.stream,
    }  # fmt: skip
