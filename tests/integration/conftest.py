"""Fixtures of the end-to-end tests: a site on the shared servers, with workflows to signal."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from temporalio.client import Client

from tests.conftest import RabbitMQ
from tests.integration.rig.publishers import delete
from tests.integration.rig.site import Site
from tests.integration.rig.workflows import Workflows


@pytest.fixture
async def site(
    tmp_path: Path, rabbitmq: RabbitMQ, postgres: str, temporal_address: str, stream_name: str
) -> AsyncIterator[Site]:
    """A site on the shared servers."""
    site = Site(tmp_path, stream_name, rabbitmq.stream_url, rabbitmq.amqp_url, postgres, temporal_address)
    try:
        yield site
    finally:
        site.close()
        await delete(rabbitmq.amqp_url, stream_name)


@pytest.fixture
async def workflows(site: Site) -> AsyncIterator[Callable[[int], Awaitable[Workflows]]]:
    """Start so many workflows on the site's Temporal."""
    started: list[Workflows] = []

    async def start(count: int) -> Workflows:
        client = await Client.connect(site.temporal_address)
        made = Workflows(client, [f"{site.stream}.{number}" for number in range(count)])
        await made.start()
        started.append(made)
        return made

    yield start
    for made in started:
        await made.terminate()
