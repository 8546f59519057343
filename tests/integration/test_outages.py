"""A server dies while events flow: the runner waits, goes on by itself when it is back, and nothing is lost or dead."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest
from temporalio.client import Client

from tests.conftest import ServerT
from tests.integration.rig.database import Books
from tests.integration.rig.flow import Persistent, published_all_the_time
from tests.integration.rig.runner import Runner, until
from tests.integration.rig.site import Site, admin_pipeline
from tests.integration.rig.verdict import every_event_was_done_once
from tests.integration.rig.workflows import Workflows
from tests.services import Temporal, start_postgres, start_rabbitmq, start_temporal


class OwnServer(Protocol):
    def __call__(self, starter: Callable[[Path], ServerT], /) -> ServerT: ...


async def until_said(runner: Runner, words: str, seconds: float = 20) -> None:
    await until(lambda: words in runner.output.read_text(errors="replace"), seconds, f"{words!r} in the log", runner)


async def until_more(site: Site, books: Books, runner: Runner, more: int = 100) -> None:
    await site.until_processed(books, await books.processed() + more, 30, runner)


@pytest.mark.slow
@pytest.mark.parametrize("outage", ["a kill -9", pytest.param("a restart", marks=pytest.mark.chaos)])
async def test_while_the_database_is_down_finished_events_wait(
    site: Site, workflows: Callable[[int], Awaitable[Workflows]], own_server: OwnServer, outage: str
) -> None:
    database = await asyncio.to_thread(own_server, start_postgres)
    site = replace(site, database_url=database.url)
    running = await workflows(50)
    await site.lay_out(admin_pipeline(site.stream))
    await asyncio.to_thread(database.stop)
    async with site.by_amqp() as amqp, site.natively() as native:
        runner = site.run()
        await until_said(runner, "source admin: paused")  # it was started while there was no database
        await asyncio.to_thread(database.restart)
        async with published_all_the_time(running.ids, amqp, native) as sent:
            async with site.books() as books:
                await until_more(site, books, runner)
            await asyncio.to_thread(database.kill if outage == "a kill -9" else database.stop)
            await until_said(runner, "until it is back")
            published = len(sent)
            await until(lambda: len(sent) >= published + 50, 10, "more events to be published", runner)
            await asyncio.to_thread(database.restart)
            async with site.books() as books:
                await until_more(site, books, runner, 200)
        async with site.books() as books:
            await site.until_processed(books, len(sent), 30, runner)
            await runner.stop()
            await every_event_was_done_once(books, running, sent)


@pytest.mark.slow
async def test_a_broker_that_was_killed_is_read_again_from_where_it_was(
    site: Site, workflows: Callable[[int], Awaitable[Workflows]], own_server: OwnServer
) -> None:
    broker = await asyncio.to_thread(own_server, start_rabbitmq)
    site = replace(site, stream_url=broker.stream_url, amqp_url=broker.amqp_url)
    running = await workflows(50)
    await site.lay_out(admin_pipeline(site.stream))
    async with site.by_amqp():
        runner = site.run()
    async with site.books() as books:
        async with published_all_the_time(running.ids, Persistent(site.by_amqp)) as sent:
            await until_more(site, books, runner)
            await asyncio.to_thread(broker.kill)

            async def pauses() -> bool:
                return await books.states("admin") == {runner.pid: "paused"}

            await until(pauses, 20, "the source to pause", runner)
            await asyncio.to_thread(broker.restart)
            await until_more(site, books, runner, 200)

        async def all_audited() -> bool:  # counting does not tell, as some came twice
            return len(await books.audited()) == len(sent)

        await until(all_audited, 30, "every event to be audited", runner)
        await runner.stop()
        await every_event_was_done_once(books, running, sent, some_came_twice=True)


@pytest.mark.slow
async def test_while_temporal_is_down_events_wait_and_no_attempt_is_used_up(site: Site, own_server: OwnServer) -> None:
    def start_durable_temporal(folder: Path) -> Temporal:
        return start_temporal(folder, durable=True)

    temporal = await asyncio.to_thread(own_server, start_durable_temporal)
    site = replace(site, temporal_address=temporal.address)
    running = Workflows(await Client.connect(temporal.address), [f"{site.stream}.{number}" for number in range(50)])
    await running.start()
    text = admin_pipeline(site.stream).replace("rate_limit = false", "rate_limit = false, retry = { attempts = 1 }")
    assert "attempts = 1" in text
    await site.lay_out(text)
    async with site.by_amqp() as amqp, site.natively() as native, site.books() as books:
        runner = site.run()
        async with published_all_the_time(running.ids, amqp, native) as sent:
            await until_more(site, books, runner)
            await asyncio.to_thread(temporal.kill)

            async def pauses() -> bool:
                return await books.states("admin") == {runner.pid: "paused"}

            await until(pauses, 30, "the source to pause", runner)
            published = len(sent)
            await until(lambda: len(sent) >= published + 50, 10, "more events to be published", runner)
            await asyncio.to_thread(temporal.restart)
            await until_more(site, books, runner, 200)
        await site.until_processed(books, len(sent), 30, runner)
        await runner.stop()
        running = Workflows(await Client.connect(temporal.address), running.ids)
        await every_event_was_done_once(books, running, sent)
