"""Publishing, with every message confirmed: by this project's connectors, and by rstream's own producer."""

from __future__ import annotations

import time

from benchmarks.job import Job, Result
from benchmarks.meter import settle
from benchmarks.workload import batches, fill, outgoing
from pipeline.connectors import Connector
from pipeline.plugins import load_plugins

__all__ = ["embedded", "fill_with", "rabbitmq", "rstream"]

_BATCH = 1_000


async def rabbitmq(job: Job) -> Result:
    """By the connector that the runner uses, a thousand at a time."""
    return await _publish(job, job.stream_url)


async def embedded(job: Job) -> Result:
    """Into the embedded broker: each thousand is on the disk before the next."""
    return await _publish(job, f"embedded://{job.path('events.db')}")


async def rstream(job: Job) -> Result:
    """By rstream's `Producer.send_batch`, waiting for the confirms of the last 20,000 only."""
    settle()
    began = _now()
    await fill(job.stream_url, job.stream, job.events)
    return _since(began, job.events)


async def fill_with(url: str, stream: str, events: int) -> Connector:
    """Create the stream on this broker and publish so many events; returns the connector, open."""
    connector = _connector(url)
    await connector.connect()
    await connector.create_stream(stream)
    for numbers in batches(events, _BATCH):
        await connector.publish(stream, outgoing(numbers))
    return connector


async def _publish(job: Job, url: str) -> Result:
    settle()
    began = _now()
    connector = await fill_with(url, job.stream or "events", job.events)
    result = _since(began, job.events)
    await connector.close()
    return result


def _connector(url: str) -> Connector:
    plugins = load_plugins([]).require_sound()
    return plugins.catalog().connectors[url.partition(":")[0]](url)


def _now() -> tuple[float, float]:
    return time.perf_counter(), time.process_time()


def _since(began: tuple[float, float], events: int) -> Result:
    now = _now()
    return Result(events, events, now[0] - began[0], now[1] - began[1])
