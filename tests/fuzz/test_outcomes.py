"""Garbage on its way through a source: whatever comes, each message has one outcome, and good ones are handled."""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from pathlib import Path
from typing import Any

import orjson
from sqlmodel import select

from pipeline.config.limits import Limits
from pipeline.connectors import Message, Outgoing, Start
from pipeline.dispatch.window import Window
from pipeline.events import Event
from pipeline.handlers import Context
from pipeline.ledger.tables import OutcomeRow
from pipeline_plugins.memory import MemoryConnector, MemoryStore
from pipeline_plugins.rabbitmq_streams.amqp import MessageReader
from pipeline_plugins.rabbitmq_streams.amqp_writer import encode_message
from pipeline_plugins.rabbitmq_streams.chunks import Chunk
from tests.fuzz.seeds import SEEDS
from tests.pipeline.dispatch.harness import Bench, bench, stage
from tests.plugins.rabbitmq_streams.chunk_frames import block, deliver, entry

LIMITS = Limits(event="2KiB", nesting=20, headers=5, header_bytes=200)
GOOD = orjson.dumps({"k": 1})
HOSTILE: tuple[dict[str, Any], ...] = (
    {"body": b'{"k":"\\u0000"}', "routing_key": "a.\0"},
    {"body": GOOD, "id": "\0"},
    {"body": GOOD, "headers": {"\0": "\0"}},
    {"body": b"", "id": "\0e", "headers": {"h\0": ["\0", {"\0": 1}]}, "content_type": "\0"},
    {"body": b"[" * 100_000, "routing_key": "\0"},
    {"body": bytes(3000)},
    {"body": GOOD, "headers": {str(number): number for number in range(6)}},
    {"body": GOOD, "headers": {"h": "x" * 300}},
    {"body": GOOD, "routing_key": "k" * 300},
    {"body": b'{"k":1,"k":2}'},
    {"body": b'{"k":18446744073709551616}'},
    {"body": b'{"k":' + b"[" * 25 + b"]" * 25 + b"}"},
)


async def handle(event: Event[Any], context: Context) -> None:
    """Takes any event."""


def mangled(dice: random.Random, data: bytes) -> bytes:
    wrong = bytearray(data)
    for _ in range(dice.randint(1, 4)):
        pos = dice.randrange(len(wrong) + 1)
        wrong[pos : pos + dice.randint(0, 3)] = dice.randbytes(dice.randint(0, 3))
    return bytes(wrong)


async def check(pipe: Bench, messages: list[Message]) -> Counter[str]:
    """Each offset has one outcome, each dead one its bytes; says how many dead letters there are of each kind."""
    await pipe.settle(len(messages))
    rows = await pipe.database.fetch(OutcomeRow, select(OutcomeRow))
    dead = await pipe.dead()
    assert Counter(row.offset for row in rows) == Counter(message.offset for message in messages)
    assert Counter(row.offset for row in rows if row.outcome == "dead") == Counter(letter.offset for letter in dead)
    bodies = {message.offset: message.body for message in messages}
    assert all(letter.body == bodies[letter.offset] for letter in dead)
    assert pipe.lease.progress.prefix == messages[-1].offset
    assert isinstance(pipe.source.window, Window)
    assert not pipe.ended
    return Counter(letter.kind for letter in dead)


async def test_garbage_among_good_messages_has_one_outcome_each(tmp_path: Path) -> None:
    dice = random.Random(4)
    good = encode_message(Outgoing(GOOD, "a.b", ""))
    entries, records = [], 0
    for _ in range(600):
        packed = [mangled(dice, dice.choice(SEEDS["amqp"]())) for _ in range(dice.randint(1, 3))]
        match dice.randrange(4):
            case 0:
                entries.append(entry(packed[0]))
                records += 1
            case 1:
                entries.append(block(packed, dice.randrange(6), dice.randbytes(9)))
                records += len(packed)
            case _:
                entries.append(entry(good))
                records += 1
    messages: list[Message] = []
    Chunk(deliver(entries, 10, records)).take(MessageReader(), messages, 10_000)
    assert messages[-1].offset == 10 + records - 1
    async with bench(tmp_path, [stage("x", handle)], journal=True, limits=LIMITS) as pipe:
        for begin in range(0, len(messages), 100):
            await pipe.feed(*messages[begin : begin + 100])
        kinds = await check(pipe, messages)
    assert kinds["undecodable"] > 200
    assert pipe.outcomes["handled"] >= sum(message.body == GOOD for message in messages)


async def test_hostile_messages_have_one_outcome_each_and_the_kind_that_says_why(tmp_path: Path) -> None:
    messages = [Message(number, 8, **{"routing_key": "a.b", **hostile}) for number, hostile in enumerate(HOSTILE * 3)]
    async with bench(tmp_path, [stage("x", handle)], journal=True, dedupe="1h", limits=LIMITS) as pipe:
        await pipe.feed(*messages)
        kinds = await check(pipe, messages)
    assert kinds == {
        "undecodable": 1,  # the second and third are duplicates
        "too_big": 6,
        "too_deep": 3,
        "too_many_headers": 3,
        "headers_too_big": 3,
        "routing_key_too_long": 3,
        "duplicate_keys": 3,
        "huge_number": 3,
    }
    assert pipe.outcomes == {"handled": 7, "duplicate": 4, "dead": 25}


async def test_the_memory_connector_brings_garbage_like_any_other(tmp_path: Path) -> None:
    dice = random.Random(5)
    connector = MemoryConnector("memory://garbage", MemoryStore())
    await connector.connect()
    await connector.create_stream("st")
    bodies = [mangled(dice, dice.choice(SEEDS["event"]())) if dice.random() < 0.5 else GOOD for _ in range(500)]
    await connector.publish("st", [Outgoing(body, "a.b", "") for body in bodies])
    reader = connector.read("st", Start("first"), name="test")
    async with bench(tmp_path, [stage("x", handle)], journal=True, limits=LIMITS) as pipe:
        messages: list[Message] = []
        async for batch in reader:
            messages += batch
            await pipe.feed(*batch)
            if len(messages) == len(bodies):
                break
        await check(pipe, messages)
    await connector.close()
    assert pipe.outcomes["handled"] >= bodies.count(GOOD)
    assert pipe.outcomes["dead"] > 100


async def test_large_bodies_in_flight_pause_reading_until_they_are_done(tmp_path: Path) -> None:
    go_on = asyncio.Event()

    async def wait(event: Event[Any], context: Context) -> None:
        await go_on.wait()

    body = orjson.dumps({"k": "x" * 500})
    async with bench(tmp_path, [stage("x", wait)], limits=Limits(in_flight=1000)) as pipe:
        await pipe.feed(Message(0, 8, body, "a.b"))
        assert not pipe.source.window.paused
        await pipe.feed(Message(1, 8, body, "a.b"))
        assert list(pipe.source.window.paused) == ["window"]
        assert "1016 bytes" in pipe.source.window.paused["window"]
        go_on.set()
        await pipe.settle(2)
        assert not pipe.source.window.paused
