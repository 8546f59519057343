"""A URL that names several nodes: any that answers will do, whatever the others are at."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator, Iterator
from urllib.parse import urlsplit

import pytest

from pipeline.connectors import BrokerRefused
from pipeline.errors import Unavailable
from pipeline_plugins.rabbitmq_streams import RabbitMQStreamsConnector
from tests.conftest import RabbitMQ
from tests.plugins.rabbitmq_streams.relay import Relay, relayed
from tests.plugins.rabbitmq_streams.support import connected, delete, events, ids, read


@pytest.fixture
def refusing() -> Iterator[str]:
    """A host and port where nobody listens."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"127.0.0.1:{taken.getsockname()[1]}"


@pytest.fixture
def silent() -> Iterator[str]:
    """A host and port where connections are accepted, and nobody answers."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def behind(others: str, url: str) -> str:
    """The URL, with these nodes before its own."""
    parts = urlsplit(url)
    login, at, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{login}{at}{others},{host}").geturl()


async def test_a_node_that_is_dead_and_one_that_is_silent_are_passed_over(
    rabbitmq: RabbitMQ, refusing: str, silent: str, stream_name: str
) -> None:
    began = time.monotonic()
    async with connected(behind(f"{refusing},{silent}", rabbitmq.stream_url)) as connector:
        assert time.monotonic() - began < 3  # a silent node has a second's head start, and no more
        assert connector.address.node == urlsplit(rabbitmq.stream_url).netloc.rpartition("@")[2]  # first from now on
        await connector.create_stream(stream_name)
        began = time.monotonic()
        await connector.publish(stream_name, events(1, 3))
        assert ids(await read(connector, stream_name, 3)) == [1, 2, 3]
        assert time.monotonic() - began < 1
        await delete(connector, stream_name)


@pytest.fixture
async def relay(rabbitmq: RabbitMQ) -> AsyncIterator[Relay]:
    async with relayed(f"{rabbitmq.stream_url}?heartbeat=1") as relay:
        yield relay


async def test_the_other_node_takes_over_when_the_one_in_use_goes_silent(
    rabbitmq: RabbitMQ, relay: Relay, stream_name: str
) -> None:
    first = urlsplit(relay.url).netloc.rpartition("@")[2]
    async with connected(behind(first, f"{rabbitmq.stream_url}?heartbeat=1")) as connector:
        assert connector.address.node == first
        relay.swallowing = True
        with pytest.raises(Unavailable, match=first):  # once its silence has lasted too long
            await connector.probe()
        async with asyncio.timeout(5):
            await connector.probe()
        assert connector.address.node != first
        relay.swallowing = False


async def test_where_no_node_answers_each_is_named(refusing: str) -> None:
    connector = RabbitMQStreamsConnector(f"rabbitmq-stream://{refusing},127.0.0.1:1")
    with pytest.raises(Unavailable) as raised:
        await connector.connect()
    assert refusing in raised.value.reason
    assert "127.0.0.1:1: " in raised.value.reason


async def test_a_refusal_is_told_where_no_other_node_lets_us_in(rabbitmq: RabbitMQ, refusing: str) -> None:
    parts = urlsplit(rabbitmq.stream_url)
    host = parts.netloc.rpartition("@")[2]
    connector = RabbitMQStreamsConnector(f"rabbitmq-stream://nobody:wrong@{host},{refusing}/%2F")
    with pytest.raises(BrokerRefused, match="refused the login of user 'nobody'"):
        await connector.connect()
