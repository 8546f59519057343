"""Publishing to the embedded log and reading it, beyond the contract: transactions, full disks, other writers."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import time
from collections.abc import AsyncIterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from pipeline.connectors import BrokerRefused, Outgoing, Start, StreamBounds
from pipeline.errors import Unavailable
from pipeline_plugins.embedded import EmbeddedConnector
from pipeline_plugins.embedded.file import pragma
from pipeline_plugins.embedded.log import Append, Log
from pipeline_plugins.wakeup import Wakeup


def event(number: int, body: bytes = b"{}") -> Outgoing:
    return Outgoing(body, "a.b", f"id-{number}")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "events.db"


@pytest.fixture
async def connector(path: Path) -> AsyncIterator[EmbeddedConnector]:
    connector = EmbeddedConnector(f"embedded://{path}")
    await connector.connect()
    await connector.create_stream("s")
    yield connector
    await connector.close()


def _pragma(log: Log, statement: str) -> Any:
    return pragma(log._db, statement)


async def test_publishers_that_wait_share_a_transaction(
    connector: EmbeddedConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    transactions: list[int] = []
    append = Log.append

    def counted(log: Log, calls: list[Append]) -> Any:
        transactions.append(len(calls))
        return append(log, calls)

    monkeypatch.setattr(Log, "append", counted)
    await asyncio.gather(*(connector.publish("s", [event(number)]) for number in range(100)))

    assert sum(transactions) == 100
    assert len(transactions) <= 3
    timestamps = [await connector.timestamp_at("s", offset) for offset in range(100)]
    assert None not in timestamps


async def test_a_confirmed_publish_is_on_the_disk(connector: EmbeddedConnector) -> None:
    session = connector._session
    assert session is not None
    assert await session.write(_pragma, "journal_mode") == "wal"
    assert await session.write(_pragma, "synchronous") == 2, "FULL: the write-ahead log is synced at each commit"


async def test_a_message_that_can_t_be_kept_fails_alone(connector: EmbeddedConnector) -> None:
    bad = Outgoing(b"{}", "lone \ud800 surrogate", "id-2")

    outcomes = await asyncio.gather(
        connector.publish("s", [event(1)]),
        connector.publish("s", [bad]),
        connector.publish("s", [event(3)]),
        return_exceptions=True,
    )

    assert [type(outcome) for outcome in outcomes] == [type(None), UnicodeEncodeError, type(None)]
    assert await connector.bounds("s") == StreamBounds(0, 1)


async def test_a_cancelled_publisher_harms_no_other(connector: EmbeddedConnector) -> None:
    cancelled = asyncio.ensure_future(connector.publish("s", [event(1)]))
    other = asyncio.ensure_future(connector.publish("s", [event(2)]))
    await asyncio.sleep(0)
    cancelled.cancel()
    await other

    bounds = await connector.bounds("s")
    assert bounds.last in (0, 1)


async def test_a_full_disk_is_waited_out(connector: EmbeddedConnector, path: Path) -> None:
    session = connector._session
    assert session is not None
    await session.write(_pragma, "max_page_count = 20")
    with pytest.raises(Unavailable, match="the disk is full"):
        await connector.publish("s", [event(1, bytes(500_000))])
    await session.write(_pragma, "max_page_count = 1000000")
    await connector.publish("s", [event(2)])

    (message,) = await anext(connector.read("s", Start("first"), name="test"))
    assert message.id == "id-2"


async def test_a_file_that_another_process_holds_is_waited_for_and_then_unavailable(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline_plugins.embedded.file.BUSY_TIMEOUT", 0.3)
    connector = EmbeddedConnector(f"embedded://{path}")
    await connector.connect()
    await connector.create_stream("s")
    with closing(sqlite3.connect(path, isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        publishing = asyncio.ensure_future(connector.publish("s", [event(1)]))
        turns = 0
        while not publishing.done():
            turns += 1
            await asyncio.sleep(0.001)
        with pytest.raises(Unavailable, match="another process"):
            await publishing
        assert turns > 50, "the event loop went on while the publisher waited"
        holder.execute("ROLLBACK")
    await connector.publish("s", [event(2)])
    await connector.close()


async def test_timestamps_never_fall(connector: EmbeddedConnector, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time_ns()
    for seconds in (20, 10, 30):
        monkeypatch.setattr("pipeline_plugins.embedded.log.time.time_ns", lambda seconds=seconds: now + seconds * 10**9)
        await connector.publish("s", [event(1)])

    first, second, third = [await connector.timestamp_at("s", offset) for offset in (0, 1, 2)]
    assert first == second
    assert third == (now + 30 * 10**9) // 10**6


# Reading


async def test_a_batch_of_large_messages_is_short(connector: EmbeddedConnector) -> None:
    body = os.urandom(3 * 1024 * 1024)
    await connector.publish("s", [event(number, body) for number in range(5)])
    read = []
    async for batch in connector.read("s", Start("first"), name="test"):
        read.append([message.offset for message in batch])
        if batch[-1].offset == 4:
            break

    assert read == [[0, 1], [2, 3], [4]]


async def test_so_is_one_of_messages_with_large_headers(connector: EmbeddedConnector) -> None:
    headers = {"h": "x" * (3 * 1024 * 1024)}
    await connector.publish("s", [Outgoing(b"{}", "a.b", str(number), headers) for number in range(3)])
    batch = await anext(connector.read("s", Start("first"), name="test"))
    assert [message.offset for message in batch] == [0, 1]
    assert batch[0].size > 3 * 1024 * 1024


@pytest.mark.parametrize("chunks", [1, 2, 3, 10, 64])
async def test_a_time_is_found_among_many_chunks(
    connector: EmbeddedConnector, chunks: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    for chunk in range(chunks):
        monkeypatch.setattr("pipeline_plugins.embedded.log.time.time_ns", lambda chunk=chunk: (chunk + 1) * 10**9)
        await connector.publish("s", [event(chunk), event(chunk)])

    for chunk in range(chunks):
        for moment in (chunk * 1000 + 1, (chunk + 1) * 1000):
            batch = await anext(connector.read("s", Start("time", moment), name="test"))
            assert batch[0].offset == chunk * 2


async def test_readers_of_one_process_share_the_file(connector: EmbeddedConnector, path: Path) -> None:
    other = EmbeddedConnector(f"embedded://{path.parent}/./{path.name}")
    await other.connect()
    await connector.publish("s", [event(1)])
    batches = [each.read("s", Start("first"), name="test") for each in (connector, other, connector)]

    assert [len(await anext(each)) for each in batches] == [1, 1, 1]
    await other.close()


async def test_what_is_not_connected_says_so(path: Path) -> None:
    with pytest.raises(Unavailable, match="not connected"):
        await EmbeddedConnector(f"embedded://{path}").probe()


async def test_connecting_at_once_opens_one_session(path: Path) -> None:
    connector = EmbeddedConnector(f"embedded://{path}")
    await asyncio.gather(*(connector.connect() for _ in range(10)))
    session = connector._session
    await connector.connect()

    assert connector._session is session
    await connector.close()


async def test_a_connect_that_is_cancelled_leaves_nothing_open(path: Path) -> None:
    connector = EmbeddedConnector(f"embedded://{path}")
    connecting = asyncio.ensure_future(connector.connect())
    await asyncio.sleep(0)
    connecting.cancel()
    await asyncio.wait({connecting})
    await connector.connect()
    await connector.close()

    assert connecting.cancelled()


async def test_last_begins_with_the_first_message_of_the_newest_chunk(connector: EmbeddedConnector) -> None:
    await connector.publish("s", [event(1), event(2)])
    await connector.publish("s", [event(3), event(4), event(5)])

    batch = await anext(connector.read("s", Start("last"), name="test"))
    assert [message.id for message in batch] == ["id-3", "id-4", "id-5"]


async def test_an_idle_reader_looks_for_more_every_10_to_50_milliseconds(
    connector: EmbeddedConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: list[float] = []
    enough = asyncio.Event()

    async def wait(wakeup: Wakeup, seen: int, timeout: float) -> None:
        waits.append(timeout)
        if len(waits) == 20:
            enough.set()
        await asyncio.sleep(0)

    monkeypatch.setattr(Wakeup, "wait", wait)
    reading = asyncio.ensure_future(anext(connector.read("s", Start("first"), name="test")))
    await asyncio.wait_for(enough.wait(), 10)
    reading.cancel()
    await asyncio.wait({reading})

    assert waits == sorted(waits)
    assert (waits[0], waits[19]) == (0.01, 0.05)


async def test_what_this_process_publishes_wakes_its_readers_at_once(
    connector: EmbeddedConnector, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline_plugins.embedded.connector._FIRST_POLL", 60.0)
    monkeypatch.setattr("pipeline_plugins.embedded.connector._LONGEST_POLL", 60.0)
    reading = asyncio.ensure_future(anext(connector.read("s", Start("first"), name="test")))
    await asyncio.sleep(0.05)
    await connector.publish("s", [event(1)])

    assert len(await asyncio.wait_for(reading, 5)) == 1


async def test_a_stream_that_is_created_anew_while_it_is_read_is_not_taken_for_the_old_one(
    connector: EmbeddedConnector, path: Path
) -> None:
    await connector.publish("s", [event(number) for number in range(3)])
    batches = connector.read("s", Start("first"), name="test")
    await anext(batches)
    with closing(Log(path, durable=False)) as log:
        log.delete("s")
    await connector.create_stream("s")
    await connector.publish("s", [event(number) for number in range(10)])

    with pytest.raises(BrokerRefused, match="was deleted"):
        await anext(batches)
