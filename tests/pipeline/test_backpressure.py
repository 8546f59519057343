"""One source's dependency is down: it pauses, holds a window and a batch, and the other source never notices."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from pipeline import supervisor
from pipeline.config.models import RouteTable, SourceTable
from pipeline.connectors import Outgoing
from pipeline.errors import Unavailable
from pipeline.events import Event, Outcome
from pipeline.handlers import Context
from pipeline.ledger.database import Database
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.migrations import migrate
from pipeline.routing import Router
from pipeline.stats import SourceStats
from pipeline.streams.broker import StreamBroker
from pipeline_plugins.memory import MemoryConnector, MemoryStore
from tests.pipeline.dispatch.harness import Handle, eventually, stage

WINDOW, BATCH = 100, 50


class Two:
    """Two sources of one runner, on streams in memory."""

    def __init__(self, supervisors: Iterable[supervisor.SourceSupervisor], store: MemoryStore) -> None:
        self.supervisors = {one.name: one for one in supervisors}
        self.store = store

    def publish(self, source: str, count: int) -> None:
        self.store.append(source, [Outgoing(b"{}", "a.b", "") for _ in range(count)])

    def stats(self, source: str) -> SourceStats:
        self.supervisors[source].refresh()
        return self.supervisors[source].stats


@asynccontextmanager
async def two_sources(folder: Path, crm: Handle, other: Handle) -> AsyncIterator[Two]:
    store = MemoryStore()
    connector = MemoryConnector("memory://two", store)
    await connector.connect()
    database = Database(f"sqlite:///{folder / 'test.db'}")
    await migrate(database)
    broker = StreamBroker(connector)
    await broker.connect()
    routes = [RouteTable(source=name, name=name, match=("#",), stages=(name,)) for name in ("crm", "other")]
    shared = supervisor.Shared("one", broker, connector, Ledger(database), True, Router(routes), {}, "p")
    made = []
    for name, handle in (("crm", crm), ("other", other)):
        await connector.create_stream(name)
        table = SourceTable(stream=name, group="g", dedupe=False, window=WINDOW, batch=BATCH)
        stages = {name: stage(name, handle)}
        made.append(supervisor.SourceSupervisor(name, table, stages, shared, SourceStats(name)))
    tasks = [asyncio.create_task(one.run()) for one in made]
    try:
        yield Two(made, store)
    finally:
        for one in made:
            one.stop(1)
        await asyncio.wait_for(asyncio.gather(*tasks), 10)
        await connector.close()
        await database.close()


async def test_while_a_dependency_is_down_its_source_holds_a_window_and_a_batch_and_the_other_goes_on(
    tmp_path: Path,
) -> None:
    down, most = True, 0

    async def crm(event: Event[Any], context: Context) -> None:
        if down:
            raise Unavailable("crm", "it is being mended")

    async def other(event: Event[Any], context: Context) -> None:
        nonlocal most
        most = max(most, two.stats("crm").in_flight)

    async with two_sources(tmp_path, crm, other) as two:
        two.publish("crm", 1)
        await eventually(lambda: two.stats("crm").state == "paused")
        for _ in range(10):  # events pour in on both
            two.publish("crm", 500)
            two.publish("other", 200)
            handled = two.stats("other").processed
            await eventually(lambda: two.stats("other").processed > handled)  # noqa: B023 - awaited here
        await eventually(lambda: two.stats("other").processed == 2000)
        paused = two.stats("crm")
        assert paused.processed == 0
        assert most <= WINDOW + BATCH
        assert "crm is unavailable: it is being mended" in paused.reason
        assert not paused.is_healthy
        assert two.stats("other").is_healthy

        down = False  # it goes on by itself
        await eventually(lambda: two.stats("crm").processed == 5001)
        assert two.stats("crm").outcomes[Outcome.HANDLED] == 5001
        assert two.stats("crm").is_healthy


async def test_a_slow_stage_fills_its_window_and_no_more_and_the_stats_say_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor, "_FULL_SECONDS", 0.0)
    go_on = asyncio.Event()

    async def crm(event: Event[Any], context: Context) -> None:
        await go_on.wait()

    async def other(event: Event[Any], context: Context) -> None:
        """Is done at once."""

    async with two_sources(tmp_path, crm, other) as two:
        two.publish("crm", 2000)
        await eventually(lambda: two.stats("crm").in_flight >= WINDOW)
        two.publish("other", 1000)
        await eventually(lambda: two.stats("other").processed == 1000)
        assert two.stats("crm").in_flight <= WINDOW + BATCH
        assert two.stats("crm").reason.startswith("reading waits for the stages: ")
        assert two.stats("crm").is_healthy
        go_on.set()
        await eventually(lambda: two.stats("crm").processed == 2000)
        assert two.stats("crm").outcomes[Outcome.DEAD] == 0
