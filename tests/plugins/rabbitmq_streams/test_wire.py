"""The wire: frames arrive whole however they are cut, and whatever goes wrong ends it, once and for all."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.errors import Unavailable
from pipeline_plugins.rabbitmq_streams import link
from pipeline_plugins.rabbitmq_streams.link import Link
from pipeline_plugins.rabbitmq_streams.url import Address
from pipeline_plugins.rabbitmq_streams.wire import FRAME_MAX, SILENT_TICKS, Wire
from tests.plugins.rabbitmq_streams.support import eventually

ADDRESS = Address("broker", 5552)


class Recorder(Wire):
    """A wire that keeps what it hears."""

    def __init__(self) -> None:
        super().__init__(ADDRESS, "broker", 5552)
        self.frames: list[bytes] = []
        self.endings = 0

    def received(self, frame: bytes) -> None:
        if frame == b"bad":
            raise KeyError("unknown frame")
        self.frames.append(frame)

    def ended(self) -> None:
        self.endings += 1


def framed(frame: bytes) -> bytes:
    return len(frame).to_bytes(4, "big") + frame


@given(st.lists(st.binary(min_size=4, max_size=300), max_size=10), st.data())
def test_frames_come_whole_however_they_are_cut(frames: list[bytes], data: st.DataObject) -> None:
    wire = Recorder()
    rest = b"".join(map(framed, frames))
    while rest:
        size = data.draw(st.integers(1, len(rest)))
        wire.data_received(rest[:size])
        rest = rest[size:]
    assert wire.frames == frames
    assert not wire.is_lost


def test_a_frame_that_can_t_be_read_ends_the_wire() -> None:
    wire = Recorder()
    wire.data_received(framed(b"good") + framed(b"bad"))
    assert wire.frames == [b"good"]
    assert wire.endings == 1
    with pytest.raises(Unavailable, match="can't be read: KeyError"):
        wire.check()


def test_the_first_reason_of_an_end_is_kept() -> None:
    wire = Recorder()
    wire.end("the first")
    wire.end("the second")
    wire.connection_lost(None)
    assert wire.endings == 1
    with pytest.raises(Unavailable, match="the first"):
        wire.check()


@pytest.mark.parametrize("greeting", [b"AMQP\x00\x00\x09\x01", b"HTTP/1.1 400 Bad Request\r\n"])
def test_another_protocol_is_recognised(greeting: bytes) -> None:
    wire = Recorder()
    wire.data_received(greeting)
    with pytest.raises(Unavailable, match="does not speak the stream protocol"):
        wire.check()


async def test_after_the_login_a_frame_may_be_large() -> None:
    wire = Recorder()
    wire._transport = _Sink()
    wire.trust(60)
    wire.data_received((FRAME_MAX + 10).to_bytes(4, "big"))
    assert not wire.is_lost
    wire.abort()


class _Sink(asyncio.Transport):
    """A transport that takes everything; nothing comes but what `answer` has come."""

    def __init__(self, answer: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.written: list[bytes] = []
        self._answer = answer

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))
        self._answer()

    def abort(self) -> None:
        pass


async def test_a_silent_peer_is_given_up_after_two_and_a_half_heartbeats() -> None:
    wire = Recorder()
    wire._transport = sink = _Sink()
    wire.trust(0.04)
    await eventually(lambda: wire.is_lost, "it is given up")
    assert len(sink.written) == 5
    with pytest.raises(Unavailable, match=r"nothing was heard for 0\.1 seconds"):
        wire.check()


async def test_a_peer_that_is_heard_is_kept() -> None:
    wire = Recorder()
    wire._transport = sink = _Sink(lambda: wire.data_received(framed(b"\x00\x17\x00\x01")))
    wire.trust(0.02)
    await eventually(lambda: len(sink.written) > 3 * SILENT_TICKS or wire.is_lost, "it sends on")
    assert not wire.is_lost
    wire.abort()


async def test_a_process_that_was_stopped_does_not_give_up_its_peer() -> None:
    wire = Recorder()
    wire._transport = _Sink()
    wire.trust(0.1)
    time.sleep(0.5)  # the loop stands still, as in a process that was stopped or swapped out
    await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    assert not wire.is_lost
    wire.abort()


async def test_a_peer_that_never_answers_the_login_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(link, "ANSWER_SECONDS", 0.2)
    hung_up = asyncio.Event()

    async def say_nothing(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()
        hung_up.set()

    server = await asyncio.start_server(say_nothing, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(Unavailable, match="no answer to PeerProperties"):
        await Link.open(Address("127.0.0.1", port), "test")
    await asyncio.wait_for(hung_up.wait(), 10)
    server.close()


async def test_a_peer_that_hangs_up_at_once_is_told_from_one_that_does_later() -> None:
    server = await asyncio.start_server(lambda reader, writer: writer.close(), "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    with pytest.raises(Unavailable, match=r"closed the connection at once: .*5552"):
        await Link.open(Address("127.0.0.1", port), "test")
    server.close()


async def test_nobody_there_is_unavailable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound and not listening: nobody else can have it
        with pytest.raises(Unavailable, match="no connection"):
            await Link.open(Address("127.0.0.1", taken.getsockname()[1]), "test")
