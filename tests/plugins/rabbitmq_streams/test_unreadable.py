"""Chunks that are damaged where they lie, header and all: each is read, or told as an error; none is met in vain."""

from __future__ import annotations

import logging
import struct
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.connectors import Message, Outgoing, Start, Unreadable
from pipeline.errors import Unavailable
from pipeline_plugins.rabbitmq_streams.amqp_writer import encode_message
from pipeline_plugins.rabbitmq_streams.damage import Damage
from pipeline_plugins.rabbitmq_streams.link import Link
from pipeline_plugins.rabbitmq_streams.reader import Subscription
from pipeline_plugins.rabbitmq_streams.url import Address
from tests.plugins.rabbitmq_streams.chunk_frames import deliver, entry

HEARTBEAT = struct.pack(">IHH", 4, 0x0017, 1)
FIRST = Start("first")


class Node(Link):
    """A link to a broker that says what the test has it say."""

    def __init__(self) -> None:
        super().__init__(Address("broker", 5552), "broker", 5552)

    async def request(self, *args: Any, **kwargs: Any) -> Any:
        return SimpleNamespace(response_code=1)

    def send(self, frame: Any) -> None:
        self.check()

    def says(self, *frames: bytes) -> None:
        self.data_received(b"".join(len(frame).to_bytes(4, "big") + frame for frame in frames))

    def stands_still(self) -> None:
        """Half a heartbeat passes in which nothing comes; the transport, to send one on, is not there."""
        if not self.is_lost and self._ends_short():
            self.end("it ended short")
        self._silent += 1


def chunk(*numbers: int) -> bytes:
    return deliver([entry(encode_message(Outgoing(b"{}", "k", str(number)))) for number in numbers], first=numbers[0])


def with_header(frame: bytes, at: int, form: str, number: int) -> bytes:
    changed = bytearray(frame)
    struct.pack_into(form, changed, 5 + at, number)
    return bytes(changed)


async def subscribed(damage: Damage, start: Start = FIRST) -> tuple[Node, Subscription]:
    node = Node()
    subscription = Subscription(node, "s", start, damage)
    assert await subscription.open()
    return node, subscription


async def read_all(subscription: Subscription) -> list[Message]:
    """All messages until the link is dead."""
    messages: list[Message] = []
    try:
        while True:
            messages += await subscription.batch(500)
    except Unreadable:
        raise
    except Unavailable:
        return messages


@pytest.mark.parametrize("number", [0, 1, 3, 2**31])
async def test_a_chunk_with_a_wrong_number_of_messages_is_read_and_the_next_read_begins_behind_it(
    number: int, caplog: pytest.LogCaptureFixture
) -> None:
    node, subscription = await subscribed(Damage())
    node.says(chunk(0), with_header(chunk(1, 2), 4, ">I", number))
    assert [message.id for message in await read_all(subscription)] == ["0", "1", "2"]
    assert node.is_lost, "the broker goes by that header, and would send nothing more, or close the connection"
    (error,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "stream s: the header of the chunk at offset 1 is damaged" in error.getMessage()


async def test_such_a_chunk_is_told_of_once_and_is_no_end_where_reading_begins_behind_it(
    caplog: pytest.LogCaptureFixture,
) -> None:
    node, subscription = await subscribed(Damage(), Start("offset", 2))
    node.says(with_header(chunk(0, 1), 4, ">I", 70000), chunk(2))
    assert [message.id for message in await subscription.batch(500)] == ["2"]
    assert not node.is_lost
    assert not caplog.records


@pytest.mark.parametrize("behind", [b"", HEARTBEAT, HEARTBEAT * 3, b"\x50\x00 other bytes of the file"])
async def test_a_chunk_that_announces_more_than_the_disk_has_is_taken_when_nothing_more_comes(behind: bytes) -> None:
    frame = chunk(0, 1)
    node, subscription = await subscribed(Damage())
    longer = with_header(frame, 36, ">I", len(frame) - 53 + 65536)
    node.data_received((len(frame) + 65536).to_bytes(4, "big") + longer + behind)
    node.stands_still()
    node.stands_still()
    assert node.is_lost
    assert [message.id for message in await read_all(subscription)] == ["0", "1"]


async def test_a_chunk_that_is_still_on_its_way_is_waited_for() -> None:
    frame = chunk(0, 1)
    node, subscription = await subscribed(Damage())
    node.data_received(len(frame).to_bytes(4, "big") + frame[:-3])
    node.stands_still()
    node.stands_still()
    assert not node.is_lost
    node.data_received(frame[-3:])
    assert [message.id for message in await subscription.batch(500)] == ["0", "1"]


@pytest.mark.parametrize(
    ("says", "reason"),
    [
        ([], "it closed the connection"),
        ([with_header(chunk(7), 4, ">I", 2**31)[:-1] + b"?"], "can't hold 2147483648 messages in 1 entries"),
    ],
    ids=["the broker hangs up", "the header can't be right, nor is the checksum"],
)
async def test_a_place_from_which_nothing_can_be_read_again_and_again_is_told(says: list[bytes], reason: str) -> None:
    damage, start = Damage(), Start("offset", 7)
    ends: list[Unavailable] = []
    for _ in range(6):
        node, subscription = await subscribed(damage, start)
        node.says(HEARTBEAT[4:], *says)
        node.connection_lost(None)
        with pytest.raises(Unavailable) as end:
            await subscription.batch(500)
        ends.append(end.value)
    assert [isinstance(end, Unreadable) for end in ends] == [False] * 4 + [True] * 2
    for part in ("'s' can't be read from offset 7", "delete_replica", reason):
        assert part in str(ends[-1])


async def test_a_place_that_could_be_read_once_is_no_dead_end() -> None:
    damage = Damage()
    for times in (4, 4):
        for _ in range(times):
            node, subscription = await subscribed(damage)
            node.connection_lost(None)
            assert await read_all(subscription) == []
        node, subscription = await subscribed(damage)
        node.says(chunk(0))
        node.connection_lost(None)
        assert len(await read_all(subscription)) == 1


async def test_a_link_that_breaks_after_a_while_is_no_dead_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream in which nothing happens has such an end whenever the network breaks."""
    now = 0.0
    monkeypatch.setattr("pipeline_plugins.rabbitmq_streams.reader.monotonic", lambda: now)
    damage = Damage()
    for _ in range(8):
        node, subscription = await subscribed(damage)
        now += 6
        node.connection_lost(None)
        assert await read_all(subscription) == []
