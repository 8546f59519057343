"""Paced events: published one at a time by a process of its own, each with the time at which it was sent."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import orjson

from benchmarks.job import Job, Result
from benchmarks.workload import ROUTING_KEY, body
from pipeline.connectors import Outgoing
from pipeline_plugins.rabbitmq_streams import RabbitMQStreamsConnector

__all__ = ["paced", "run"]

_HEAD_START = 2.0
"""Seconds before the first event, for the reader to be there: what waits for its reader measures nothing."""


@asynccontextmanager
async def paced(job: Job) -> AsyncIterator[None]:
    """Publish the job's events meanwhile, ``options["rate"]`` of them a second."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "benchmarks.child", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.DEVNULL
    )
    assert process.stdin is not None
    process.stdin.write(replace(job, program="pacer:run").as_json())
    process.stdin.close()
    try:
        yield
    finally:
        if process.returncode is None:
            process.terminate()
        await process.wait()


async def run(job: Job) -> Result:
    """Publish at a steady rate; an event that is late makes no other one early."""
    connector = RabbitMQStreamsConnector(job.stream_url)
    await connector.connect()
    interval = 1 / job.options["rate"]
    begin = time.monotonic() + _HEAD_START
    for number in range(job.events):
        await asyncio.sleep(max(begin + number * interval - time.monotonic(), 0))
        data = orjson.loads(body(number)) | {"sent": time.monotonic_ns()}
        await connector.publish(job.stream, [Outgoing(orjson.dumps(data), ROUTING_KEY, f"event-{number}")])
    await connector.close()
    return Result(job.events, job.events, time.monotonic() - begin, time.process_time())
