"""The connector to RabbitMQ Streams keeps the contract."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from urllib.parse import urlsplit

import aio_pika
import pytest

from pipeline.connectors import Connector
from pipeline_plugins.rabbitmq_streams import RabbitMQStreamsConnector
from tests.conftest import RabbitMQ
from tests.contract.suite import ConnectorContract, OutageContract, Outages


class RabbitMQDriver(Outages):
    """Stands between the connector and the broker, to break their connections."""

    def __init__(self, rabbitmq: RabbitMQ) -> None:
        self.broker = urlsplit(rabbitmq.stream_url)
        self.amqp_url = rabbitmq.amqp_url
        self.url = ""
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._relay, "127.0.0.1", 0)
        port = self._server.sockets[0].getsockname()[1]
        login = self.broker.netloc.rpartition("@")[0]
        self.url = self.broker._replace(netloc=f"{login}@127.0.0.1:{port}").geturl()

    async def stop(self) -> None:
        assert self._server is not None
        self._server.close()
        await self.cut()

    def connector(self) -> Connector:
        return RabbitMQStreamsConnector(self.url)

    async def cut(self) -> None:
        connections = tuple(self._connections)
        for connection in connections:
            connection.cancel()
        await asyncio.gather(*connections, return_exceptions=True)

    async def delete(self, stream: str) -> None:
        connection = await aio_pika.connect(self.amqp_url)
        async with connection:
            await (await connection.channel()).queue_delete(stream)

    async def _relay(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        broker_reader, broker_writer = await asyncio.open_connection(self.broker.hostname, self.broker.port)
        copies = [
            asyncio.ensure_future(_copy(reader, broker_writer)),
            asyncio.ensure_future(_copy(broker_reader, writer)),
        ]
        try:
            await asyncio.wait(copies, return_when=asyncio.FIRST_COMPLETED)
        except asyncio.CancelledError:
            pass
        finally:
            for copy in copies:
                copy.cancel()
            for each in (writer, broker_writer):
                each.transport.abort()
            self._connections.discard(task)


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    while data := await source.read(1 << 18):
        target.write(data)
        await target.drain()


class TestRabbitMQStreamsConnector(ConnectorContract, OutageContract):
    @pytest.fixture
    async def driver(self, rabbitmq: RabbitMQ) -> AsyncIterator[RabbitMQDriver]:
        driver = RabbitMQDriver(rabbitmq)
        await driver.start()
        yield driver
        await driver.stop()
