"""A batch is bounded, in messages and in the bytes that they take once they are unpacked."""

from __future__ import annotations

from typing import cast

import pytest

from pipeline.connectors import Outgoing, Start
from pipeline_plugins.rabbitmq_streams.amqp_writer import encode_message
from pipeline_plugins.rabbitmq_streams.link import Link
from pipeline_plugins.rabbitmq_streams.reader import MAX_BATCH_BYTES, Subscription
from tests.plugins.rabbitmq_streams.chunk_frames import block, deliver, entry

MEBIBYTE = 2**20


class Hung:
    """A link that has died since, so that no credit is given on it."""

    is_lost = True


@pytest.fixture
def subscription() -> Subscription:
    return Subscription(cast("Link", Hung()), "s", Start("first"))


async def batches(subscription: Subscription, limit: int = 500) -> list[int]:
    """How many messages the batches have that all its chunks make."""
    sizes = []
    while subscription.waiting:
        sizes.append(len(await subscription.batch(limit)))
    return sizes


def large(body: int) -> bytes:
    return encode_message(Outgoing(bytes(body), "k", "1"))


async def test_a_small_compressed_chunk_fills_no_batch_beyond_its_bytes(subscription: Subscription) -> None:
    frame = deliver([block([large(2 * MEBIBYTE)] * 3, 1)] * 4, records=12)
    assert len(frame) < MEBIBYTE // 10
    subscription.delivered(frame)
    assert await batches(subscription) == [4, 4, 4]


async def test_neither_do_many_such_chunks(subscription: Subscription) -> None:
    for first in range(0, 12, 2):
        subscription.delivered(deliver([block([large(3 * MEBIBYTE)] * 2, 1)], first, records=2))
    assert await batches(subscription) == [3, 3, 3, 3]


async def test_a_message_that_is_larger_than_a_batch_comes_alone(subscription: Subscription) -> None:
    subscription.delivered(deliver([entry(large(MAX_BATCH_BYTES))] * 2))
    assert await batches(subscription) == [1, 1]


async def test_small_messages_of_many_chunks_share_a_batch(subscription: Subscription) -> None:
    for first in range(0, 40, 4):
        subscription.delivered(deliver([entry(large(10))] * 4, first))
    assert await batches(subscription, 15) == [15, 15, 10]
