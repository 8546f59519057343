"""FastStream's own RabbitMQ broker (AMQP 0.9.1) on the same stream."""

from __future__ import annotations

from typing import Any

from faststream.rabbit import Channel, QueueType, RabbitBroker, RabbitQueue

from benchmarks.job import Job, Result
from benchmarks.meter import Meter, settle

__all__ = ["run"]


async def run(job: Job) -> Result:
    """A subscriber at its cheapest: async, one argument, the decoded body, no injection, no log."""
    meter = Meter(job)
    broker = RabbitBroker(job.amqp_url, logger=None, apply_types=False)
    queue = RabbitQueue(job.stream, queue_type=QueueType.STREAM, durable=True, declare=False)

    @broker.subscriber(queue, channel=Channel(prefetch_count=500), consume_args={"x-stream-offset": "first"})
    async def noop(data: dict[str, Any]) -> None:
        _ = data["workflow_id"]
        meter.tick()

    async with broker:
        settle()
        await broker.start()
        return await meter.result()
