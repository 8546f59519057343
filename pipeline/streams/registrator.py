"""Declaring subscribers and publishers, on a broker or on a router that it includes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Literal, cast

from faststream._internal.broker.registrator import Registrator
from faststream._internal.broker.router import BrokerRouter, SubscriberRoute
from faststream._internal.configs import BrokerConfig
from faststream._internal.endpoint.subscriber.call_item import CallsCollection
from faststream._internal.types import BrokerMiddleware
from faststream.exceptions import SetupError
from faststream.middlewares import AckPolicy

from pipeline.connectors import MessageBatch, Start
from pipeline.streams.config import (
    Channel,
    StreamBrokerConfig,
    StreamPublisherConfig,
    StreamPublisherSpecificationConfig,
    StreamSubscriberConfig,
    StreamSubscriberSpecificationConfig,
    WhereToStart,
)
from pipeline.streams.follow import Following, StreamState
from pipeline.streams.publisher import StreamPublisher
from pipeline.streams.specification import StreamPublisherSpecification, StreamSubscriberSpecification
from pipeline.streams.subscriber import StreamSubscriber

__all__ = ["StreamRegistrator", "StreamRouter"]


class StreamRegistrator(Registrator[MessageBatch, StreamBrokerConfig]):
    """What a broker and a router have in common."""

    def subscriber(  # type: ignore[override]  # a stream's own arguments
        self,
        stream: str,
        *,
        group: str,
        start: Literal["first", "last", "next"] | Start | WhereToStart = "first",
        max_batch: int = 500,
        on_failure: Callable[[BaseException], object] = lambda failure: None,
        on_state: Callable[[StreamState], object] = lambda state: None,
        refuse_at_start: bool = True,
        how: Following | None = None,
        channels: Sequence[Channel] = (),
        ack_policy: AckPolicy = AckPolicy.MANUAL,
        title: str | None = None,
        description: str | None = None,
        include_in_schema: bool = True,
        persistent: bool = True,
    ) -> StreamSubscriber:
        """Declare a batch subscriber; decorate with it an async function that takes a list of `Message`s.

        Args:
            stream: The stream to read.
            group: The consumer group that it reads for.
            start: Where a group without a stored offset begins; the group's offset is then stored after each batch.
                Or an async function that is asked each time reading begins, also after a loss of the connection: then
                progress is the caller's business, and no offset is stored.
            max_batch: How many messages the handler gets at most.
            on_failure: Called once when the handler raised, or reading failed for good: the subscriber has stopped.
            on_state: Called with each change of how reading stands.
            refuse_at_start: Whether a stream that the broker refuses at the start is such a failure.
            how: Waiting times of reconnection.
            channels: The AsyncAPI channels that it stands for; one of any payload where there are none.
            ack_policy: Only `AckPolicy.MANUAL`: a stream has no acknowledgements.
            title: Its AsyncAPI channel's name, where `channels` names none.
            description: Its AsyncAPI channel's description; by default the handler's docstring.
            include_in_schema: Whether it is in the AsyncAPI document.
            persistent: Whether the broker keeps it where nothing else does.

        Raises:
            SetupError: Another acknowledgement policy was asked for.
        """
        if ack_policy is not AckPolicy.MANUAL:
            raise SetupError(
                f"ack_policy={ack_policy}: a stream has no acknowledgements. Leave it out: a handler that raises stops "
                "its subscriber, and where to go on is what 'start' says"
            )
        outer = cast("StreamBrokerConfig", self.config)
        calls = CallsCollection[MessageBatch]()
        config = StreamSubscriberConfig(
            _outer_config=outer,
            no_reply=True,
            stream=stream,
            group=group,
            start=Start(start) if isinstance(start, str) else start,
            max_batch=max_batch,
            on_failure=on_failure,
            on_state=on_state,
            refuse_at_start=refuse_at_start,
            how=how or Following(),
        )
        documented = StreamSubscriberSpecificationConfig(
            title_=title,
            description_=description,
            include_in_schema=include_in_schema,
            stream=stream,
            channels=tuple(channels),
        )
        specification = StreamSubscriberSpecification(outer, documented, calls)
        subscriber = StreamSubscriber(config, specification, calls)
        super().subscriber(subscriber, persistent=persistent)
        return subscriber.add_call(parser_=None, decoder_=None, dependencies_=())

    def publisher(  # type: ignore[override]  # a stream's own arguments
        self,
        stream: str,
        *,
        routing_key: str = "",
        headers: Mapping[str, Any] | None = None,
        batch: bool = False,
        title: str | None = None,
        description: str | None = None,
        schema: Any | None = None,
        include_in_schema: bool = True,
        persistent: bool = True,
    ) -> StreamPublisher:
        """Declare a publisher; call its `publish`, or decorate a handler with it to publish what that returns.

        Args:
            stream: The stream to publish to.
            routing_key: What its messages are routed by, where a call says nothing else.
            headers: Added to each message.
            batch: Whether a list that a handler returns is one message for each item.
            title: Its AsyncAPI channel's name.
            description: Its AsyncAPI channel's description.
            schema: The type of its messages, for AsyncAPI.
            include_in_schema: Whether it is in the AsyncAPI document.
            persistent: Whether the broker keeps it where nothing else does.
        """
        outer = cast("StreamBrokerConfig", self.config)
        config = StreamPublisherConfig(
            _outer_config=outer, stream=stream, routing_key=routing_key, headers=dict(headers or {}), batch=batch
        )
        documented = StreamPublisherSpecificationConfig(
            title_=title,
            description_=description,
            schema_=schema,
            include_in_schema=include_in_schema,
            stream=stream,
            routing_key=routing_key,
        )
        publisher = StreamPublisher(config, StreamPublisherSpecification(outer, documented))
        super().publisher(publisher, persistent=persistent)
        return publisher


class StreamRouter(StreamRegistrator, BrokerRouter[MessageBatch, StreamBrokerConfig]):
    """Subscribers and publishers that a broker includes with `include_router`.

    Args:
        prefix: Put before the name of each of its streams.
        handlers: Handlers that are declared at once, each ``SubscriberRoute(function, stream, group=…)``.
        middlewares: FastStream middlewares of its subscribers and publishers.
        routers: Routers that it includes.
        include_in_schema: Whether they are in the AsyncAPI document.
    """

    def __init__(
        self,
        prefix: str = "",
        handlers: Iterable[SubscriberRoute] = (),
        *,
        middlewares: Sequence[BrokerMiddleware[Any, Any]] = (),
        routers: Iterable[StreamRegistrator] = (),
        include_in_schema: bool | None = None,
    ) -> None:
        config = BrokerConfig(prefix=prefix, broker_middlewares=middlewares, include_in_schema=include_in_schema)
        # A router has no connector: its broker's is found through the composition of their configurations.
        super().__init__(config=cast("StreamBrokerConfig", config), handlers=handlers, routers=routers)
