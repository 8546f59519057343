"""Events that the stream's retention removes before they are read are lost, and everybody is told how many."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from pipeline import Pipeline
from pipeline.ledger.migrations import migrate
from pipeline_plugins.rabbitmq_streams import RabbitMQStreamsConnector
from tests.conftest import RabbitMQ
from tests.integration.rig.database import Books
from tests.integration.rig.events import Sent
from tests.integration.rig.publishers import Publisher
from tests.integration.rig.runner import until
from tests.integration.rig.site import Site, effect_pipeline
from tests.plugins.rabbitmq_streams.support import channel, connected

SHORT = {"x-queue-type": "stream", "x-max-length-bytes": 2_000_000, "x-stream-max-segment-size-bytes": 250_000}
READ = PIECE = 250
UNREAD = {"stopped": 500, "held up": 2_500}
"""How many events are removed unread, at least: a runner that waits has been sent some that it has not taken in."""


@pytest.fixture
async def broker(site: Site, rabbitmq: RabbitMQ) -> AsyncIterator[RabbitMQStreamsConnector]:
    """A connection to the broker, where the site's stream keeps little."""
    async with channel(rabbitmq.amqp_url) as amqp, connected(rabbitmq.stream_url) as connector:
        await amqp.declare_queue(site.stream, durable=True, arguments=SHORT)
        yield connector


def padded(begin: int, count: int) -> list[Sent]:
    data = {"key": "held" if begin else "free", "padding": "x" * 4000}
    return [Sent(f"event-{n}", "job.started", json.dumps(data).encode()) for n in range(begin, begin + count)]


async def overflow(publisher: Publisher, broker: RabbitMQStreamsConnector, stream: str, unread: int) -> int:
    """Publish until retention has removed so many events that were not read; how many there are in all."""
    count, first = READ, 0
    while first < READ + unread:
        await publisher.publish(padded(count, PIECE))
        count += PIECE
        first = (await broker.bounds(stream)).first or 0
    return count


async def start(stack: AsyncExitStack, site: Site) -> Pipeline:
    """Run the site's pipeline in this process, until the stack is closed."""
    pipeline = Pipeline.from_file(site.file, environ=site.env)
    await migrate(pipeline.database, pipeline.plugins.branches())
    return await stack.enter_async_context(pipeline)


async def until_all_is_read(books: Books, broker: RabbitMQStreamsConnector, stream: str) -> None:
    async def all_is_read() -> bool:
        [row] = await books.rows("SELECT prefix FROM progress")
        return bool(row["prefix"] == (await broker.bounds(stream)).last)

    await until(all_is_read, 30, "all that is left to be read")


@pytest.mark.parametrize("runner_is", ["stopped", pytest.param("held up", marks=pytest.mark.chaos)])
async def test_events_that_retention_removed_unread_are_counted_and_told(
    site: Site, broker: RabbitMQStreamsConnector, tmp_path: Path, caplog: pytest.LogCaptureFixture, runner_is: str
) -> None:
    caplog.set_level("INFO", "pipeline")
    effects, gate = tmp_path / "effects", tmp_path / "gate"
    options = f'blocked_key = "held"\nuntil = "{gate}"'
    source = "window = 20\nbatch = 10" if runner_is == "held up" else ""
    site.file.write_text(effect_pipeline(site.stream, effects, source=source, options=options))
    async with AsyncExitStack() as stack, site.natively() as publisher, site.books() as books:
        pipeline = await start(stack, site)
        await publisher.publish(padded(0, READ))
        await site.until_processed(books, READ, 30)
        if runner_is == "stopped":
            await pipeline.stop()
        published = await overflow(publisher, broker, site.stream, UNREAD[runner_is])
        gate.touch()
        if runner_is == "stopped":
            pipeline = await start(stack, site)
        await until_all_is_read(books, broker, site.stream)

        handled = (await books.outcomes())["handled"]
        lost = pipeline.stats().sources["jobs"].lost_to_retention
        assert 0 < lost < published
        stored = 50  # more offsets than a runner stores in the stream meanwhile: they have offsets of their own there
        assert lost - stored <= published - handled <= lost
        told = f"{lost} offsets between were removed by retention before they were read, and are lost"
        assert [record.levelname for record in caplog.records if told in record.getMessage()] == ["ERROR"]
        assert f"{lost} offsets were removed by the stream's retention" in (pipeline.stats().last_error or "")
        assert pipeline.stats().is_healthy  # it goes on: no waiting brings them back

        async def heartbeat_tells() -> bool:
            rows = await books.rows("SELECT stats FROM instances")
            return any(json.loads(row["stats"])["sources"]["jobs"]["lost_to_retention"] == lost for row in rows)

        await until(heartbeat_tells, 10, "the heartbeat to tell")
        _, shown = await site.command("stats", "--json", "-c", str(site.file))
        [instance] = [one for one in json.loads(shown)["instances"] if not one["gone"]]
        assert instance["sources"]["jobs"]["lost_to_retention"] == lost
        assert await books.dead_letters() == []
    assert len(effects.read_text().split()) == handled
