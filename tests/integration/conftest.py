"""Fixtures of the end-to-end tests: a site with workflows to signal, and a database, also behind a proxy."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from temporalio.client import Client

from pipeline.ledger.database import Database
from tests.conftest import RabbitMQ
from tests.integration.prepared import prepared
from tests.integration.proxy import Proxy
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


@pytest.fixture
async def db(postgres: str) -> AsyncIterator[Database]:
    found = await prepared(postgres)
    yield found
    await found.close()


@pytest.fixture
async def proxy(postgres: str) -> AsyncIterator[Proxy]:
    parts = urlsplit(postgres)
    assert parts.hostname
    async with Proxy(parts.hostname, parts.port or 5432) as found:
        yield found


@pytest.fixture
async def behind(proxy: Proxy, postgres: str, db: Database) -> AsyncIterator[Database]:
    """The same database, reached through the proxy, by a client that waits half a second."""
    parts = urlsplit(postgres)
    netloc = f"{parts.username}{':' + parts.password if parts.password else ''}@127.0.0.1:{proxy.port}"
    found = Database(parts._replace(netloc=netloc).geturl(), command_timeout=0.5)
    yield found
    proxy.go_on()
    await found.close()
