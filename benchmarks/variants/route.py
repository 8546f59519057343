"""This project's own runner on a whole `pipeline.toml`, as ``pipeline run`` runs it."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from benchmarks.job import Job, Result
from benchmarks.meter import settle
from pipeline import Pipeline
from pipeline.errors import PipelineError
from pipeline.ledger.migrations import migrate

__all__ = ["audit", "embedded", "measure", "memory", "noop", "write_file"]

_POLL_SECONDS = 0.005
_HANDLERS = Path(__file__).parents[1] / "handlers"
_AUDIT = """
[[stage.audit.row]]
match = "admin.workflow.*"
action = "'workflow_' + data.event_type.split('.')[2]"
entity_type = "'bom_processing'"
entity_id = "data.bom_id"
user_id = "data.admin_id"
metadata = { workflow_id = "data.workflow_id" }
"""


async def noop(job: Job) -> Result:
    """The stream through a handler that reads one field."""
    return await _consume(job, "noop")


async def audit(job: Job) -> Result:
    """The stream into audit rows, mapped as the sample pipeline maps them."""
    return await _consume(job, "audit", _AUDIT)


async def embedded(job: Job) -> Result:
    """As `noop`, on the embedded broker, which is filled first."""
    from benchmarks.variants.publish import fill_with

    url = f"embedded://{job.path('events.db')}"
    await fill_with(url, job.stream or "events", job.events)
    return await _consume(job, "noop", broker=url)


async def memory(job: Job) -> Result:
    """As `noop`, with the events in this process's memory."""
    from benchmarks.variants.publish import fill_with

    url = "memory://benchmark"
    store = await fill_with(url, job.stream or "events", job.events)
    result = await _consume(job, "noop", broker=url)
    await store.close()  # the events live as long as somebody is connected to them
    return result


async def _consume(job: Job, stage: str, more: str = "", *, broker: str = "") -> Result:
    pipeline = Pipeline.from_file(write_file(job, stage, more, broker=broker), environ={})
    await migrate(pipeline.database, pipeline.plugins.branches())
    async with pipeline:
        settle()
        return await measure(pipeline, job)


def write_file(job: Job, stage: str, more: str = "", *, broker: str = "") -> Path:
    """The job's `pipeline.toml`: one keyed route through one stage."""
    path = job.path("pipeline.toml")
    dedupe = job.options.get("dedupe")
    # The group is new each time: with an old one, reading would go on after the offset that RabbitMQ keeps for it.
    path.write_text(
        f"""
[pipeline]
name = "benchmark"
handlers = ["{_HANDLERS}"]

[broker]
url = "{(broker or job.stream_url).replace("$", "$$")}"

[database]
url = "{(job.database_url or f"sqlite:///{job.path('pipeline.db')}").replace("$", "$$")}"

[source.events]
stream = "{job.stream or "events"}"
group = "{Path(job.folder).name}"
start = "first"
dedupe = {f'"{dedupe}"' if dedupe else "false"}

[[route]]
match = "admin.workflow.*"
key = "data.workflow_id"
stages = ["{stage}"]
{more}
"""
    )
    return path


async def measure(pipeline: Pipeline, job: Job) -> Result:
    """From the warm-up's end to the last event; what counts is what is committed, not what a handler has seen.

    Raises:
        PipelineError: An event was not handled.
    """
    began = await _committed(pipeline, job.warmup)
    ended = await _committed(pipeline, job.events)
    outcomes = pipeline.stats().sources["events"].outcomes
    if any(number for outcome, number in outcomes.items() if outcome != "handled"):
        raise PipelineError(f"not every event was handled: {outcomes} ({pipeline.stats().last_error})")
    wall, cpu = ended[1] - began[1], ended[2] - began[2]
    return Result(pipeline.stats().messages_processed, ended[0] - began[0], wall, cpu)


async def _committed(pipeline: Pipeline, events: int) -> tuple[int, float, float]:
    """How many events are committed, and the two clocks, once there are at least so many."""
    while (count := pipeline.stats().messages_processed) < events:
        await asyncio.sleep(_POLL_SECONDS)
    return count, time.perf_counter(), time.process_time()
