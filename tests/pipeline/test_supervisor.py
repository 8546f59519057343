"""The supervisor of a source: what it does when the broker, the database or another runner come between."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline import upkeep as module
from pipeline.config.models import SourceTable
from pipeline.connectors import BrokerRefused, MessageBatch, Outgoing, Unreadable
from pipeline.errors import Fenced, Unavailable
from pipeline.events import Event
from pipeline.handlers import Context
from pipeline.ledger.database import Database
from pipeline.ledger.lease import Lease, acquire
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.migrations import migrate
from pipeline.ledger.units import SourceKey
from pipeline.routing import Router
from pipeline.stats import SourceStats
from pipeline.streams.broker import StreamBroker
from pipeline.supervisor import Shared, SourceSupervisor
from pipeline_plugins.memory import MemoryConnector, MemoryStore
from tests.pipeline.dispatch.harness import Handle, eventually, route, stage


class Site:
    """A supervisor that runs on a stream in memory."""

    def __init__(self, supervisor: SourceSupervisor, connector: MemoryConnector, ledger: Ledger) -> None:
        self.supervisor = supervisor
        self.stats = supervisor.stats
        self.connector = connector
        self.ledger = ledger
        self.running = asyncio.create_task(supervisor.run())

    async def publish(self, count: int) -> None:
        await self.connector.publish("st", [Outgoing(b"{}", "a.b", "") for _ in range(count)])

    async def stop(self, grace: float = 5.0) -> None:
        self.supervisor.stop(grace)
        await asyncio.wait_for(asyncio.shield(asyncio.wait([self.running])), 10)


async def nothing(event: Event[Any], context: Context) -> None:
    """Takes any event."""


@asynccontextmanager
async def site(folder: Path, handle: Handle = nothing, *, creates: bool = False, **source: Any) -> AsyncIterator[Site]:
    connector = MemoryConnector("memory://supervisor", MemoryStore())
    await connector.connect()
    await connector.create_stream("st")
    database = Database(f"sqlite:///{folder / 'test.db'}")
    await migrate(database)
    ledger, table = Ledger(database), SourceTable(stream="st", group="g", **{"dedupe": False, **source})
    broker = StreamBroker(connector)
    await broker.connect()
    shared = Shared("one", broker, connector, ledger, creates, Router([route(["x"])]), {}, "p")
    made = Site(SourceSupervisor("s", table, {"x": stage("x", handle)}, shared, SourceStats("s")), connector, ledger)
    try:
        yield made
    finally:
        await made.stop(0)
        if not made.running.cancelled():
            made.running.exception()
        await connector.close()
        await database.close()


def faster(monkeypatch: pytest.MonkeyPatch, **seconds: float) -> None:
    for name, value in seconds.items():
        monkeypatch.setattr(module, name, value)


def failing(error: BaseException) -> Callable[..., Any]:
    async def fail(*arguments: Any) -> None:
        raise error

    return fail


async def test_a_stream_that_is_deleted_for_a_while_does_not_end_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faster(monkeypatch, _STORE_SECONDS=0.02)
    deleted, refused = asyncio.Event(), asyncio.Event()
    store_offset = MemoryConnector.store_offset

    async def stored_after_the_deletion(self: MemoryConnector, *arguments: Any) -> None:
        await deleted.wait()
        try:
            await store_offset(self, *arguments)
        except BrokerRefused:
            refused.set()
            raise

    monkeypatch.setattr(MemoryConnector, "store_offset", stored_after_the_deletion)
    async with site(tmp_path) as s:
        await s.publish(2)
        await eventually(lambda: s.stats.processed == 2)
        s.connector.store.delete("st")
        deleted.set()
        await asyncio.wait_for(refused.wait(), 10)
        await eventually(lambda: s.stats.state == "paused")
        assert not s.running.done()
        s.connector.store.create("st")
        await s.publish(3)
        await eventually(lambda: s.stats.processed == 5)


async def test_a_source_whose_stream_can_t_be_read_on_says_so_until_it_is_mended(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mended = asyncio.Event()
    read = MemoryConnector.read

    async def damaged(*args: Any, **kwargs: Any) -> AsyncIterator[MessageBatch]:
        if not mended.is_set():
            raise Unreadable("broker", "offset 0 is damaged: have it copied again")
        async for batch in read(*args, **kwargs):
            yield batch

    monkeypatch.setattr(MemoryConnector, "read", damaged)
    async with site(tmp_path) as s:
        await s.publish(1)
        await eventually(lambda: "offset 0 is damaged" in s.stats.reason)
        assert s.stats.state == "paused"
        mended.set()
        await eventually(lambda: s.stats.processed == 1)
        assert (s.stats.state, s.stats.reason) == ("running", "")


async def test_who_stood_by_waits_for_a_stream_that_is_gone_when_its_turn_comes(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'test.db'}")
    await migrate(database)
    other = await acquire(Ledger(database), SourceKey("s", "g", "st"), "two")
    async with site(tmp_path) as s:
        await eventually(lambda: s.stats.state == "standby")
        s.connector.store.delete("st")
        await s.ledger.release(other)
        await eventually(lambda: s.stats.state == "paused" or s.running.done())
        assert "'st'" in s.stats.reason
        s.connector.store.create("st")
        await s.publish(3)
        await eventually(lambda: s.stats.processed == 3)
    await database.close()


@pytest.mark.parametrize("creates", [False, True])
async def test_who_was_replaced_after_reading_waits_for_a_broker_that_says_no_when_it_owns_the_source_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, creates: bool
) -> None:
    faster(monkeypatch, _RENEW_SECONDS=0.02)
    async with site(tmp_path, creates=creates) as s:
        await s.publish(2)
        await eventually(lambda: s.stats.processed == 2)
        renew = s.ledger.renew

        async def lose_it(lease: Lease) -> None:
            monkeypatch.setattr(s.ledger, "renew", renew)
            for question in ("bounds", "create_stream"):
                monkeypatch.setattr(MemoryConnector, question, failing(BrokerRefused("not today")))
            await s.ledger.release(lease)
            raise Fenced("another runner has taken over")

        monkeypatch.setattr(s.ledger, "renew", lose_it)
        await eventually(lambda: s.stats.reason == "not today" or s.running.done())
        assert s.stats.state == "paused"
        await s.stop()
        assert s.running.exception() is None


async def test_the_lease_is_given_back_also_where_the_stream_is_gone(tmp_path: Path) -> None:
    async with site(tmp_path) as s:
        await s.publish(2)
        await eventually(lambda: s.stats.processed == 2)
        s.connector.store.delete("st")
        await s.stop()
        assert s.running.exception() is None
        (row,) = await s.ledger.progress()
        assert row.owner is None


async def test_the_lease_is_renewed_while_old_ids_are_forgotten(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faster(monkeypatch, _RENEW_SECONDS=0.02)
    forgetting, renewals = asyncio.Event(), 0
    async with site(tmp_path, dedupe="1h") as s:
        renew = s.ledger.renew

        async def renewed(lease: Any) -> None:
            nonlocal renewals
            await renew(lease)
            renewals += 1

        async def forget(group: str, before: Any) -> None:
            forgetting.set()
            await asyncio.Event().wait()

        monkeypatch.setattr(s.ledger, "renew", renewed)
        monkeypatch.setattr(s.ledger, "forget", forget)
        await asyncio.wait_for(forgetting.wait(), 5)
        before = renewals
        await eventually(lambda: renewals > before + 2, within=2)


async def test_a_source_that_is_replaced_while_it_drains_ends_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    finish = asyncio.Event()

    async def handle(event: Event[Any], context: Context) -> None:
        await finish.wait()

    async with site(tmp_path, handle) as s:
        await s.publish(1)
        await eventually(lambda: s.stats.in_flight == 1 or (s.supervisor.refresh() or s.stats.in_flight) == 1)
        monkeypatch.setattr(s.ledger, "commit", failing(Fenced("another runner has taken over")))
        s.supervisor.stop(60)
        await eventually(lambda: s.stats.state == "draining")
        finish.set()
        await asyncio.wait_for(asyncio.shield(s.running), 5)
        assert s.stats.state == "stopped"


async def test_a_database_that_is_away_pauses_an_idle_source_until_it_is_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    faster(monkeypatch, _RENEW_SECONDS=0.02)
    async with site(tmp_path) as s:
        await eventually(lambda: s.stats.state == "running")
        renew = s.ledger.renew
        monkeypatch.setattr(s.ledger, "renew", failing(Unavailable("database", "it is away")))
        await eventually(lambda: s.stats.state == "paused")
        assert "it is away" in s.stats.reason
        assert not s.stats.is_healthy
        monkeypatch.setattr(s.ledger, "renew", renew)
        await eventually(lambda: s.stats.state == "running")


async def test_the_stats_begin_where_the_source_stands_and_end_with_nothing_in_flight(tmp_path: Path) -> None:
    async with site(tmp_path) as s:
        await s.publish(3)
        await eventually(lambda: s.stats.prefix == 2)
        await s.stop()
        again = SourceSupervisor("s", s.supervisor._table, s.supervisor._stages, s.supervisor._shared, SourceStats("s"))
        running = asyncio.create_task(again.run())
        await eventually(lambda: again.stats.state == "running")
        assert again.stats.prefix == 2
        again.stop(1)
        await running
        assert again.stats.in_flight == 0


async def test_a_read_that_is_cancelled_from_within_is_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, times = MemoryConnector.read, 0

    async def breaks_once(self: MemoryConnector, *arguments: Any, **named: Any) -> AsyncIterator[Any]:
        nonlocal times
        times += 1
        if times == 1:
            raise asyncio.CancelledError
        async for batch in read(self, *arguments, **named):
            yield batch

    monkeypatch.setattr(MemoryConnector, "read", breaks_once)
    async with site(tmp_path) as s:
        await s.publish(2)
        await eventually(lambda: s.stats.processed == 2)
