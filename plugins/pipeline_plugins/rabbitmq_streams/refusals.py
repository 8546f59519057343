"""What RabbitMQ's response codes mean to the user: wait, or mend something, and what."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from pipeline.connectors import BrokerRefused, Start, Unreadable
from pipeline.errors import Unavailable
from pipeline_plugins.rabbitmq_streams.url import Address

__all__ = [
    "NO_PLAIN",
    "OFFSET_NOT_FOUND",
    "OK",
    "PRECONDITION_FAILED",
    "STREAM_EXISTS",
    "STREAM_MISSING",
    "STREAM_NOT_AVAILABLE",
    "explain",
    "lost",
    "missing",
    "unreadable",
]

OK: Final = 1
NO_PLAIN: Final = 7
STREAM_MISSING: Final = 2
STREAM_EXISTS: Final = 5
STREAM_NOT_AVAILABLE: Final = 6
PRECONDITION_FAILED: Final = 17
OFFSET_NOT_FOUND: Final = 19
_WAIT: Final = {
    STREAM_NOT_AVAILABLE: "the stream is not available now (no leader, or no replica on this node)",
    14: "it found a frame too large",
    15: "it reports an internal error",
    18: "it has forgotten the publisher",
}
_REFUSED: Final[dict[int, Callable[[Address, str], str]]] = {
    NO_PLAIN: lambda address, _: f"RabbitMQ at {address.node} offers no PLAIN login: add it to auth_mechanisms",
    8: lambda address, _: (
        f"RabbitMQ at {address.node} refused the login of user {address.user!r}: check user and password"
    ),
    9: lambda address, _: f"RabbitMQ at {address.node} could not read the login of user {address.user!r}",
    10: lambda address, _: f"RabbitMQ at {address.node} asks more than a password of user {address.user!r}",
    11: lambda address, _: (
        f"RabbitMQ at {address.node} lets user {address.user!r} in from its own machine only: use another user"
    ),
    12: lambda address, _: (
        f"RabbitMQ at {address.node} has no vhost {address.vhost!r}, or user {address.user!r} may not use it: "
        "create it (rabbitmqctl add_vhost), or let the user in (rabbitmqctl set_permissions)"
    ),
    13: lambda address, _: f"RabbitMQ at {address.node} does not know this command: version 3.11 or newer is needed",
    16: lambda address, stream: (
        f"user {address.user!r} lacks a permission on the stream {stream!r} in vhost {address.vhost!r}: reading takes "
        "'read', publishing 'write', creating 'configure'"
    ),
    PRECONDITION_FAILED: lambda address, stream: (
        f"RabbitMQ at {address.node} refused what was asked of the stream {stream!r}: its name is taken or not allowed"
    ),
}


def explain(code: int, address: Address, stream: str = "") -> BrokerRefused | Unavailable:
    """The error that stands for a response code: `Unavailable` where waiting may help, else `BrokerRefused`."""
    if code == STREAM_MISSING:
        return missing(address, stream)
    if code in _REFUSED:
        return BrokerRefused(_REFUSED[code](address, stream))
    return lost(address, _WAIT.get(code, f"it answered with the code {code}") + (f": {stream!r}" if stream else ""))


def missing(address: Address, stream: str) -> BrokerRefused:
    """There is no such stream."""
    return BrokerRefused(
        f"there is no stream {stream!r} in vhost {address.vhost!r} on {address.node}: create it "
        f'(rabbitmqadmin declare queue name={stream} durable=true arguments=\'{{"x-queue-type": "stream"}}\'), '
        "or let the pipeline do it with create_streams = true in [broker]"
    )


def lost(address: Address, reason: str) -> Unavailable:
    """The broker can't be reached, or no longer."""
    return Unavailable("broker", f"RabbitMQ at {address.node}: {reason}")


def unreadable(stream: str, start: Start, error: Unavailable) -> Unreadable:
    """Reads of the stream from there ended before anything came, again and again, the last with this error."""
    place = f"offset {start.value}" if start.at == "offset" else f"its {start.at} chunk"
    return Unreadable(
        "broker",
        f"the stream {stream!r} can't be read from {place}: each time the read ended before a message came "
        f"({error.reason}). Most likely that chunk is damaged on the node's disk (its log then says "
        "'invalid_chunk_header'): have the node copy the stream again from another one (rabbitmq-streams "
        "delete_replica, add_replica), or go on behind the damage with another group and start = OFFSET in the source",
    )
