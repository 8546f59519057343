"""Logging in, plain and with TLS: what is refused says what to mend."""

from __future__ import annotations

from urllib.parse import quote, urlsplit

import pytest

from pipeline.connectors import BrokerRefused
from pipeline.errors import Unavailable
from pipeline_plugins.rabbitmq_streams import RabbitMQStreamsConnector
from tests.conftest import RabbitMQ
from tests.plugins.rabbitmq_streams.support import connected, delete, events, ids, read


async def refusal(url: str) -> str:
    connector = RabbitMQStreamsConnector(url)
    with pytest.raises(BrokerRefused) as refused:
        await connector.connect()
    return str(refused.value)


async def test_a_wrong_password_is_refused(rabbitmq: RabbitMQ) -> None:
    message = await refusal(rabbitmq.stream_url.replace(":guest@", ":wr%40ng@"))
    assert "refused the login of user 'guest'" in message
    assert "wr@ng" not in message


async def test_a_vhost_that_is_not_there_is_refused(rabbitmq: RabbitMQ) -> None:
    assert "no vhost 'no/where'" in await refusal(urlsplit(rabbitmq.stream_url)._replace(path="/no%2Fwhere").geturl())


async def test_the_wrong_port_is_named_as_such(rabbitmq: RabbitMQ) -> None:
    connector = RabbitMQStreamsConnector(urlsplit(rabbitmq.amqp_url)._replace(scheme="rabbitmq-stream").geturl())
    with pytest.raises(Unavailable, match="does not speak the stream protocol"):
        await connector.connect()


async def test_tls_with_its_authority_works(rabbitmq: RabbitMQ, stream_name: str) -> None:
    async with connected(f"{rabbitmq.tls_url}?ca={quote(rabbitmq.ca)}") as connector:
        await connector.create_stream(stream_name)
        await connector.publish(stream_name, events(1, 3000, bytes(1000)))
        assert ids(await read(connector, stream_name, 3000)) == list(range(1, 3001))
        await delete(connector, stream_name)


async def test_tls_without_its_authority_is_refused_with_what_to_do(rabbitmq: RabbitMQ) -> None:
    assert "ca=FILE" in await refusal(rabbitmq.tls_url)


async def test_tls_for_another_name_is_refused_with_what_to_do(rabbitmq: RabbitMQ) -> None:
    assert "server_name=NAME" in await refusal(f"{rabbitmq.tls_url}?ca={quote(rabbitmq.ca)}&server_name=other.example")


async def test_tls_that_is_not_verified_works(rabbitmq: RabbitMQ) -> None:
    async with connected(f"{rabbitmq.tls_url}?verify=false") as connector:
        await connector.probe()


async def test_tls_at_the_plain_port_is_named_as_such(rabbitmq: RabbitMQ) -> None:
    plain = urlsplit(rabbitmq.stream_url)._replace(scheme="rabbitmq-stream+tls").geturl()
    with pytest.raises(Unavailable, match="port of its TLS listener"):
        await RabbitMQStreamsConnector(plain).connect()
