"""A stream that lost its end, as one that was restored from a copy: what is left of it is not handled again."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager, closing
from pathlib import Path
from typing import Any, cast

import pytest

from pipeline.config.models import Policy, SourceTable
from pipeline.connectors import Outgoing, Start
from pipeline.dispatch.resume import Resume
from pipeline.errors import Unavailable
from pipeline.events import Event
from pipeline.handlers import Context
from pipeline_plugins.embedded import EmbeddedConnector
from pipeline_plugins.memory import MemoryConnector, MemoryStore
from tests.pipeline.dispatch.harness import Bench, bench, stage
from tests.pipeline.dispatch.test_resume import nothing, resume_of

MINUTE = 60_000


def now() -> int:
    return time.time_ns() // 1_000_000


class Old:
    """A stream in memory whose messages are as old as the test says, and whose end can be cut off."""

    def __init__(self) -> None:
        self.connector = MemoryConnector("memory://old", MemoryStore())
        self.began = now()

    async def create(self) -> None:
        await self.connector.connect()
        await self.connector.create_stream("st")

    @property
    def log(self) -> Any:
        return self.connector.store.log("st")

    def append(self, *minutes_ago: int, id: str = "") -> None:  # noqa: A002
        """One message each, written so long ago."""
        for ago in minutes_ago:
            self.log.append([Outgoing(b"{}", "a.b", id)], self.began - ago * MINUTE)

    def cut(self, end: int) -> None:
        """Lose all from this offset on."""
        del self.log.messages[end - self.log.first :]
        self.log.next = end

    async def read(self, pipe: Bench, start: Start, count: int) -> None:
        """Let the source take in what is there from this place on, and handle it."""
        processed = pipe.stats.processed
        async with aclosing(cast("Any", self.connector.read("st", start, name="test"))) as batches:
            await pipe.source.admit(await anext(batches))
        await pipe.settle(processed + count)


@pytest.fixture
async def old() -> Old:
    made = Old()
    await made.create()
    return made


@pytest.mark.parametrize("new", [1, 9], ids=["shorter than the progress", "grown past it"])
async def test_a_stream_that_lost_its_end_is_read_on_behind_what_is_left_of_it(
    old: Old, new: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    handled: list[str] = []

    async def note(event: Event[Any], context: Context) -> None:
        handled.append(event.id)

    old.append(*range(400, 100, -30))
    async with bench(tmp_path, [stage("x", note)]) as pipe:
        await old.read(pipe, Start("first"), 10)
        old.cut(6)
        with pytest.raises(Unavailable, match="ends at 5"):
            await resume_of(pipe, old.connector).start()
        old.append(*[1] * new)
        assert await resume_of(pipe, old.connector).start() == Start("offset", 6)
        await old.read(pipe, Start("offset", 6), new)
    assert handled[10:] == [f"st/1/{offset}" for offset in range(6, 6 + new)]  # the old ones had other ids
    told = [record.message for record in caplog.records if "lost its end" in record.message]
    assert len(told) == 1
    assert "finished offset 9" in told[0]
    assert "from offset 6 on" in told[0]


async def test_a_restart_goes_on_where_the_first_run_did_that_found_the_end_lost(
    old: Old, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old.append(*range(400, 100, -30))
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        await old.read(pipe, Start("first"), 10)
    old.cut(6)
    old.append(1, 1)
    for _ in range(2):
        async with bench(tmp_path, [stage("x", nothing)]) as pipe:
            assert await resume_of(pipe, old.connector).start() == Start("offset", 6)
            assert await resume_of(pipe, old.connector).start() == Start("offset", 6)
            assert (pipe.lease.incarnation, pipe.lease.progress.prefix) == (1, 5)
    assert caplog.text.count("lost its end") == 1
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        await old.read(pipe, Start("offset", 6), 2)
        assert await resume_of(pipe, old.connector).start() == Start("offset", 8)


async def test_what_was_handled_beyond_the_lost_end_does_not_pass_new_messages_by(old: Old, tmp_path: Path) -> None:
    async def stick(event: Event[Any], context: Context) -> None:
        if event.offset == 7:
            await asyncio.Event().wait()

    old.append(*range(400, 100, -30))
    async with bench(tmp_path, [stage("x", stick, Policy(timeout=None, concurrency=20))]) as pipe:
        for message in list(old.log.messages):
            message.body = b'{"k": %d}' % message.offset
        await old.read(pipe, Start("first"), 9)
        assert (pipe.lease.progress.prefix, pipe.lease.progress.ahead) == (6, ((8, 9),))
    old.cut(6)
    old.append(1, 1, 1, 1)
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        assert await resume_of(pipe, old.connector).start() == Start("offset", 6)
        assert pipe.lease.progress.ahead == ()
        await old.read(pipe, Start("offset", 6), 4)


@pytest.mark.parametrize("new", [1, 4], ids=["shorter than what was handled", "grown past it"])
async def test_an_end_that_was_lost_behind_a_stuck_message_does_not_pass_new_messages_by(
    old: Old, new: int, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def stick(event: Event[Any], context: Context) -> None:
        if event.offset in (2, 5):
            await asyncio.Event().wait()

    old.append(*range(400, 100, -30))
    for message in list(old.log.messages):
        message.body = b'{"k": %d}' % message.offset
    async with bench(tmp_path, [stage("x", stick, Policy(timeout=None, concurrency=20))]) as pipe:
        await old.read(pipe, Start("first"), 8)
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        assert await resume_of(pipe, old.connector).start() == Start("offset", 2)
        assert pipe.lease.progress.ahead == ((3, 4), (6, 9))
    old.cut(7)
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        with pytest.raises(Unavailable, match="ends at 6, and this group has come to 9"):
            await resume_of(pipe, old.connector).start()
        old.append(*[1] * new)
        for _ in range(2):
            assert await resume_of(pipe, old.connector).start() == Start("offset", 2)
        assert (pipe.lease.incarnation, pipe.lease.progress.ahead) == (1, ((3, 4), (6, 6)))
        await old.read(pipe, Start("offset", 2), 2 + new)
    assert caplog.text.count("has lost its end") == 1


async def test_messages_of_the_minutes_before_the_lost_end_are_read_too_for_clocks_differ(
    old: Old, tmp_path: Path
) -> None:
    old.append(200, 100, 95, 92, 91, 90)
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        await old.read(pipe, Start("first"), 6)
        old.cut(4)
        old.append(89)  # the broker's clock has gone on, but not by much
        assert await resume_of(pipe, old.connector).start() == Start("offset", 1)


async def test_ids_that_are_remembered_are_not_handled_again_after_a_lost_end(old: Old, tmp_path: Path) -> None:
    old.append(200)
    old.append(95, id="a")
    old.append(91, id="b")
    async with bench(tmp_path, [stage("x", nothing)], dedupe=86400.0) as pipe:
        await old.read(pipe, Start("first"), 3)
        old.cut(2)
        old.append(1, id="c")
        assert await resume_of(pipe, old.connector).start() == Start("offset", 1)
        await old.read(pipe, Start("offset", 1), 2)
        assert pipe.outcomes == {"handled": 4, "duplicate": 1}


async def test_a_trimmed_stream_that_lost_its_end_is_read_on_behind_what_is_left_of_it(
    old: Old, tmp_path: Path
) -> None:
    old.append(*range(400, 100, -30))
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        await old.read(pipe, Start("first"), 10)
        old.connector.store.trim("st", 3)
        old.cut(6)
        old.append(1)
        assert await resume_of(pipe, old.connector).start() == Start("offset", 6)


async def test_a_young_stream_that_was_created_anew_is_read_from_its_first_message(
    old: Old, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    old.append(*range(400, 100, -30))
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        await old.read(pipe, Start("first"), 10)
        old.connector.store.delete("st")
        await old.connector.create_stream("st")
        old.append(105, 104)  # a clock that is behind by less than the margin
        old.append(1)
        assert await resume_of(pipe, old.connector).start() == Start("first")
        assert pipe.lease.progress.prefix == -1
    assert "created anew" in caplog.text
    assert "lost its end" not in caplog.text


async def test_a_stream_that_delivers_nothing_while_it_is_looked_at_is_waited_for(
    old: Old, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.dispatch.resume._ANSWER_SECONDS", 0.01)
    old.append(*range(400, 100, -30))
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        await old.read(pipe, Start("first"), 10)
        old.cut(6)
        old.append(1)

        async def silent(*args: Any, **options: Any) -> AsyncIterator[Any]:
            await asyncio.Event().wait()
            yield

        monkeypatch.setattr(old.connector, "read", silent)
        with pytest.raises(Unavailable, match="delivers nothing"):
            await resume_of(pipe, old.connector).start()
        assert (pipe.lease.incarnation, pipe.lease.progress.prefix) == (0, 9)


@asynccontextmanager
async def embedded(path: Path) -> AsyncIterator[EmbeddedConnector]:
    connector = EmbeddedConnector(f"embedded://{path}")
    await connector.connect()
    try:
        yield connector
    finally:
        await connector.close()


async def test_a_file_of_the_embedded_broker_that_was_restored_is_read_on_behind_its_end(tmp_path: Path) -> None:
    path, copy = tmp_path / "events.db", tmp_path / "copy.db"
    async with embedded(path) as connector, bench(tmp_path, [stage("x", nothing)]) as pipe:
        await connector.create_stream("st")
        await connector.publish("st", [Outgoing(b"{}", "a.b", "") for _ in range(4)])
        with closing(sqlite3.connect(path)) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
            for table, column in (("messages", "timestamp"), ("streams", "last_timestamp")):
                target.execute(f"UPDATE {table} SET {column} = {column} - {60 * MINUTE}")
            target.commit()
        await connector.publish("st", [Outgoing(b"{}", "a.b", "") for _ in range(6)])
        async with aclosing(cast("Any", connector.read("st", Start("first"), name="test"))) as batches:
            await pipe.source.admit(await anext(batches))
        await pipe.settle(10)
        await connector.close()
        for name in ("events.db-wal", "events.db-shm"):
            (tmp_path / name).unlink(missing_ok=True)
        copy.replace(path)
        await connector.connect()
        resume = Resume(connector, pipe.ledger, pipe.lease, pipe.source.window, SourceTable(stream="st", group="g"))
        with pytest.raises(Unavailable, match="ends at 3"):
            await resume.start()
        time.sleep(0.002)
        await connector.publish("st", [Outgoing(b"{}", "a.b", "new")])
        assert await resume.start() == Start("offset", 4)
        assert (pipe.lease.incarnation, pipe.lease.progress.prefix) == (1, 3)
