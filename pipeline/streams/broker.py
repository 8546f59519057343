"""A FastStream broker over any connector."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, NoReturn
from urllib.parse import urlsplit

from faststream._internal.basic_types import LoggerProto
from faststream._internal.broker import BrokerUsecase
from faststream._internal.context.repository import ContextRepo
from faststream._internal.di import FastDependsConfig
from faststream._internal.logger import LoggerState
from faststream._internal.logger.params_storage import EmptyLoggerStorage, ManualLoggerStorage
from faststream._internal.types import BrokerMiddleware
from faststream.specification.schema import BrokerSpec, Tag, TagDict

from pipeline.connectors import BrokerRefused, Connector, MessageBatch
from pipeline.errors import Unavailable
from pipeline.streams.config import StreamBrokerConfig
from pipeline.streams.producer import StreamProducer, StreamPublishCommand, refuse_request
from pipeline.streams.registrator import StreamRegistrator

__all__ = ["StreamBroker"]

_log = logging.getLogger("pipeline.streams")


class StreamBroker(StreamRegistrator, BrokerUsecase[MessageBatch, Connector, StreamBrokerConfig]):
    """Reads and writes streams through a connector, with FastStream's lifespan, middlewares and AsyncAPI document.

    Args:
        connector: The connection to the broker; opened by `connect` or `start`, closed by `stop`.
        middlewares: FastStream middlewares; each sees a batch as one message, and a publish as one command.
        routers: Routers to include.
        logger: Where FastStream logs each batch (as `log_level`) and each failure; None for nowhere.
        log_level: The level of records about batches.
        apply_types: Whether FastStream injects ``Context()`` arguments; costs some 20 µs a batch.
        description: What the AsyncAPI document says of this server.
        tags: The server's tags there.
        context: FastStream's context repository, where it is shared with an application.
    """

    def __init__(
        self,
        connector: Connector,
        *,
        middlewares: Sequence[BrokerMiddleware[Any, Any]] = (),
        routers: Iterable[StreamRegistrator] = (),
        logger: LoggerProto | None = _log,
        log_level: int = logging.DEBUG,
        apply_types: bool = False,
        description: str | None = None,
        tags: Iterable[Tag | TagDict] = (),
        context: ContextRepo | None = None,
    ) -> None:
        self.connector = connector
        url = urlsplit(connector.url)
        public = url._replace(netloc=url.netloc.rpartition("@")[2], query="")
        super().__init__(
            config=StreamBrokerConfig(
                connector=connector,
                producer=StreamProducer(connector),
                broker_middlewares=tuple(middlewares),
                logger=LoggerState(log_level, ManualLoggerStorage(logger) if logger else EmptyLoggerStorage()),
                fd_config=FastDependsConfig(
                    use_fastdepends=apply_types, serializer=None, context=context or ContextRepo()
                ),
                extra_context={"broker": self},
            ),
            specification=BrokerSpec(
                url=[public.geturl()],
                protocol=url.scheme,
                protocol_version=None,
                description=description,
                tags=tags,
                security=None,
            ),
            routers=routers,
        )

    async def _connect(self) -> Connector:
        try:
            await self.connector.connect()
        except Unavailable as error:
            _log.warning("%s; its subscribers will keep trying", error)
        return self.connector

    async def start(self) -> None:
        """Connect, and start every subscriber; a broker that is down is waited for in the background.

        Raises:
            BrokerRefused: The broker refuses the connection.
        """
        await self.connect()
        await super().start()

    async def stop(
        self,
        exc_type: type[BaseException] | None = None,
        exc_val: BaseException | None = None,
        exc_tb: TracebackType | None = None,
    ) -> None:
        """Stop every subscriber, then close the connector.

        To finish and record work in between, stop the subscribers first: ``await subscriber.stop()`` for each.
        """
        await super().stop(exc_type, exc_val, exc_tb)
        await self.connector.close()
        self._connection = None

    async def ping(self, timeout: float | None = 3.0) -> bool:
        """Whether the broker answers within so many seconds."""
        try:
            async with asyncio.timeout(timeout):
                await self.connector.probe()
        except (Unavailable, BrokerRefused, TimeoutError):
            return False
        return True

    async def publish(
        self,
        message: Any,
        stream: str,
        *,
        routing_key: str = "",
        id: str | None = None,  # noqa: A002
        headers: Mapping[str, Any] | None = None,
        content_type: str | None = None,
        correlation_id: str | None = None,
    ) -> None:
        """Publish one message, and return when the broker has confirmed it.

        Args:
            message: Bytes, text, a pydantic model, any JSON value, or an `Outgoing`.
            stream: The stream to publish to.
            routing_key: What it is routed by.
            id: Its id, by which readers dedupe; random by default.
            headers: Application headers.
            content_type: The media type; by default what the message's type says.
            correlation_id: For middlewares; not sent.

        Raises:
            Unavailable: The broker can't be reached, or the outcome is not known.
            BrokerRefused: There is no such stream.
        """
        command = StreamPublishCommand(
            message,
            stream=stream,
            routing_key=routing_key,
            id=id,
            headers=headers,
            content_type=content_type,
            correlation_id=correlation_id,
        )
        await self._basic_publish(command, producer=self.config.producer)

    async def publish_batch(  # type: ignore[override]  # a stream's own arguments
        self, *messages: Any, stream: str, routing_key: str = "", headers: Mapping[str, Any] | None = None
    ) -> None:
        """Publish many messages in this order, and return when the broker has confirmed every one.

        Each is what `publish` takes; an `Outgoing` has a routing key and an id of its own, the others get random ids.
        """
        command = StreamPublishCommand(*messages, stream=stream, routing_key=routing_key, headers=headers)
        await self._basic_publish_batch(command, producer=self.config.producer)

    async def request(self, message: Any = None, stream: str = "", /, timeout: float = 0.5) -> NoReturn:
        """Refused: a stream has no replies."""
        refuse_request(stream)
