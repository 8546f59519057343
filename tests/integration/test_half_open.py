"""Connections that are open and dead: no byte passes, nobody hangs up. It is noticed, said, and waited out."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text

from pipeline import Pipeline
from pipeline.connections import Connections
from pipeline.ledger.database import Database
from pipeline.ledger.migrations import migrate
from tests.conftest import RabbitMQ
from tests.integration.proxy import Proxy
from tests.integration.rig.database import Books, books
from tests.integration.rig.events import Sent, admin_event, keyed_event
from tests.integration.rig.publishers import Publisher, by_amqp, delete
from tests.integration.rig.runner import until
from tests.integration.rig.site import Site, admin_pipeline, effect_pipeline
from tests.integration.rig.verdict import every_event_was_done_once
from tests.integration.rig.workflows import Workflows

NOTICED_WITHIN = 30.0
BEFORE, MEANWHILE = 20, 20
"""How many events come before the network falls silent, and while it is."""


@pytest.fixture(
    params=[True, pytest.param(False, marks=[pytest.mark.chaos, pytest.mark.slow])], ids=["short", "as-delivered"]
)
def short(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether every waiting time is cut down; where False all is as a user has it who configured nothing."""
    if request.param:
        for name, value in {"every": 0.1, "answer": 0.5}.items():
            monkeypatch.setitem(Connections.__init__.__kwdefaults__, name, value)
        monkeypatch.setitem(Database.__init__.__kwdefaults__, "command_timeout", 0.5)
    return bool(request.param)


@asynccontextmanager
async def proxied(url: str) -> AsyncIterator[tuple[Proxy, str]]:
    """A proxy before the server of this URL, and the URL by way of it."""
    parts = urlsplit(url)
    assert parts.hostname
    assert parts.port
    async with Proxy(parts.hostname, parts.port) as proxy:
        login, at, _ = parts.netloc.rpartition("@")
        yield proxy, parts._replace(netloc=f"{login}{at}127.0.0.1:{proxy.port}").geturl()


@dataclass
class Scene:
    """A running pipeline, of whose systems one is behind a proxy.

    Attributes:
        pipeline: It.
        proxy: The way to that system.
        books: The database, past any proxy.
        log: What was logged so far.
    """

    pipeline: Pipeline
    proxy: Proxy
    books: Books
    publisher: Publisher
    log: Callable[[], str]

    async def falls_silent(self, connection: str, events: list[Sent]) -> None:
        """Swallow all traffic, let events come, and wait until health and log name the connection; in time."""
        self.proxy.fall_silent()
        began = time.monotonic()
        await self.publisher.publish(events)

        def noticed() -> bool:
            return self.pipeline.stats().connections[connection].state == "down"

        await until(noticed, NOTICED_WITHIN, f"{connection} to be down")
        stats = self.pipeline.stats()
        print(f"{connection}: noticed after {time.monotonic() - began:.1f} s: {stats.reason}")
        assert not stats.is_healthy
        assert f"{connection} is down" in stats.reason
        assert f"connection to {connection}: down" in self.log()

    async def pauses(self, what: str) -> None:
        """Wait until the source reads no more, and says why."""

        def paused() -> bool:
            [source] = self.pipeline.stats().sources.values()
            return source.state == "paused" and what in source.reason

        await until(paused, NOTICED_WITHIN, f"the source to pause because of {what}")
        assert "paused" in self.log()

    async def passes_again(self, connection: str) -> None:
        """Let the traffic pass, and wait until all is well."""
        self.proxy.go_on()
        await until(lambda: self.pipeline.stats().is_healthy, NOTICED_WITHIN, "all to be well")
        assert f"connection to {connection}: up again" in self.log()

    async def until_processed(self, count: int) -> None:
        """Wait until so many messages have an outcome."""

        async def enough() -> bool:
            return await self.books.processed() >= count

        await until(enough, NOTICED_WITHIN, f"{count} messages to have an outcome")


Scenes = Callable[[str, Proxy, Mapping[str, str]], Awaitable[Scene]]


@pytest.fixture
async def scene(
    tmp_path: Path, stream_name: str, rabbitmq: RabbitMQ, postgres: str, caplog: pytest.LogCaptureFixture
) -> AsyncIterator[Scenes]:
    """Run a pipeline: its text, the system that is behind the proxy, and the variables that lead there."""
    caplog.set_level("INFO", "pipeline")
    async with books(postgres) as found, by_amqp(rabbitmq.amqp_url, stream_name) as publisher:
        running: list[Pipeline] = []

        async def run(lines: str, proxy: Proxy, environ: Mapping[str, str]) -> Scene:
            file = tmp_path / "pipeline.toml"
            file.write_text(lines)
            usual = {"PIPELINE_BROKER_URL": rabbitmq.stream_url, "DATABASE_URL": postgres}
            pipeline = Pipeline.from_file(file, environ={**usual, **environ})
            await migrate(pipeline.database, pipeline.plugins.branches())
            await pipeline.start()
            running.append(pipeline)
            return Scene(pipeline, proxy, found, publisher, lambda: caplog.text)

        yield run
        for pipeline in running:
            await pipeline.stop()
    await delete(rabbitmq.amqp_url, stream_name)


def keyed(begin: int, count: int) -> list[Sent]:
    return [keyed_event(f"event-{number}", f"key-{number % 5}") for number in range(begin, begin + count)]


def effects(file: Path) -> Counter[str]:
    """How often each event left its effect."""
    return Counter(file.read_text().split())


