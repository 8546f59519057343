"""What one writes by hand with rstream: a loop without progress, retries or anything else."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from rstream import AMQPMessage, Consumer, ConsumerOffsetSpecification, MessageContext, OffsetType, amqp_decoder

from benchmarks.job import Job, Result
from benchmarks.meter import Meter, percentiles, settle
from benchmarks.servers import rstream_login
from benchmarks.variants.pacer import paced

__all__ = ["consume", "latency", "run"]

_CREDIT = 50
"""Chunks asked for ahead; rstream's default of 10 is slower."""

Callback = Callable[[AMQPMessage, MessageContext], Awaitable[None]]


async def run(job: Job) -> Result:
    """Decode each message by rstream's decoder and orjson, in an awaited callback that reads one field."""
    meter = Meter(job)
    tick = meter.tick

    async def on_message(message: AMQPMessage, context: MessageContext) -> None:
        data = orjson.loads(message.body)
        _ = data["workflow_id"]
        tick()

    return await consume(job, meter, on_message)


async def latency(job: Job) -> Result:
    """The same loop, with paced events: how long each was under way."""
    meter = Meter(job)
    delays: list[float] = []

    async def on_message(message: AMQPMessage, context: MessageContext) -> None:
        data = orjson.loads(message.body)
        delays.append((time.monotonic_ns() - data["sent"]) / 1e6)
        meter.tick()

    async with paced(job):
        result = await consume(job, meter, on_message)
    return Result(result.counted, result.events, result.seconds, result.cpu, percentiles(delays[job.warmup :]))


async def consume(job: Job, meter: Meter, on_message: Callback) -> Result:
    """Read the stream from its first message until the meter is done."""
    consumer = Consumer(**rstream_login(job.stream_url))
    await consumer.start()
    settle()
    first: Any = ConsumerOffsetSpecification(OffsetType.FIRST, None)
    await consumer.subscribe(
        job.stream, on_message, decoder=amqp_decoder, offset_specification=first, initial_credit=_CREDIT
    )
    try:
        return await meter.result()
    finally:
        await consumer.close()
