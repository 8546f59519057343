"""The outbox is published in order, and no broker keeps it from being published later."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from pipeline.connectors import BrokerRefused, Connector, MessageRefused, Outgoing
from pipeline.errors import Unavailable
from pipeline.jobs import publisher
from pipeline.jobs.figures import OutboxFigures, outbox_figures
from pipeline.jobs.outbox import publish
from pipeline.jobs.publisher import OutboxPublisher
from pipeline.ledger.database import Database
from pipeline_plugins.memory import MemoryConnector, MemoryStore
from tests.contract.driver import read_all
from tests.pipeline.jobs.samples import PIPELINE, messages

ONE_KIND = pytest.mark.parametrize("url", ["sqlite"], indirect=True)
"""What does not depend on the kind of database."""


class Moody(MemoryConnector):
    """Does not take what is for some streams."""

    refuses: frozenset[str] = frozenset()
    hangs: frozenset[str] = frozenset()
    away = False
    too_large: frozenset[str] = frozenset()
    seconds = 0.0  # for a call
    carries = 0  # calls, and then nothing more; 0: all
    breaks_after = 0  # calls; 0: it never does

    def __init__(self, url: str, store: MemoryStore) -> None:
        super().__init__(url, store)
        self.calls: list[int] = []  # the bytes of each
        self.hung = asyncio.Event()

    async def publish(self, stream: str, messages: Sequence[Outgoing]) -> None:
        if self.away:
            raise Unavailable("broker", "no answer")
        if stream in self.refuses:
            raise BrokerRefused("no such stream")
        if stream in self.hangs:
            self.hung.set()
            await asyncio.Event().wait()
        if any(message.id in self.too_large for message in messages):
            raise MessageRefused("it is too large")
        size = sum(len(message.body) for message in messages)
        self.calls.append(size)
        await asyncio.sleep(self.seconds)
        if self.carries and len(self.calls) > self.carries:
            await asyncio.sleep(3600)
        if self.breaks_after and len(self.calls) > self.breaks_after:
            raise Unavailable("broker", "the connection broke")
        await super().publish(stream, messages)


@pytest.fixture
async def broker() -> Moody:
    connector = Moody("memory://outbox", MemoryStore())
    await connector.connect()
    for stream in ("one", "two"):
        await connector.create_stream(stream)
    return connector


async def leave_messages(db: Database, stream: str, *ids: str) -> None:
    async with db.write() as connection:
        left = [Outgoing(b"{}", "a.b", one, {"h": 1}) for one in ids]
        await publish(connection, db.dialect, stream, left, pipeline=PIPELINE)


async def leave_large(
    db: Database, count: int, size: int, headers: dict[str, str] | None = None, first: int = 0
) -> list[str]:
    """Leave messages of so many bytes on the stream `one`; their ids."""
    left = [Outgoing(bytes(size), "a.b", f"{number:03}", headers or {}) for number in range(first, first + count)]
    async with db.write() as connection:
        await publish(connection, db.dialect, "one", left, pipeline=PIPELINE)
    return [one.id for one in left]


async def published(broker: Connector, stream: str, count: int) -> list[str | None]:
    return [message.id for message in await read_all(broker, stream, count)]


async def test_messages_are_published_in_their_order_and_leave_the_outbox(db: Database, broker: Moody) -> None:
    await leave_messages(db, "one", *(f"{number:04}" for number in range(700)))
    await leave_messages(db, "two", "x")
    outbox = OutboxPublisher(db, broker, pipeline=PIPELINE)
    assert await outbox.round() == 0.0
    assert await outbox.round() is None
    assert await published(broker, "one", 700) == [f"{number:04}" for number in range(700)]
    (message,) = await read_all(broker, "two", 1)
    assert (message.id, message.routing_key, message.headers, message.body) == ("x", "a.b", {"h": 1}, b"{}")
    assert await messages(db) == []


async def test_what_a_broker_that_is_away_did_not_take_stays(db: Database, broker: Moody) -> None:
    await leave_messages(db, "one", "a")
    broker.away = True
    outbox = OutboxPublisher(db, broker, pipeline=PIPELINE)
    with pytest.raises(Unavailable):
        await outbox.round()
    assert [message.message_id for message in await messages(db)] == ["a"]
    broker.away = False
    await outbox.round()
    assert await published(broker, "one", 1) == ["a"]


async def test_a_stream_that_is_refused_keeps_no_other_back(db: Database, broker: Moody) -> None:
    broker.refuses = frozenset({"one"})
    await leave_messages(db, "one", *(f"{number}" for number in range(600)))
    await leave_messages(db, "two", "x")
    with pytest.raises(BrokerRefused):
        await OutboxPublisher(db, broker, pipeline=PIPELINE).round()
    assert await published(broker, "two", 1) == ["x"]
    assert len(await messages(db)) == 600


async def test_a_stream_whose_broker_hangs_is_given_up_for_now(
    db: Database, broker: Moody, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "_PATIENCE", 0.05)
    broker.hangs = frozenset({"one"})
    await leave_messages(db, "one", "a")
    await leave_messages(db, "two", "x")
    with pytest.raises(Unavailable, match="no confirmation"):
        await OutboxPublisher(db, broker, pipeline=PIPELINE).round()
    assert await published(broker, "two", 1) == ["x"]


async def test_the_database_can_be_written_while_a_broker_hangs(db: Database, broker: Moody) -> None:
    broker.hangs = frozenset({"one"})
    await leave_messages(db, "one", "a")
    stuck = asyncio.create_task(OutboxPublisher(db, broker, pipeline=PIPELINE).round())
    await asyncio.wait_for(broker.hung.wait(), 10)
    await leave_messages(db, "two", "x")
    assert not stuck.done()
    stuck.cancel()
    await asyncio.wait({stuck})


async def test_the_broker_of_another_pipeline_that_hangs_keeps_no_message_back(db: Database, broker: Moody) -> None:
    broker.hangs = frozenset({"one"})
    await leave_messages(db, "one", "a")
    stuck = asyncio.create_task(OutboxPublisher(db, broker, pipeline=PIPELINE).round())
    await asyncio.wait_for(broker.hung.wait(), 10)
    async with db.write() as connection:
        await publish(connection, db.dialect, "two", [Outgoing(b"{}", "a.b", "x")], pipeline="other")
    await OutboxPublisher(db, broker, pipeline="other").round()
    assert await published(broker, "two", 1) == ["x"]
    assert not stuck.done()
    stuck.cancel()
    await asyncio.wait({stuck})


async def test_missing_streams_are_created_where_that_is_wanted(db: Database, broker: Moody) -> None:
    await leave_messages(db, "new", "a")
    await OutboxPublisher(db, broker, pipeline=PIPELINE, create_streams=True).round()
    assert await published(broker, "new", 1) == ["a"]


async def test_publishers_side_by_side_keep_the_order(db: Database, broker: Moody) -> None:
    if db.dialect == "sqlite":
        pytest.skip("on SQLite two may publish the same at the same moment")
    await leave_messages(db, "one", *(f"{number:04}" for number in range(2_000)))
    outboxes = [OutboxPublisher(db, broker, pipeline=PIPELINE) for _ in range(3)]
    while await messages(db):
        await asyncio.gather(*(outbox.round() for outbox in outboxes))
    assert await published(broker, "one", 2_000) == [f"{number:04}" for number in range(2_000)]


async def test_a_message_that_is_refused_is_passed_by_and_kept_with_the_reason(
    db: Database, broker: Moody, caplog: pytest.LogCaptureFixture
) -> None:
    broker.too_large = frozenset({"003", "411"})
    names = [f"{number:03}" for number in range(500)]
    await leave_messages(db, "one", *names)
    outbox = OutboxPublisher(db, broker, pipeline=PIPELINE)
    await outbox.round()
    sound = [name for name in names if name not in broker.too_large]
    assert await published(broker, "one", 498) == sound
    assert [(message.message_id, message.error) for message in await messages(db)] == [
        ("003", "it is too large"), ("411", "it is too large"),
    ]  # fmt: skip
    await leave_messages(db, "one", "later")
    assert await outbox.round() is None
    assert await published(broker, "one", 499) == [*sound, "later"]
    assert caplog.text.count("is never published to one: it is too large") == 2
    assert await outbox_figures(db, PIPELINE) == OutboxFigures(0, 2, "it is too large")


async def test_no_more_is_loaded_at_a_time_than_so_many_bytes(
    db: Database, broker: Moody, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "_BYTES", 100_000)
    ids = await leave_large(db, 5, 30_000)
    ids += await leave_large(db, 5, 10, {"h": "x" * 30_000}, first=5)
    outbox = OutboxPublisher(db, broker, pipeline=PIPELINE)
    for left in (7, 4, 1):
        assert await outbox.round() == 0.0
        assert len(await messages(db)) == left
    assert await outbox.round() is None
    assert await published(broker, "one", 10) == ids


@ONE_KIND
async def test_a_message_that_is_larger_than_a_batch_goes_alone(
    db: Database, broker: Moody, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "_BYTES", 1_000)
    ids = await leave_large(db, 3, 5_000)
    outbox = OutboxPublisher(db, broker, pipeline=PIPELINE)
    assert [await outbox.round() for _ in ids] == [0.0, 0.0, None]
    assert await published(broker, "one", 3) == ids


async def test_each_round_gets_on_where_a_broker_takes_few_messages_in_the_time_it_has(
    db: Database, broker: Moody, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "_PATIENCE", 0.3)
    monkeypatch.setattr(publisher, "_PART", 11_000)
    broker.carries = 2  # within that time
    ids = await leave_large(db, 10, 5_000)
    outbox = OutboxPublisher(db, broker, pipeline=PIPELINE)
    for left in (6, 2):
        broker.calls.clear()
        assert await outbox.round() == 0.0
        assert len(await messages(db)) == left
    broker.calls.clear()
    assert await outbox.round() is None
    assert await published(broker, "one", len(ids)) == ids


@ONE_KIND
async def test_nothing_is_begun_that_a_slow_line_will_not_have_carried_in_time(
    db: Database, broker: Moody, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "_PATIENCE", 1.0)
    monkeypatch.setattr(publisher, "_PART", 11_000)
    broker.seconds = 0.55
    await leave_large(db, 10, 5_000)
    assert await OutboxPublisher(db, broker, pipeline=PIPELINE).round() == 0.0
    assert broker.calls == [10_000]
    assert len(await messages(db)) == 8


@ONE_KIND
async def test_what_was_confirmed_before_the_connection_broke_is_done_with(
    db: Database, broker: Moody, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "_PART", 11_000)
    broker.breaks_after = 2
    ids = await leave_large(db, 10, 5_000)
    outbox = OutboxPublisher(db, broker, pipeline=PIPELINE)
    with pytest.raises(Unavailable, match="the connection broke"):
        await outbox.round()
    assert [message.message_id for message in await messages(db)] == ids[4:]
    broker.breaks_after = 0
    await outbox.round()
    assert await published(broker, "one", len(ids)) == ids


@ONE_KIND
async def test_messages_of_a_batch_that_is_not_large_go_together(db: Database, broker: Moody) -> None:
    await leave_large(db, 500, 1_000)
    await OutboxPublisher(db, broker, pipeline=PIPELINE).round()
    assert broker.calls == [500_000]
