"""What FastStream is told about a broker, a subscriber and a publisher."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from faststream._internal.configs import (
    BrokerConfig,
    PublisherSpecificationConfig,
    PublisherUsecaseConfig,
    SubscriberSpecificationConfig,
    SubscriberUsecaseConfig,
)
from faststream.middlewares import AckPolicy

from pipeline.connectors import Connector, Start
from pipeline.streams.follow import Following, StreamState

__all__ = [
    "Channel",
    "StreamBrokerConfig",
    "StreamPublisherConfig",
    "StreamPublisherSpecificationConfig",
    "StreamSubscriberConfig",
    "StreamSubscriberSpecificationConfig",
    "WhereToStart",
]

WhereToStart = Callable[[], Awaitable[Start]]
"""Says where to begin, each time that reading begins."""


@dataclass(frozen=True, slots=True)
class Channel:
    """One AsyncAPI channel of a subscriber, such as one route of a runner.

    Attributes:
        name: Its key in the document; unique in it.
        description: What it is for, in Markdown.
        payload: The JSON Schema of an event's data.
        address: Where its messages are found; by default the stream's name.
    """

    name: str
    description: str | None = None
    payload: Mapping[str, Any] = field(default_factory=dict)
    address: str = ""


@dataclass(kw_only=True)
class StreamBrokerConfig(BrokerConfig):
    """The broker's own: its connector."""

    connector: Connector


@dataclass(kw_only=True)
class StreamSubscriberConfig(SubscriberUsecaseConfig):
    """What one subscriber reads, and how."""

    _outer_config: StreamBrokerConfig
    stream: str
    group: str
    start: Start | WhereToStart
    max_batch: int
    on_failure: Callable[[BaseException], object]
    on_state: Callable[[StreamState], object]
    refuse_at_start: bool
    how: Following

    @property
    def ack_policy(self) -> AckPolicy:
        """None: what a batch's end means is the handler's business."""
        return AckPolicy.MANUAL


@dataclass(kw_only=True)
class StreamSubscriberSpecificationConfig(SubscriberSpecificationConfig):
    """How a subscriber is documented."""

    stream: str
    channels: Sequence[Channel]


@dataclass(kw_only=True)
class StreamPublisherConfig(PublisherUsecaseConfig):
    """Where one publisher publishes to."""

    _outer_config: StreamBrokerConfig
    stream: str
    routing_key: str
    headers: Mapping[str, Any]
    batch: bool


@dataclass(kw_only=True)
class StreamPublisherSpecificationConfig(PublisherSpecificationConfig):
    """How a publisher is documented."""

    stream: str
    routing_key: str
