"""Publishing through a connector, as FastStream's middlewares see it."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, NoReturn, TypeVar

import orjson
from faststream._internal.parser import DefaultCodec
from faststream._internal.producer import ProducerProto
from faststream.exceptions import FeatureNotSupportedException
from faststream.message import StreamMessage
from faststream.response import BatchPublishCommand, PublishCommand
from faststream.response.publish_type import PublishType
from pydantic import BaseModel

from pipeline.connectors import Connector, Outgoing

__all__ = ["StreamProducer", "StreamPublishCommand", "refuse_request"]

CommandT = TypeVar("CommandT", bound=PublishCommand)


class StreamPublishCommand(BatchPublishCommand):
    """One call of `publish`: one or many bodies for one stream.

    Args:
        bodies: What is published, each bytes, text, a pydantic model, a JSON value or a whole `Outgoing`.
        stream: The stream's name.
        routing_key: What the messages are routed by.
        id: The message id; only for one body. Each body without one gets a random id.
        content_type: The media type; by default what the body's type says.
        headers: Added to each message.
    """

    def __init__(
        self,
        *bodies: Any,
        stream: str,
        routing_key: str = "",
        id: str | None = None,  # noqa: A002 - the field's name everywhere else
        content_type: str | None = None,
        headers: Mapping[str, Any] | None = None,
        correlation_id: str | None = None,
    ) -> None:
        first, *others = [b"" if body is None else body for body in bodies] or [None]  # None means that there is none
        super().__init__(
            first,
            *others,
            _publish_type=PublishType.PUBLISH,
            destination=stream,
            headers=dict(headers or {}),
            correlation_id=correlation_id or id,
        )
        self.routing_key = routing_key
        self.id = id
        self.content_type = content_type

    def outgoing(self) -> list[Outgoing]:
        """The messages as a connector takes them, with the headers that middlewares added."""
        return [self._outgoing(body) for body in self.batch_bodies]

    def _outgoing(self, body: Any) -> Outgoing:
        if isinstance(body, Outgoing):
            return replace(body, headers={**self.headers, **body.headers}) if self.headers else body
        data, content_type = _encode(body)
        return Outgoing(
            data, self.routing_key, self.id or uuid.uuid4().hex, dict(self.headers), self.content_type or content_type
        )


class StreamProducer(ProducerProto[StreamPublishCommand]):
    """Publishes through a connector; a call returns when the broker has confirmed every message of it."""

    def __init__(self, connector: Connector) -> None:
        self.connector = connector
        self.codec = DefaultCodec()

    async def publish(self, cmd: StreamPublishCommand) -> None:
        """Publish what the command holds."""
        await self.connector.publish(cmd.destination, cmd.outgoing())

    publish_batch = publish

    async def request(self, cmd: StreamPublishCommand) -> NoReturn:
        """Refused: a stream has no replies."""
        refuse_request(cmd.destination)

    async def _parser(self, message: Any) -> StreamMessage[Any]:
        refuse_request("")

    async def _decoder(self, message: StreamMessage[Any]) -> Any:
        refuse_request("")


def refuse_request(stream: str) -> NoReturn:
    """Say that a stream has no replies."""
    raise FeatureNotSupportedException(
        f"request() to the stream {stream!r}: a stream keeps messages for its readers and has no replies; use publish()"
    )


def _encode(body: Any) -> tuple[bytes, str]:
    if isinstance(body, bytes | bytearray | memoryview):
        return bytes(body), "application/octet-stream"
    if isinstance(body, str):
        return body.encode(), "text/plain"
    if isinstance(body, BaseModel):
        return body.model_dump_json().encode(), "application/json"
    return orjson.dumps(body), "application/json"
