"""The events that all programs get: the control event of `reference/workflow-control-consumer.md`, as 300 bytes."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import orjson
from rstream import AMQPMessage, ConfirmationStatus, Producer
from rstream._pyamqp.message import Properties  # type: ignore[attr-defined]  # rstream does not type its AMQP

from benchmarks.servers import rstream_login
from pipeline.connectors import Outgoing

__all__ = ["BODY_BYTES", "ROUTING_KEY", "body", "fill", "outgoing"]

ROUTING_KEY = "admin.workflow.paused"
BODY_BYTES = 300
WORKFLOWS = 10_000
"""How many workflows the events are about, in turn: the number of ordering keys."""
_BATCH = 1_000
"""Messages a frame: RabbitMQ then writes chunks of about 480 messages."""
_UNCONFIRMED = 20_000


def body(number: int) -> bytes:
    """The event's body, of `BODY_BYTES` bytes."""
    event = {
        "event_type": ROUTING_KEY,
        "workflow_id": f"bom-enrichment-{number % WORKFLOWS:08}",
        "bom_id": f"bom-{number:012}",
        "admin_id": f"user-{number % 100:08}",
        "timestamp": "2025-12-16T19:45:00Z",
        "reason": "",
    }
    event["reason"] = "x" * (BODY_BYTES - len(orjson.dumps(event)))
    return orjson.dumps(event)


def outgoing(numbers: range) -> list[Outgoing]:
    """Events as this project publishes them."""
    return [Outgoing(body(number), ROUTING_KEY, f"event-{number}") for number in numbers]


def messages(numbers: range) -> list[AMQPMessage]:
    """The same events as rstream publishes them."""
    return [
        AMQPMessage(
            properties=Properties(message_id=f"event-{number}", subject=ROUTING_KEY, content_type="application/json"),
            body=body(number),
        )
        for number in numbers
    ]


def batches(events: int, size: int = _BATCH) -> Iterator[range]:
    """The numbers of all events, a batch at a time."""
    return (range(begin, min(begin + size, events)) for begin in range(0, events, size))


async def fill(stream_url: str, stream: str, events: int) -> None:
    """Publish so many events by rstream's own producer, in batches, and return when all are confirmed."""
    confirmed = itertools.count(1)
    reached = 0
    progress = asyncio.Event()

    async def on_confirm(status: ConfirmationStatus) -> None:
        nonlocal reached
        if not status.is_confirmed:
            raise RuntimeError(f"RabbitMQ refused message {status.message_id}: {status.response_code}")
        reached = next(confirmed)
        progress.set()

    async with Producer(**rstream_login(stream_url)) as producer:
        for numbers in batches(events):
            await producer.send_batch(stream, messages(numbers), on_publish_confirm=on_confirm)
            while numbers.stop - reached > _UNCONFIRMED:
                progress.clear()
                await progress.wait()
        async with asyncio.timeout(60):
            while reached < events:
                progress.clear()
                await progress.wait()