async def test_a_silent_broker_is_noticed_and_read_on_from_where_it_was(
    scene: Scenes, short: bool, stream_name: str, rabbitmq: RabbitMQ, tmp_path: Path
) -> None:
    file = tmp_path / "effects"
    async with proxied(rabbitmq.stream_url) as (proxy, url):
        quick = "?heartbeat=1" if short else ""
        here = await scene(effect_pipeline(stream_name, file), proxy, {"PIPELINE_BROKER_URL": url + quick})
        before, meanwhile = keyed(0, BEFORE), keyed(BEFORE, MEANWHILE)
        await here.publisher.publish(before)
        await here.until_processed(BEFORE)
        began = time.monotonic()
        await here.falls_silent("broker", meanwhile)
        await here.pauses("nothing was heard")
        assert time.monotonic() - began < NOTICED_WITHIN
        assert await here.books.processed() == BEFORE
        await here.passes_again("broker")
        await here.until_processed(BEFORE + MEANWHILE)
        await here.pipeline.stop()
        assert effects(file) == Counter(event.id for event in [*before, *meanwhile])
        assert await here.books.outcomes() == {"handled": BEFORE + MEANWHILE}


async def test_a_silent_database_is_noticed_and_nothing_is_lost_or_done_twice(
    scene: Scenes, short: bool, stream_name: str, postgres: str, tmp_path: Path
) -> None:
    file = tmp_path / "effects"
    async with proxied(postgres) as (proxy, url):
        here = await scene(effect_pipeline(stream_name, file), proxy, {"DATABASE_URL": url})
        before, meanwhile = keyed(0, BEFORE), keyed(BEFORE, MEANWHILE)
        await here.publisher.publish(before)
        await here.until_processed(BEFORE)
        await here.falls_silent("database", meanwhile)
        await here.pauses("database")
        assert await here.books.processed() == BEFORE
        await here.passes_again("database")
        await here.until_processed(BEFORE + MEANWHILE)
        await here.pipeline.stop()
        once = Counter(event.id for event in [*before, *meanwhile])
        assert effects(file) == once == await here.books.audited()
        assert await here.books.outcomes() == {"handled": BEFORE + MEANWHILE}
        assert await here.books.dead_letters() == []


async def test_letting_go_of_a_silent_database_waits_for_none_of_its_connections(postgres: str) -> None:
    async with proxied(postgres) as (proxy, url):
        database = Database(url)

        async def use() -> None:
            async with database.read() as connection:
                await connection.execute(text("SELECT pg_sleep(0.1)"))

        await asyncio.gather(*(use() for _ in range(5)))
        proxy.fall_silent()
        async with asyncio.timeout(1):  # each would be waited for as long as for a statement: 15 s
            await database.close()


async def test_a_silent_redis_is_noticed_events_go_on_and_their_jobs_are_run_once(
    scene: Scenes, short: bool, stream_name: str, redis_url: str, tmp_path: Path
) -> None:
    file = tmp_path / "effects"
    lines = effect_pipeline(stream_name, file, options='async = "slow"')
    lines += f'[jobs]\nprefix = "test-{secrets.token_hex(6)}"\n'
    async with proxied(redis_url) as (proxy, url):
        quick = "?socket_timeout=0.3&socket_connect_timeout=0.3" if short else ""
        here = await scene(lines, proxy, {"REDIS_URL": url + quick})
        before, meanwhile = keyed(0, BEFORE), keyed(BEFORE, MEANWHILE)
        await here.publisher.publish(before)
        await until(lambda: len(effects(file)) == BEFORE, 10, "the first jobs to be run")
        await here.falls_silent("queue", meanwhile)
        await here.until_processed(BEFORE + MEANWHILE)  # their jobs wait in the database
        await here.passes_again("queue")
        await until(lambda: len(effects(file)) == BEFORE + MEANWHILE, NOTICED_WITHIN, "the other jobs to be run")

        async def none_left() -> bool:
            return not await here.books.rows("SELECT id FROM jobs")

        await until(none_left, 10, "all jobs to be settled")
        await here.pipeline.stop()
        assert effects(file) == Counter(event.id for event in [*before, *meanwhile])
        assert await here.books.dead_letters() == []


async def test_a_silent_temporal_is_noticed_and_uses_up_no_attempt(
    scene: Scenes, short: bool, site: Site, workflows: Callable[[int], Awaitable[Workflows]]
) -> None:
    lines = admin_pipeline(site.stream, more="[resource.temporal]\ntimeout = '500ms'\n" if short else "")
    assert "rate_limit = false" in lines
    lines = lines.replace("rate_limit = false", "rate_limit = false, retry = { attempts = 1 }")
    running = await workflows(5)
    async with proxied(f"temporal://{site.temporal_address}") as (proxy, url):
        here = await scene(lines, proxy, {"TEMPORAL_HOST": url.removeprefix("temporal://")})
        sent = [
            admin_event(f"event-{number}", running.ids[number % len(running.ids)])
            for number in range(BEFORE + MEANWHILE)
        ]
        await here.publisher.publish(sent[:BEFORE])
        await here.until_processed(BEFORE)
        await here.falls_silent("temporal", sent[BEFORE:])
        await here.pauses("temporal")
        assert await here.books.processed() == BEFORE
        await here.passes_again("temporal")
        await here.until_processed(len(sent))
        await here.pipeline.stop()
        await every_event_was_done_once(here.books, running, sent)
