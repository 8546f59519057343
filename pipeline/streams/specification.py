"""Subscribers and publishers in the AsyncAPI document."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

from faststream._internal.endpoint.publisher import PublisherSpecification
from faststream._internal.endpoint.subscriber import SubscriberSpecification
from faststream.specification.asyncapi.utils import resolve_payloads
from faststream.specification.schema import Message, Operation, PublisherSpec, SubscriberSpec

from pipeline.streams.config import (
    Channel,
    StreamBrokerConfig,
    StreamPublisherSpecificationConfig,
    StreamSubscriberSpecificationConfig,
)

__all__ = ["StreamPublisherSpecification", "StreamSubscriberSpecification"]


class StreamSubscriberSpecification(SubscriberSpecification[StreamBrokerConfig, StreamSubscriberSpecificationConfig]):
    """One channel for each that the subscriber declares; one of any payload where it declares none."""

    @property
    def address(self) -> str:
        """The stream's name."""
        return f"{self._outer_config.prefix}{self.config.stream}"

    @property
    def channel_labels(self) -> list[str]:
        """The names of its channels."""
        return [channel.name for channel in self.config.channels] or [self.address]

    def get_schema(self) -> dict[str, SubscriberSpec]:
        """Its channels by name."""
        channels = self.config.channels or [Channel(self.name, self.description)]
        return {channel.name: self._describe(channel) for channel in channels}

    def _describe(self, channel: Channel) -> SubscriberSpec:
        title = f"{channel.name}:Message"
        payload: dict[str, Any] = {"title": f"{title}:Payload", **deepcopy(dict(channel.payload))}
        return SubscriberSpec(
            address=channel.address or self.address,
            description=channel.description,
            operation=Operation(message=Message(title=title, payload=payload), bindings=None),
            bindings=None,
        )


class StreamPublisherSpecification(PublisherSpecification[StreamBrokerConfig, StreamPublisherSpecificationConfig]):
    """One channel: the stream, and the routing key where there is one."""

    @property
    def name(self) -> str:
        """The channel's key in the document."""
        key = f":{self.config.routing_key}" if self.config.routing_key else ""
        return self.config.title_ or f"{self.address}{key}:Publisher"

    @property
    def address(self) -> str:
        """The stream's name."""
        return f"{self._outer_config.prefix}{self.config.stream}"

    def get_schema(self) -> dict[str, PublisherSpec]:
        """Its channel."""
        return {
            self.name: PublisherSpec(
                address=self.address,
                description=self.config.description_,
                operation=Operation(
                    message=Message(
                        title=f"{self.name}:Message", payload=resolve_payloads(self.get_payloads(), "Publisher")
                    ),
                    bindings=None,
                ),
                bindings=None,
            )
        }
