"""What the page on production says of RabbitMQ, on a real one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import Any

import aio_pika
import pytest

from pipeline.connectors import Start
from pipeline_plugins.rabbitmq_streams import RabbitMQStreamsConnector
from tests.conftest import RabbitMQ
from tests.docs.blocks import ROOT, files_of

FILES = files_of(ROOT / "docs" / "production.md")
STREAM = "stream.platform.admin"


def definitions() -> dict[str, Any]:
    """The definitions that the page shows."""
    loaded: dict[str, Any] = json.loads(FILES["definitions.json"])
    return loaded


async def test_the_script_declares_a_stream_that_gets_what_is_published(rabbitmq: RabbitMQ, stream_name: str) -> None:
    script = FILES["declare.py"].replace(STREAM, stream_name).replace('"platform"', f'"{stream_name}.exchange"')
    environment = {**os.environ, "AMQP_URL": rabbitmq.amqp_url}
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=False, timeout=60
    )
    assert done.returncode == 0, done.stderr

    async with await aio_pika.connect(rabbitmq.amqp_url) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange(f"{stream_name}.exchange")
        message = aio_pika.Message(b'{"a": 1}', message_id="id-1", headers={"tenant": "acme"})
        await exchange.publish(message, "admin.workflow.paused")
        connector = RabbitMQStreamsConnector(rabbitmq.stream_url)
        await connector.connect()
        try:
            batch = await anext(connector.read(stream_name, Start("first"), name="docs"))
        finally:
            await connector.close()
            await channel.queue_delete(stream_name)
            await exchange.delete()
    first = batch[0]
    assert (first.routing_key, first.id, first.body) == ("admin.workflow.paused", "id-1", b'{"a": 1}')
    assert first.headers["tenant"] == "acme"


def test_the_definitions_declare_what_the_script_does() -> None:
    shown = definitions()
    queue, exchange, binding = shown["queues"][0], shown["exchanges"][0], shown["bindings"][0]
    script = FILES["declare.py"]
    assert queue["name"] == binding["destination"] == STREAM
    assert exchange["name"] == binding["source"]
    for text in (queue["name"], exchange["name"], binding["routing_key"], *queue["arguments"].values()):
        assert f'"{text}"' in script


@pytest.mark.parametrize("extra", ["rabbitmq", "temporal", "postgres", "jobs", "embedded", "webhook", "all"])
def test_every_extra_is_explained(extra: str) -> None:
    assert f"| `{extra}` |" in (ROOT / "docs" / "production.md").read_text()


def test_there_is_no_other_extra() -> None:
    import tomllib

    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for_users = set(extras) - {"dev", "fuzz"}
    assert for_users == {"rabbitmq", "temporal", "postgres", "jobs", "governance", "embedded", "webhook", "all"}
