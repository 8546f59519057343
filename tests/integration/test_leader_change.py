"""A cluster moves the stream's leader, or loses nodes: the runner says so, follows by itself, and does it all once."""

from __future__ import annotations

import asyncio
import itertools
import json
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import pytest

from tests.conftest import ServerT
from tests.integration.rig.database import Books
from tests.integration.rig.flow import Persistent, published_all_the_time
from tests.integration.rig.publishers import Publisher, by_amqp
from tests.integration.rig.runner import Runner, until
from tests.integration.rig.site import Site, admin_pipeline
from tests.integration.rig.verdict import every_event_was_done_once
from tests.integration.rig.workflows import Workflows
from tests.services.rabbitmq_cluster import Node, RabbitMQCluster, start_rabbitmq_cluster

NOTICED_WITHIN = 30.0
pytestmark = [pytest.mark.slow, pytest.mark.chaos]


class OwnServer(Protocol):
    def __call__(self, starter: Callable[[Path], ServerT], /) -> ServerT: ...


@pytest.fixture
async def cluster(own_server: OwnServer) -> RabbitMQCluster:
    return await asyncio.to_thread(own_server, start_rabbitmq_cluster)


@pytest.fixture
async def clustered(cluster: RabbitMQCluster, site: Site) -> Site:
    """The site on the cluster; the stream has a replica on each node."""
    found = replace(site, stream_url=cluster.stream_url, amqp_url=cluster.nodes[0].amqp_url)
    async with found.by_amqp():
        pass
    return found


class Scene:
    """A running pipeline on a cluster, events that come all the time, and what stands in the database."""

    def __init__(self, cluster: RabbitMQCluster, site: Site, books: Books, runner: Runner) -> None:
        self.cluster = cluster
        self.runner = runner
        self._site = site
        self._books = books

    async def leader(self) -> Node:
        """The node that leads the stream now, as the cluster itself tells."""
        found: list[Node] = []

        async def told() -> bool:
            alive = next(node for node in self.cluster.nodes if node.process.alive())
            shown = await asyncio.to_thread(alive.tool, "rabbitmqctl", "list_queues", "leader", "--formatter=json")
            leaders = [row["leader"] for row in json.loads(shown)]
            found[:] = [node for node in self.cluster.nodes if node.node_name in leaders and node.process.alive()]
            return bool(found)

        await until(told, NOTICED_WITHIN, "the stream to have a leader", self.runner)
        return found[0]

    async def is_noticed(self, words: str, deed: Callable[[], Awaitable[None]]) -> None:
        """Do it; the log and the health then say what became of the stream, and all goes on without help."""
        said = len(self.runner.output.read_text())
        await deed()

        def tells() -> bool:
            log = self.runner.output.read_text()[said:]
            return "source admin: paused" in log and words in log

        await until(tells, NOTICED_WITHIN, f"{words!r} in the log", self.runner)
        await self.goes_on()
        assert self.runner.output.read_text()[said:].count("source admin: running") >= 1

    async def goes_on(self) -> None:
        """Wait until many more events are done, and the source is well."""
        await self._site.until_processed(self._books, await self._books.processed() + 200, 60, self.runner)

        async def well() -> bool:
            return await self._books.states("admin") == {self.runner.pid: "running"}

        await until(well, NOTICED_WITHIN, "the source to run", self.runner)


def anywhere(cluster: RabbitMQCluster, stream: str) -> Callable[[], AbstractAsyncContextManager[Publisher]]:
    """Connects a publisher to the next node each time, as a client with a list of nodes does."""
    nodes = itertools.cycle(cluster.nodes)
    return lambda: by_amqp(next(nodes).amqp_url, stream)


@pytest.mark.timeout(300)
async def test_every_event_is_done_once_wherever_the_leader_goes(
    clustered: Site, cluster: RabbitMQCluster, workflows: Callable[[int], Awaitable[Workflows]]
) -> None:
    running = await workflows(20)
    await clustered.lay_out(admin_pipeline(clustered.stream))
    runner = clustered.run()
    publisher = Persistent(anywhere(cluster, clustered.stream))
    async with clustered.books() as books:
        here = Scene(cluster, clustered, books, runner)
        async with published_all_the_time(running.ids, publisher) as sent:
            await here.goes_on()
            leader = await here.leader()
            follower = next(node for node in reversed(cluster.nodes) if node is not leader)

            async def move() -> None:
                how = (clustered.stream, "--preferred-leader-node", follower.node_name)
                await asyncio.to_thread(follower.tool, "rabbitmq-streams", "restart_stream", *how)

            await here.is_noticed("has moved to another node", move)

            leader = await here.leader()
            await here.is_noticed("has moved to another node", lambda: asyncio.to_thread(leader.kill))
            assert await here.leader() is not leader
            await asyncio.to_thread(leader.start)
            await here.goes_on()

            first = cluster.nodes[0]  # which the runner is connected to
            await here.is_noticed("closed the connection", lambda: asyncio.to_thread(first.kill))
            await asyncio.to_thread(first.start)

        async def all_audited() -> bool:  # counting does not tell, as some came twice
            return len(await books.audited()) == len(sent)

        await until(all_audited, 60, "every event to be audited", runner)
        await runner.stop()
        await every_event_was_done_once(books, running, sent, some_came_twice=True)


@pytest.mark.timeout(300)
async def test_a_stream_without_a_majority_is_waited_for(
    clustered: Site, cluster: RabbitMQCluster, workflows: Callable[[int], Awaitable[Workflows]]
) -> None:
    running = await workflows(20)
    await clustered.lay_out(admin_pipeline(clustered.stream))
    runner = clustered.run()
    async with clustered.books() as books:
        here = Scene(cluster, clustered, books, runner)
        async with published_all_the_time(running.ids, Persistent(anywhere(cluster, clustered.stream))) as sent:
            await here.goes_on()
            for node in cluster.nodes[:2]:
                await asyncio.to_thread(node.kill)

            async def pauses() -> bool:
                return await books.states("admin") == {runner.pid: "paused"}

            await until(pauses, NOTICED_WITHIN, "the source to pause", runner)
            await asyncio.gather(*(asyncio.to_thread(node.start) for node in cluster.nodes[:2]))
            await here.goes_on()

        async def all_audited() -> bool:
            return len(await books.audited()) == len(sent)

        await until(all_audited, 60, "every event to be audited", runner)
        await runner.stop()
        await every_event_was_done_once(books, running, sent, some_came_twice=True)
