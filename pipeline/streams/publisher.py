"""A publisher to one stream: called directly, or with what a decorated handler returns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn

from faststream._internal.endpoint.publisher import PublisherSpecification, PublisherUsecase
from faststream._internal.types import PublisherMiddleware
from faststream.response import PublishCommand

from pipeline.streams.config import StreamBrokerConfig, StreamPublisherConfig
from pipeline.streams.producer import StreamPublishCommand, refuse_request

__all__ = ["StreamPublisher"]


class StreamPublisher(PublisherUsecase):
    """Publishes to one stream."""

    _outer_config: StreamBrokerConfig

    def __init__(self, config: StreamPublisherConfig, specification: PublisherSpecification[Any, Any]) -> None:
        super().__init__(config, specification)
        self._config = config

    @property
    def stream(self) -> str:
        """The stream's name, with the prefix of the routers that it is in."""
        return f"{self._outer_config.prefix}{self._config.stream}"

    async def publish(
        self,
        message: Any,
        /,
        *,
        routing_key: str = "",
        id: str | None = None,  # noqa: A002
        headers: Mapping[str, Any] | None = None,
        content_type: str | None = None,
        correlation_id: str | None = None,
    ) -> None:
        """Publish one message; see `StreamBroker.publish`."""
        command = StreamPublishCommand(
            message,
            stream=self.stream,
            routing_key=routing_key or self._config.routing_key,
            id=id,
            headers={**self._config.headers, **(headers or {})},
            content_type=content_type,
            correlation_id=correlation_id,
        )
        await self._basic_publish(command, producer=self._outer_config.producer, _extra_middlewares=())

    async def _publish(self, cmd: PublishCommand, *, _extra_middlewares: Iterable[PublisherMiddleware]) -> None:
        """Publish what a handler returned."""
        body = cmd.body
        many = self._config.batch and isinstance(body, Sequence) and not isinstance(body, str | bytes)
        if body is None:
            return
        command = StreamPublishCommand(
            *(body if many else (body,)),
            stream=self.stream,
            routing_key=self._config.routing_key,
            headers={**self._config.headers, **cmd.headers},
            correlation_id=cmd.correlation_id,
        )
        await self._basic_publish(command, producer=self._outer_config.producer, _extra_middlewares=_extra_middlewares)

    async def request(self, message: Any = None, /, *, correlation_id: str | None = None) -> NoReturn:
        """Refused: a stream has no replies."""
        refuse_request(self.stream)
