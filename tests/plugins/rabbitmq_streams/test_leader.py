"""Who is asked what an empty stream holds: its leader, and nobody in its place."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import pytest

from pipeline.connectors import StreamBounds
from pipeline.errors import Unavailable
from pipeline_plugins.rabbitmq_streams import RabbitMQStreamsConnector, cluster
from pipeline_plugins.rabbitmq_streams.link import Link
from pipeline_plugins.rabbitmq_streams.refusals import lost
from pipeline_plugins.rabbitmq_streams.url import Address, Node, parse_url
from tests.conftest import RabbitMQ
from tests.plugins.rabbitmq_streams.support import connected, delete

Topology = cluster._Topology
A, B, C = ("a", 1), ("b", 1), ("c", 1)


class FakeLink:
    """A link to a node that advertises this address."""

    def __init__(self, node: Node) -> None:
        self.properties = {"advertised_host": node[0], "advertised_port": str(node[1])}
        self.node = node
        self.closed = False

    async def close(self) -> None:
        self.closed = True


class Nodes:
    """What `cluster` finds: where the stream lies, and which node each connection to the URL's host comes to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.topology = Topology(A, (B, C))
        self.comes_to = [B]
        self.down: set[Node] = set()
        self.opened: list[FakeLink] = []
        monkeypatch.setattr(cluster, "any_link", self._any)
        monkeypatch.setattr(cluster, "_topology", self._topology)
        monkeypatch.setattr(Link, "open", self._open)

    async def link(self, options: str = "") -> FakeLink:
        found: Any = await cluster.link_to_leader(parse_url(f"rabbitmq-stream://h{options}"), "test", "s")
        assert [link for link in self.opened if not link.closed] == [found]
        return found  # type: ignore[no-any-return]

    async def _any(self, address: Address, label: str) -> FakeLink:
        self.opened.append(FakeLink(self.comes_to.pop(0) if len(self.comes_to) > 1 else self.comes_to[0]))
        return self.opened[-1]

    async def _topology(self, link: Link, stream: str) -> Topology:
        return self.topology

    async def _open(self, address: Address, label: str, node: Node) -> FakeLink:
        if node in self.down:
            raise lost(address, "connection refused")
        self.opened.append(FakeLink(node))
        return self.opened[-1]


@pytest.fixture
def nodes(monkeypatch: pytest.MonkeyPatch) -> Nodes:
    return Nodes(monkeypatch)


async def test_the_leader_is_connected_to_where_the_url_names_a_replica(nodes: Nodes) -> None:
    assert (await nodes.link()).node == A


async def test_a_leader_that_can_t_be_reached_is_not_stood_in_for_by_a_replica(nodes: Nodes) -> None:
    nodes.down.add(A)
    with pytest.raises(Unavailable, match=r"the leader of 's' can't be reached: .*connection refused"):
        await nodes.link()
    assert all(link.closed for link in nodes.opened)


async def test_while_a_leader_is_elected_nobody_is_asked(nodes: Nodes) -> None:
    nodes.topology = Topology(None, (B, C))
    with pytest.raises(Unavailable, match="no leader now"):
        await nodes.link()
    assert all(link.closed for link in nodes.opened)


async def test_a_load_balancer_is_asked_until_it_comes_to_the_leader(nodes: Nodes) -> None:
    nodes.comes_to = [B, C, B, A]
    assert (await nodes.link("?load_balancer=true")).node == A
    assert len(nodes.opened) == 4


async def test_a_load_balancer_that_never_comes_to_the_leader_is_waited_for(nodes: Nodes) -> None:
    with pytest.raises(Unavailable, match="came to no node that leads 's'"):
        await nodes.link("?load_balancer=true")
    assert all(link.closed for link in nodes.opened)


@pytest.mark.parametrize("options", ["", "?load_balancer=true"])
async def test_a_stream_without_replicas_is_asked_of_the_url_s_node_whatever_it_advertises(
    nodes: Nodes, options: str
) -> None:
    nodes.topology = Topology(("a-name-that-nobody-resolves", 5552), ())
    nodes.down.add(("a-name-that-nobody-resolves", 5552))
    assert (await nodes.link(options)).node == B


@pytest.mark.parametrize(
    "url",
    [
        lambda broker: broker.stream_url,
        lambda broker: f"{broker.stream_url}?load_balancer=true",
        lambda broker: f"{broker.tls_url}?ca={quote(broker.ca)}",
    ],
    ids=["plain", "load balancer", "TLS"],
)
async def test_an_empty_stream_of_a_single_node_is_empty(
    rabbitmq: RabbitMQ, stream_name: str, url: Callable[[RabbitMQ], str]
) -> None:
    async with connected(url(rabbitmq)) as connector:
        await connector.create_stream(stream_name)
        assert await asyncio.wait_for(connector.bounds(stream_name), 5) == StreamBounds(None, None)
        await delete(connector, stream_name)


async def test_a_single_node_is_asked_on_the_url_s_host_where_nobody_can_reach_what_it_advertises(
    rabbitmq: RabbitMQ, stream_name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cluster, "_advertised", lambda link: ("a-name-that-nobody-resolves", 5552))
    async with connected(rabbitmq.stream_url) as connector:
        assert isinstance(connector, RabbitMQStreamsConnector)
        await connector.create_stream(stream_name)
        assert await connector.bounds(stream_name) == StreamBounds(None, None)
        await delete(connector, stream_name)
