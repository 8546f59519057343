"""RabbitMQ loses the end of a stream, as with its disk's last seconds: the source goes on behind what is left."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from contextlib import aclosing
from pathlib import Path
from typing import Any, Protocol, cast

import pytest

from pipeline.config.models import SourceTable
from pipeline.connectors import Outgoing, Start
from pipeline.dispatch.resume import Resume
from pipeline.errors import Unavailable
from pipeline_plugins.rabbitmq_streams.connector import RabbitMQStreamsConnector
from tests.conftest import ServerT
from tests.pipeline.dispatch.harness import Bench, bench, stage
from tests.pipeline.dispatch.test_resume import nothing
from tests.services import RabbitMQ, start_rabbitmq

pytestmark = [pytest.mark.slow, pytest.mark.chaos]


class OwnServer(Protocol):
    def __call__(self, starter: Callable[[Path], ServerT], /) -> ServerT: ...


@pytest.fixture
async def broker(own_server: OwnServer) -> RabbitMQ:
    return await asyncio.to_thread(own_server, start_rabbitmq)


async def published(connector: RabbitMQStreamsConnector, count: int) -> None:
    """So many messages, each in a chunk of its own."""
    for _ in range(count):
        await connector.publish("st", [Outgoing(b"{}", "a.b", "")])


async def read(connector: RabbitMQStreamsConnector, pipe: Bench, start: Start, count: int) -> None:
    """Let the source take in so many messages from there on, and handle them."""
    before, taken = pipe.stats.processed, 0
    async with aclosing(cast("Any", connector.read("st", start, name="test"))) as batches:
        while taken < count:
            batch = await anext(batches)
            taken += len(batch)
            await pipe.source.admit(batch)
    await pipe.settle(before + count)


async def is_there(connector: RabbitMQStreamsConnector) -> None:
    """Wait until the stream has a leader again."""
    async with asyncio.timeout(20):
        while True:
            try:
                await connector.bounds("st")
                return
            except Unavailable:
                await asyncio.sleep(0.05)


async def test_a_stream_of_rabbitmq_that_lost_its_end_is_read_on_behind_what_is_left_of_it(
    broker: RabbitMQ, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.dispatch.resume._MARGIN", 200)
    connector = RabbitMQStreamsConnector(broker.stream_url)
    await connector.connect()
    await connector.create_stream("st")
    await published(connector, 5)
    (files,) = broker.data.glob("data/*/stream")
    earlier = shutil.copytree(files, tmp_path / "earlier")
    await asyncio.sleep(0.5)  # what comes now is newer by more than the margin
    await published(connector, 6)
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        await read(connector, pipe, Start("first"), 11)
        await connector.close()

        await asyncio.to_thread(broker.stop)
        shutil.rmtree(files)
        shutil.copytree(earlier, files)
        await asyncio.to_thread(broker.start)

        await connector.connect()
        await is_there(connector)
        resume = Resume(connector, pipe.ledger, pipe.lease, pipe.source.window, SourceTable(stream="st", group="g"))
        with pytest.raises(Unavailable, match="ends at 4"):
            await resume.start()
        await published(connector, 3)
        start = await resume.start()
        assert start == Start("offset", 5)
        assert pipe.lease.incarnation == 1
        await read(connector, pipe, start, 3)
        assert pipe.lease.progress.prefix == 7
    await connector.close()
