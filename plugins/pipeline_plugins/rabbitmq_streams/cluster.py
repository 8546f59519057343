"""Which node of a cluster to talk to about a stream.

A replica can be read from anywhere it lies, so a node that the URL names is asked first; that is all that happens on a
single node, whatever address it advertises. Only where that one holds no replica are the advertised addresses used.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from rstream import schema

from pipeline.connectors import BrokerRefused, Start
from pipeline.errors import Unavailable
from pipeline_plugins.rabbitmq_streams.damage import Damage
from pipeline_plugins.rabbitmq_streams.frames import Text
from pipeline_plugins.rabbitmq_streams.link import Link
from pipeline_plugins.rabbitmq_streams.reader import Subscription
from pipeline_plugins.rabbitmq_streams.refusals import OK, explain, lost
from pipeline_plugins.rabbitmq_streams.url import Address, Node

__all__ = ["any_link", "link_for_publishing", "link_to_leader", "subscribe", "why_it_moved"]

_log = logging.getLogger(__name__)
_ATTEMPTS: Final = 10
"""How often a load balancer is asked for a node that holds the stream."""
_MOVE_SECONDS: Final = 1.0
_NO_NODE: Final = 65535
_HEAD_START: Final = 1.0
"""Seconds that one node of the URL has to answer before the next one is asked, too."""


@dataclass(frozen=True, slots=True)
class _Topology:
    """Where a stream lies: its leader (None while one is elected), and its replicas."""

    leader: Node | None
    replicas: tuple[Node, ...]


async def any_link(address: Address, label: str) -> Link:
    """A link to any of the URL's nodes: the first that lets us in, in their order, each with a head start.

    Raises:
        Unavailable: None of them can be reached.
        BrokerRefused: One of them refuses us, and no other lets us in.
    """
    if not address.others:
        return await Link.open(address, label)
    opening: dict[asyncio.Task[Link], None] = {}
    errors: list[Exception] = []
    nodes = list(address.nodes)
    try:
        while nodes or opening:
            if nodes:
                opening[asyncio.create_task(Link.open(address.at(nodes.pop(0)), label))] = None
            wait = _HEAD_START if nodes else None
            done, _ = await asyncio.wait(opening, timeout=wait, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                del opening[task]
                try:
                    return task.result()
                except (Unavailable, BrokerRefused) as error:
                    errors.append(error)
    finally:
        await _abandon(opening)
    raise next((error for error in errors if isinstance(error, BrokerRefused)), _all_lost(errors))


async def _abandon(opening: Iterable[asyncio.Task[Link]]) -> None:
    """Let go of links that came too late, or never."""
    for task in opening:
        task.cancel()
    for link in await asyncio.gather(*opening, return_exceptions=True):
        if isinstance(link, Link):
            link.abort()


def _all_lost(errors: Iterable[Exception]) -> Unavailable:
    reasons = [error.reason for error in errors if isinstance(error, Unavailable)]
    return Unavailable("broker", "; ".join(reasons))


async def subscribe(
    address: Address, label: str, stream: str, start: Start, damage: Damage | None = None
) -> Subscription:
    """A subscription on a link of its own, to a node that holds the stream.

    Raises:
        Unavailable: No such node can be reached.
        BrokerRefused: There is no such stream, or it may not be read.
    """
    link = await any_link(address, label)
    try:
        for _ in range(_ATTEMPTS):
            subscription = Subscription(link, stream, start, damage)
            if await subscription.open(label):
                return subscription
            elsewhere = None if address.load_balancer else _other_node(await _topology(link, stream), link)
            if elsewhere is None and not address.load_balancer:
                break
            await link.close()
            link = await (Link.open(address, label, elsewhere) if elsewhere else any_link(address, label))
    except BaseException:
        await link.close()
        raise
    await link.close()
    raise lost(address, f"no node that could be reached holds a replica of {stream!r} now")


async def link_for_publishing(address: Address, label: str, stream: str) -> Link:
    """A link to the stream's leader; to another node where the leader can't be reached, for it passes messages on.

    Raises:
        Unavailable: No node can be reached, or the stream has no leader now.
        BrokerRefused: There is no such stream, or the login is refused.
    """
    link = await any_link(address, label)
    try:
        leader = (await _topology(link, stream)).leader
    except BaseException:
        await link.close()
        raise
    if leader is None or leader == _advertised(link) or address.load_balancer:
        return link
    try:
        direct = await Link.open(address, label, leader)
    except (Unavailable, BrokerRefused) as error:
        _log.warning("publishing to %s by way of %s: its leader can't be reached: %s", stream, link.address.node, error)
        return link
    await link.close()
    return direct


async def link_to_leader(address: Address, label: str, stream: str) -> Link:
    """A link to the node that leads the stream, and to no other: only the leader knows what the stream holds.

    A stream that has no replicas is told of by any node as its leader tells, whatever addresses they advertise.

    Raises:
        Unavailable: It can't be reached, or the stream has no leader now.
        BrokerRefused: There is no such stream, or the login is refused.
    """
    for _ in range(_ATTEMPTS):
        link = await any_link(address, label)
        try:
            topology = await _topology(link, stream)
        except BaseException:
            await link.close()
            raise
        if topology.leader is not None and (not topology.replicas or topology.leader == _advertised(link)):
            return link
        await link.close()
        if topology.leader is None:
            raise lost(address, f"the stream {stream!r} has no leader now")
        if not address.load_balancer:
            try:
                return await Link.open(address, label, topology.leader)
            except (Unavailable, BrokerRefused) as error:
                raise lost(address, f"the leader of {stream!r} can't be reached: {error}") from error
    raise lost(address, f"the load balancer came to no node that leads {stream!r} now")


async def why_it_moved(link: Link, stream: str) -> Unavailable | BrokerRefused:
    """What became of a stream whose subscription the broker has ended: it moved, or it is gone."""
    try:
        async with asyncio.timeout(_MOVE_SECONDS):
            while True:
                try:
                    if (await _topology(link, stream)).leader is not None:
                        break
                except Unavailable:
                    link.check()
                await asyncio.sleep(_MOVE_SECONDS / 10)
    except TimeoutError:
        pass
    except (Unavailable, BrokerRefused) as error:
        return error
    return lost(link.address, f"the stream {stream!r} has moved to another node, or is about to")


async def _topology(link: Link, stream: str) -> _Topology:
    """Where the stream lies. Raises `BrokerRefused` where there is none, `Unavailable` where it is not available."""
    response = await link.request(schema.Metadata, streams=[Text(stream)])
    found = response.metadata[0]
    if found.response_code != OK:
        raise explain(found.response_code, link.address, stream)
    nodes: dict[int, Node] = {broker.reference: (broker.host, broker.port) for broker in response.brokers}
    replicas = tuple(nodes[reference] for reference in found.replicas_refs if reference in nodes)
    return _Topology(nodes.get(found.leader_ref), replicas)


def _other_node(topology: _Topology, link: Link) -> Node | None:
    """A node that holds the stream and is not the link's: a replica, so that the leader is left to the publishers."""
    here = _advertised(link)
    replicas = [node for node in topology.replicas if node not in (here, topology.leader)]
    if replicas:
        return random.choice(replicas)  # noqa: S311 - spreads the load
    return topology.leader if topology.leader != here else None


def _advertised(link: Link) -> Node | None:
    host, port = link.properties.get("advertised_host"), link.properties.get("advertised_port", "")
    return (host, int(port)) if host and port.isdigit() else None
