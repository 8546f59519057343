"""Two sources in one runner, with events in memory: what one of them is worth while the other's dependency is down."""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import orjson

from benchmarks.job import Job, Result
from benchmarks.meter import percentiles, settle
from benchmarks.variants.publish import fill_with
from benchmarks.variants.route import measure, write_file
from benchmarks.workload import ROUTING_KEY, body
from pipeline import Pipeline
from pipeline.connectors import Connector, Outgoing
from pipeline.ledger.migrations import migrate

__all__ = ["latency", "throughput"]

_URL = "memory://benchmark"
_WAITING = 20_000
"""Events of the other source, where its dependency is down; far more than its window holds."""
_OTHER = """
source = "events"

[source.crm]
stream = "crm"
group = "crm"
dedupe = false

[[route]]
source = "crm"
match = "#"
stages = ["away"]
"""


async def throughput(job: Job) -> Result:
    """The no-op route of one source; all its events are there at the start."""
    store = await fill_with(_URL, "events", job.events)
    other = await _other(job)
    async with await _opened(job, "noop", _OTHER) as pipeline:
        settle()
        result = await measure(pipeline, job)
    await other.close()
    await store.close()
    return result


async def latency(job: Job) -> Result:
    """From publishing to the handler, of paced events; the warm-up's are left out."""
    delays = job.path("delays.json")
    other = await _other(job)
    await other.create_stream("events")
    async with await _opened(job, "delay", f'{_OTHER}\n[stage.delay]\nfile = "{delays}"\n') as pipeline:
        settle()
        pacing = asyncio.create_task(_publish(other, job.events, job.options["rate"]))
        result = await measure(pipeline, job)
        await pacing
    await other.close()
    return replace(result, latencies=percentiles(orjson.loads(delays.read_bytes())[job.warmup :]))


async def _other(job: Job) -> Connector:
    """The other source's stream: empty, or with events that wait for what is down."""
    return await fill_with(_URL, "crm", _WAITING if job.options.get("outage") else 0)


async def _opened(job: Job, stage: str, more: str) -> Pipeline:
    pipeline = Pipeline.from_file(write_file(job, stage, more, broker=_URL), environ={})
    await migrate(pipeline.database, pipeline.plugins.branches())
    return pipeline


async def _publish(connector: Connector, events: int, rate: float) -> None:
    began = time.monotonic()
    for number in range(events):
        await asyncio.sleep(max(0.0, began + number / rate - time.monotonic()))
        data = {**orjson.loads(body(number)), "sent": time.monotonic_ns()}
        await connector.publish("events", [Outgoing(orjson.dumps(data), ROUTING_KEY, f"event-{number}")])
