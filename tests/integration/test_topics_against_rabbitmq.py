"""Our topic patterns match exactly what RabbitMQ's own topic exchange delivers."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections import defaultdict
from collections.abc import AsyncIterator

import aio_pika
import pytest
from aio_pika.abc import AbstractChannel, AbstractIncomingMessage

from pipeline.topics import matches
from tests.conftest import RabbitMQ

SEED = 20_261_121
ROUNDS, PATTERNS, KEYS = 5, 200, 250
ALWAYS = [
    "",
    "#",
    "*",
    ".",
    "..",
    "#.#",
    "#.*",
    "*.#",
    "*.*",
    "#.#.#",
    "a.#.b",
    "#.a.#",
    ".#",
    "#.",
    ".*",
    "*.",
    "a.",
    ".a",
]
ALWAYS += ["a*", "#a", "a*.#", "ü.*", "ü.a", "A", " a", "a" * 255]
LAST = "the.last.message"


def generated(count: int, words: list[str], dice: random.Random) -> list[str]:
    """Distinct texts of up to six words of a tiny alphabet; an empty word makes a leading, trailing or double dot."""
    found = dict.fromkeys(ALWAYS)
    while len(found) < count:
        found.setdefault(".".join(dice.choices(words, k=dice.randint(1, 6))))
    return list(found)


@pytest.fixture
async def channel(rabbitmq: RabbitMQ) -> AsyncIterator[AbstractChannel]:
    connection = await aio_pika.connect(rabbitmq.amqp_url)
    async with connection:
        yield await connection.channel()


async def delivered(channel: AbstractChannel, patterns: list[str], keys: list[str]) -> dict[str, set[str]]:
    """Pattern → the routing keys that the broker delivers to a queue bound by it."""
    exchange = await channel.declare_exchange(
        f"test-{secrets.token_hex(6)}", aio_pika.ExchangeType.TOPIC, auto_delete=True
    )
    received: dict[str, set[str]] = defaultdict(set)
    remaining = set(patterns)
    complete = asyncio.Event()

    async def consume(pattern: str) -> None:
        queue = await channel.declare_queue(exclusive=True, auto_delete=True)
        await queue.bind(exchange, pattern)
        await queue.bind(exchange, LAST)

        async def on_message(message: AbstractIncomingMessage) -> None:
            key = message.routing_key or ""
            if key != LAST:
                received[pattern].add(key)
                return
            remaining.discard(pattern)
            if not remaining:
                complete.set()

        await queue.consume(on_message, no_ack=True)

    await asyncio.gather(*(consume(pattern) for pattern in patterns))
    for key in [*keys, LAST]:
        await exchange.publish(aio_pika.Message(b""), routing_key=key)
    async with asyncio.timeout(25):
        await complete.wait()
    return received


@pytest.mark.parametrize(
    "seed", [pytest.param(SEED + round_, marks=[pytest.mark.chaos] * (round_ > 0)) for round_ in range(ROUNDS)]
)
async def test_patterns_match_as_the_brokers_topic_exchange_does(channel: AbstractChannel, seed: int) -> None:
    dice = random.Random(seed)
    patterns = generated(PATTERNS, ["a", "a", "a", "", *"****", *"######"], dice)
    keys = generated(KEYS, [*"aaaaaa", "b", "", "", "*", "#"], dice)
    received = await delivered(channel, patterns, keys)
    differences = [
        (pattern, key, matches(pattern, key))
        for pattern in patterns
        for key in keys
        if matches(pattern, key) is not (key in received[pattern])
    ]
    assert differences == []
    pairs, matching = len(patterns) * len(keys), sum(map(len, received.values()))
    assert pairs == PATTERNS * KEYS
    assert matching / pairs >= 0.3
    assert matching / pairs <= 0.7  # both answers are well tried
