"""Where a source begins to read: at its first start, after a lost connection, and after a restart."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.models import Policy, SourceTable
from pipeline.connectors import Message, Outgoing, Start
from pipeline.dispatch.resume import Resume
from pipeline.errors import Unavailable
from pipeline.events import Event
from pipeline.handlers import Context
from pipeline_plugins.memory import MemoryConnector, MemoryStore
from tests.pipeline.dispatch.harness import Bench, bench, eventually, message, stage


async def nothing(event: Event[Any], context: Context) -> None:
    """Takes any event."""


async def stream(messages: int, store: MemoryStore | None = None) -> MemoryConnector:
    """A connected stream that holds so many messages."""
    connector = MemoryConnector("memory://resume", store or MemoryStore())
    await connector.connect()
    await connector.create_stream("st")
    await connector.publish("st", [Outgoing(b"{}", "a.b", str(number)) for number in range(messages)])
    return connector


def resume_of(pipe: Bench, connector: MemoryConnector, **source: Any) -> Resume:
    table = SourceTable(stream="st", group="g", **source)
    return Resume(connector, pipe.ledger, pipe.lease, pipe.source.window, table)


def numbered(message: Message) -> Message:
    """The message with a key of its own."""
    return Message(message.offset, message.timestamp, b'{"k": %d}' % message.offset, message.routing_key)


async def test_a_connection_lost_before_the_first_message_does_not_make_next_the_first(tmp_path: Path) -> None:
    connector = await stream(10)
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        resume = resume_of(pipe, connector, start="next")
        assert await resume.start() == Start("offset", 10)
        assert await resume.start() == Start("offset", 10)
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        assert await resume_of(pipe, connector, start="next").start() == Start("offset", 10)


async def test_what_comes_to_an_empty_stream_after_a_start_at_next_is_not_skipped_by_a_restart(tmp_path: Path) -> None:
    connector = await stream(0)
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        assert await resume_of(pipe, connector, start="next").start() == Start("offset", 0)
    await connector.publish("st", [Outgoing(b"{}", "a.b", "0")])
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        assert await resume_of(pipe, connector, start="next").start() == Start("first")


@pytest.mark.parametrize("start", ["next", "last", 100, "2026-01-31T12:00:00Z"])
async def test_a_stuck_first_message_does_not_take_a_restart_back_to_what_was_before_the_start(
    tmp_path: Path, start: Any
) -> None:
    connector = await stream(200)

    async def handle(event: Event[Any], context: Context) -> None:
        if event.offset == 100:
            await asyncio.Event().wait()

    async with bench(tmp_path, [stage("x", handle, Policy(timeout=None))]) as pipe:
        await pipe.feed(*(numbered(message) for message in connector.store.log("st").messages[100:105]))
        await pipe.settle(4)
        assert (pipe.lease.progress.prefix, pipe.lease.progress.ahead) == (99, ((101, 104),))
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        assert await resume_of(pipe, connector, start=start).start() == Start("offset", 100)


async def test_the_place_of_the_first_message_is_kept_before_any_is_finished(tmp_path: Path) -> None:
    async def stuck(event: Event[Any], context: Context) -> None:
        await asyncio.Event().wait()

    async with bench(tmp_path, [stage("x", stuck, Policy(timeout=None))]) as pipe:
        await pipe.feed(message(100))
        await eventually(lambda: pipe.lease.started)
        assert pipe.lease.progress.prefix == 99


async def test_a_stream_created_anew_is_read_from_its_first_message_by_a_group_that_finished_none(
    tmp_path: Path,
) -> None:
    connector = await stream(10)
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        await resume_of(pipe, connector, start="next").start()
    connector.store.delete("st")
    await stream(3, connector.store)
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        assert await resume_of(pipe, connector, start="next").start() == Start("first")
        assert pipe.lease.incarnation == 1


@pytest.mark.parametrize("first", [0, 3])
async def test_a_stream_created_anew_is_noticed_also_where_its_very_first_message_was_stuck(
    tmp_path: Path, first: int
) -> None:
    connector = await stream(10)

    async def handle(event: Event[Any], context: Context) -> None:
        if event.offset == first:
            await asyncio.Event().wait()

    async with bench(tmp_path, [stage("x", handle, Policy(timeout=None))]) as pipe:
        await pipe.feed(*(numbered(message) for message in connector.store.log("st").messages[first:]))
        await pipe.settle(9 - first)
        assert (pipe.lease.progress.prefix, pipe.lease.progress.ahead) == (first - 1, ((first + 1, 9),))
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        assert await resume_of(pipe, connector, start=first).start() == Start("offset", first)
        assert pipe.lease.incarnation == 0
    connector.store.delete("st")
    time.sleep(0.002)
    await stream(10, connector.store)
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        assert await resume_of(pipe, connector, start=first).start() == Start("first")
        assert (pipe.lease.incarnation, pipe.lease.progress.ahead) == (1, ())
        await pipe.source.admit(list(connector.store.log("st").messages))
        await pipe.settle(10)


@pytest.mark.parametrize("first", [0, 3])
async def test_what_retention_removed_of_a_stream_whose_first_message_was_stuck_is_told(
    tmp_path: Path, first: int, caplog: pytest.LogCaptureFixture
) -> None:
    connector = await stream(10)

    async def stuck(event: Event[Any], context: Context) -> None:
        await asyncio.Event().wait()

    async with bench(tmp_path, [stage("x", stuck, Policy(timeout=None))]) as pipe:
        await pipe.source.admit(list(connector.store.log("st").messages[first:]))
        await eventually(lambda: pipe.lease.started)
    connector.store.trim("st", 7)
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        assert await resume_of(pipe, connector).start() == Start("first")
        assert pipe.lease.incarnation == 0
    assert f"{7 - first} offsets between were removed" in caplog.text


async def test_a_replica_that_does_not_hold_the_stuck_first_message_yet_is_waited_for(tmp_path: Path) -> None:
    connector = await stream(3)
    time.sleep(0.002)
    await connector.publish("st", [Outgoing(b"{}", "a.b", "later")])

    async def stuck(event: Event[Any], context: Context) -> None:
        await asyncio.Event().wait()

    log = connector.store.log("st")
    async with bench(tmp_path, [stage("x", stuck, Policy(timeout=None))]) as pipe:
        await pipe.source.admit(list(log.messages[3:]))
        await eventually(lambda: pipe.lease.started)
        behind = log.messages.pop()
        log.next = 3
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        with pytest.raises(Unavailable, match="ends at 2"):
            await resume_of(pipe, connector, start=3).start()
        log.messages.append(behind)
        log.next = 4
        assert await resume_of(pipe, connector, start=3).start() == Start("offset", 3)
        assert pipe.lease.incarnation == 0


async def test_a_replica_that_lags_behind_is_waited_for_and_not_taken_for_a_new_stream(tmp_path: Path) -> None:
    connector = await stream(10)
    log = connector.store.log("st")
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        await pipe.source.admit(list(log.messages))
        await pipe.settle(10)
        behind = log.messages[8:]
        del log.messages[8:]
        log.next = 8
        resume = resume_of(pipe, connector)
        with pytest.raises(Unavailable, match="ends at 7"):
            await resume.start()
        log.messages += behind
        log.next = 10
        assert await resume.start() == Start("offset", 10)
        assert pipe.lease.incarnation == 0


async def test_a_stream_whose_end_moves_back_while_it_is_looked_at_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    class Flipping(MemoryConnector):
        async def timestamp_at(self, stream: str, offset: int) -> int | None:
            return None  # as a node tells that is further behind than the one asked before

    connector = await stream(8)
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        await pipe.feed(*(message(offset, {"k": offset}) for offset in range(10)))
        await pipe.settle(10)
        flipping = Flipping("memory://resume", connector.store)
        await flipping.connect()
        with pytest.raises(Unavailable, match="ends at 7"):
            await resume_of(pipe, flipping).start()
        assert pipe.lease.incarnation == 0


async def test_a_shorter_stream_with_newer_messages_is_a_new_one(tmp_path: Path) -> None:
    connector = await stream(10)
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        await pipe.source.admit(list(connector.store.log("st").messages))
        await pipe.settle(10)
        connector.store.delete("st")
        time.sleep(0.002)
        await stream(3, connector.store)
        assert await resume_of(pipe, connector).start() == Start("first")
        assert pipe.lease.incarnation == 1
        await pipe.source.admit(list(connector.store.log("st").messages))
        await pipe.settle(13)


async def test_retention_that_removed_only_what_was_finished_is_no_loss(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    connector = await stream(10)
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        await pipe.source.admit(list(connector.store.log("st").messages[:5]))
        await pipe.settle(5)
        connector.store.trim("st", 5)
        resume = resume_of(pipe, connector)
        assert await resume.start() in (Start("first"), Start("offset", 5))
        assert "retention" not in caplog.text
        connector.store.trim("st", 7)
        assert await resume.start() == Start("first")
        assert "removed by retention" in caplog.text


async def test_what_retention_removed_before_the_first_message_was_finished_is_told_and_counted_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    connector = await stream(0)
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        await resume_of(pipe, connector, start="next").start()
    await connector.publish("st", [Outgoing(b"{}", "a.b", str(number)) for number in range(10)])
    connector.store.trim("st", 5)
    lost: list[int] = []
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        table = SourceTable(stream="st", group="g", start="next")
        resume = Resume(connector, pipe.ledger, pipe.lease, pipe.source.window, table, lost.append)
        assert await resume.start() == Start("first")
        assert await resume.start() == Start("first")  # the read has failed before anything came
        assert lost == [5]
        connector.store.trim("st", 7)
        assert await resume.start() == Start("first")
        assert lost == [5, 2]
    assert "come to none: 5 offsets between were removed by retention" in caplog.text


async def test_a_group_that_has_finished_nothing_of_a_whole_stream_has_lost_nothing(tmp_path: Path) -> None:
    connector = await stream(0)
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        await resume_of(pipe, connector, start="next").start()
        await connector.publish("st", [Outgoing(b"{}", "a.b", "0")])
        lost: list[int] = []
        table = SourceTable(stream="st", group="g")
        resume = Resume(connector, pipe.ledger, pipe.lease, pipe.source.window, table, lost.append)
        pipe.source.window.reset(pipe.lease.progress)
        assert await resume.start() == Start("first")
        assert lost == []


async def test_chunks_that_come_to_an_empty_stream_after_a_start_at_the_last_are_all_read(tmp_path: Path) -> None:
    connector = await stream(0)
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        resume = resume_of(pipe, connector, start="last")
        assert await resume.start() == Start("offset", 0)
        await connector.publish("st", [Outgoing(b"{}", "a.b", "0")])
        await connector.publish("st", [Outgoing(b"{}", "a.b", "1")])
        assert await resume.start() == Start("first")  # the connection was lost meanwhile
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        assert await resume_of(pipe, connector, start="last").start() == Start("first")


async def test_a_start_at_the_last_begins_at_the_last_chunk_of_a_stream_that_holds_some(tmp_path: Path) -> None:
    connector = await stream(3)
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        assert await resume_of(pipe, connector, start="last").start() == Start("last")
        assert not pipe.lease.started


async def test_a_gap_is_counted_once_however_often_the_connection_is_lost_before_it_is_passed(tmp_path: Path) -> None:
    connector, lost = await stream(20), []
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        await pipe.feed(*(message(offset) for offset in range(3)))
        await pipe.settle(3)
        table = SourceTable(stream="st", group="g")
        resume = Resume(connector, pipe.ledger, pipe.lease, pipe.source.window, table, lost.append)
        connector.store.trim("st", 8)
        assert await resume.start() == Start("first")
        assert await resume.start() == Start("first")
        assert lost == [5]
        connector.store.trim("st", 10)
        await resume.start()
        assert lost == [5, 2]
