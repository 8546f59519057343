"""What lies in a stream and may not be read yet is waited for, and never taken for an empty stream."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from pipeline.config.models import SourceTable
from pipeline.connectors import BrokerRefused, Start, StreamBounds
from pipeline.dispatch.resume import Resume
from pipeline.errors import Unavailable
from pipeline_plugins.rabbitmq_streams import RabbitMQStreamsConnector
from pipeline_plugins.rabbitmq_streams.link import Link
from pipeline_plugins.rabbitmq_streams.reader import Subscription
from tests.pipeline.dispatch.harness import bench, message, stage
from tests.pipeline.dispatch.test_resume import nothing

EMPTY = {"first_chunk_id": -1, "committed_chunk_id": -1, "last_chunk_id": -1}
NOTES_ONLY = {"first_chunk_id": 0, "committed_chunk_id": 3, "last_chunk_id": 3}
NEW_LEADER = {"first_chunk_id": 0, "committed_chunk_id": -1, "last_chunk_id": 99}
BEHIND = {"first_chunk_id": 0, "committed_chunk_id": 50, "last_chunk_id": 99}
OLD_NODE = {"first_chunk_id": 0, "committed_chunk_id": -1}
"""What a node tells that does not know the last chunk."""


class Node:
    """A link to a node that tells this of a stream, and delivers nothing."""

    def __init__(self, *stats: dict[str, int]) -> None:
        self._stats = list(stats)

    async def stats(self, stream: str) -> dict[str, int]:
        return self._stats.pop(0) if len(self._stats) > 1 else self._stats[0]

    async def close(self) -> None:
        pass

    def check(self) -> None:
        pass


class Cluster:
    """What the connector is told: by the node of its questions, by the node that it reads from, and by the leader."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.connector = RabbitMQStreamsConnector("rabbitmq-stream://h")
        self.asked = self.read = self.leader = Node(EMPTY)
        self.moved = False
        monkeypatch.setattr(self.connector, "_control", self._control)
        rooms = "pipeline_plugins.rabbitmq_streams"
        monkeypatch.setattr(f"{rooms}.cluster.subscribe", self._subscribe)
        monkeypatch.setattr(f"{rooms}.cluster.link_to_leader", self._link_to_leader)
        monkeypatch.setattr(f"{rooms}.connector._PEEK_SECONDS", 0.01)
        monkeypatch.setattr(f"{rooms}.connector._AT_HAND_SECONDS", 0.001)

    def tells(self, *stats: dict[str, int]) -> None:
        self.asked = self.read = self.leader = Node(*stats)

    async def _control(self) -> Node:
        return self.asked

    async def _subscribe(self, address: object, label: str, stream: str, start: Start, damage: Any) -> Subscription:
        subscription = Subscription(cast("Link", self.read), stream, start, damage)
        subscription.moved = self.moved
        return subscription

    async def _link_to_leader(self, address: object, label: str, stream: str) -> Node:
        return self.leader


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    return Cluster(monkeypatch)


@pytest.mark.parametrize("stats", [NEW_LEADER, BEHIND, OLD_NODE])
async def test_a_stream_of_which_nothing_may_be_read_yet_is_not_available(
    cluster: Cluster, stats: dict[str, int]
) -> None:
    cluster.tells(stats)
    with pytest.raises(Unavailable, match="holds messages that can't be read yet"):
        await cluster.connector.bounds("s")
    with pytest.raises(Unavailable):
        await cluster.connector.timestamp_at("s", 0)


async def test_what_is_committed_while_it_is_looked_at_is_looked_at_again(cluster: Cluster) -> None:
    cluster.tells(NEW_LEADER, {**NEW_LEADER, "committed_chunk_id": 99})
    with pytest.raises(Unavailable):
        await cluster.connector.bounds("s")


@pytest.mark.parametrize("stats", [EMPTY, NOTES_ONLY])
async def test_a_stream_that_never_held_a_message_is_empty(cluster: Cluster, stats: dict[str, int]) -> None:
    cluster.tells(stats)
    assert await cluster.connector.bounds("s") == StreamBounds(None, None)


async def test_a_replica_that_has_copied_nothing_yet_is_no_empty_stream(cluster: Cluster) -> None:
    cluster.tells(EMPTY)
    cluster.leader = Node({**NEW_LEADER, "committed_chunk_id": 99})
    with pytest.raises(Unavailable):
        await cluster.connector.bounds("s")


async def test_a_leader_that_moves_while_it_is_looked_at_is_no_empty_stream(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def why(link: Link, stream: str) -> Unavailable | BrokerRefused:
        return Unavailable("broker", "it has moved")

    monkeypatch.setattr("pipeline_plugins.rabbitmq_streams.cluster.why_it_moved", why)
    cluster.tells(NOTES_ONLY)
    cluster.moved = True
    with pytest.raises(Unavailable, match="it has moved"):
        await cluster.connector.bounds("s")


async def test_a_group_keeps_its_progress_until_a_new_leader_has_heard_from_the_replicas(
    cluster: Cluster, tmp_path: Path
) -> None:
    async with bench(tmp_path, [stage("x", nothing)]) as pipe:
        await pipe.feed(*(message(offset, {"k": offset}) for offset in range(100)))
        await pipe.settle(100)
        table = SourceTable(stream="st", group="g")
        resume = Resume(cluster.connector, pipe.ledger, pipe.lease, pipe.source.window, table)
        cluster.tells(NEW_LEADER)
        with pytest.raises(Unavailable):
            await asyncio.wait_for(resume.start(), 5)
        assert (pipe.lease.incarnation, pipe.lease.progress.prefix) == (0, 99)
        cluster.tells(EMPTY)  # deleted and created anew
        assert await resume.start() == Start("first")
        assert (pipe.lease.incarnation, pipe.lease.progress.prefix) == (1, -1)
