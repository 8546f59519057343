"""This project's governance, as ``pipeline run`` and ``pipeline worker`` run it, in processes of their own."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from benchmarks.contest import Process, measure
from benchmarks.job import Job, Result
from benchmarks.policies import QUEUE, WORKFLOW, outgoing
from pipeline import Pipeline
from pipeline.ledger.migrations import migrate
from pipeline_plugins.rabbitmq_streams import RabbitMQStreamsConnector

__all__ = ["make_tables", "publishing", "run"]

_BATCH = 1_000
"""Events that are published at a time."""


async def run(job: Job) -> Result:
    """One process that reads events and runs their jobs; or a runner and a worker (``options["processes"]``)."""
    file = await make_tables(job)
    commands = [["run", "-q", str(file)]]
    if job.options.get("processes", 1) > 1:
        commands = [["run", "-q", "--no-worker", str(file)], ["worker", "-q", str(file)]]
    async with AsyncExitStack() as stack:
        submit = await stack.enter_async_context(publishing(job))
        processes = []
        for command in commands:
            arguments = [sys.executable, "-m", "pipeline", *command]
            process = Process.started(arguments, job.path(f"{command[0]}.log"), folder=Path(job.folder))
            processes.append(await stack.enter_async_context(process))
        return await measure(job, processes, submit)


@asynccontextmanager
async def publishing(job: Job) -> AsyncIterator[Callable[[range], Awaitable[None]]]:
    """Publishes the events with the numbers that it is called with to the job's stream, until they are confirmed."""
    events = outgoing(range(job.events))
    connector = RabbitMQStreamsConnector(job.stream_url)

    async def submit(numbers: range) -> None:
        for begin in range(numbers.start, numbers.stop, _BATCH):
            await connector.publish(job.stream, events[begin : min(begin + _BATCH, numbers.stop)])

    try:
        await connector.connect()
        yield submit
    finally:
        await connector.close()


async def make_tables(job: Job) -> Path:
    """Migrate the job's database, as ``pipeline migrate`` does; returns the job's `pipeline.toml`."""
    file = job.path("pipeline.toml")
    file.write_text(_text(job))
    pipeline = Pipeline.from_file(file, environ={})
    await migrate(pipeline.database, pipeline.plugins.branches())
    await pipeline.database.close()
    return file


def _text(job: Job) -> str:
    concurrency = job.options.get("concurrency")
    return f"""
[pipeline]
name = "benchmark"

[broker]
url = "{_quoted(job.stream_url)}"

[database]
url = "{_quoted(job.database_url)}"

[jobs]
url = "{_quoted(job.redis_url)}"
prefix = "{job.redis_prefix}"

[jobs.queue."{QUEUE}"]
{f"concurrency = {concurrency}" if concurrency else ""}

[source.governance]
stream = "{job.stream or "events"}"
group = "{Path(job.folder).name}"
dedupe = false   # as Bull has it: an execution's id is made of its event's, so that a repeat makes none

[[route]]
match = "governance.#"
key = ["data.entity_id", "data.execution_id"]
stages = ["governance"]
{WORKFLOW}"""


def _quoted(url: str) -> str:
    return url.replace("$", "$$")
