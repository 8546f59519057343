"""A batch subscriber: follows a stream, and hands each batch to its handler."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Any, NoReturn

from faststream._internal.endpoint.subscriber import SubscriberSpecification, SubscriberUsecase
from faststream._internal.endpoint.subscriber.call_item import CallsCollection
from faststream.exceptions import FeatureNotSupportedException, SetupError, StopConsume
from faststream.message import StreamMessage

from pipeline.connectors import BrokerRefused, MessageBatch, Start
from pipeline.errors import Unavailable
from pipeline.streams.config import StreamBrokerConfig, StreamSubscriberConfig
from pipeline.streams.follow import StreamState, follow
from pipeline.streams.message import StreamBatch

__all__ = ["StreamSubscriber"]

_log = logging.getLogger("pipeline.streams")


class StreamSubscriber(SubscriberUsecase[MessageBatch]):
    """Reads one stream for one group; made by `StreamBroker.subscriber`.

    The handler gets one batch at a time, in order, and the next one is asked for when it has returned: a handler that
    waits for room slows the broker down. A handler's failure stops the subscriber, with `failure` set: the batch
    counts as not taken in. (FastStream's own subscribers log a failure and go on. A middleware that swallows the
    handler's exception makes the batch count as taken in.)

    Attributes:
        failure: What ended it; None while it runs, and where it was stopped.
        state: How reading stands.
    """

    _outer_config: StreamBrokerConfig

    def __init__(
        self,
        config: StreamSubscriberConfig,
        specification: SubscriberSpecification[Any, Any],
        calls: CallsCollection[MessageBatch],
    ) -> None:
        config.parser = self.parse_batch
        config.decoder = self.decode_batch  # FastStream knows a batch subscriber by this function's name
        super().__init__(config, specification, calls)
        self._config = config
        self._task: asyncio.Task[None] | None = None
        self._last: tuple[int, int] | None = None
        self.failure: BaseException | None = None
        self.state = StreamState()

    @property
    def stream(self) -> str:
        """The stream's name, with the prefix of the routers that it is in."""
        return f"{self._outer_config.prefix}{self._config.stream}"

    @property
    def group(self) -> str:
        """The consumer group."""
        return self._config.group

    # FastStream's side: one batch is one message

    async def parse_batch(self, batch: MessageBatch) -> StreamBatch:
        """The batch as a FastStream message."""
        return StreamBatch(batch, self.stream, self.group)

    async def decode_batch(self, message: StreamMessage[MessageBatch]) -> MessageBatch:
        """What the handler gets: the messages as they are."""
        return message.raw_message

    async def consume(self, msg: MessageBatch) -> Any:
        """Process a batch; what its handler raises is raised, where FastStream's own method swallows it."""
        return await self.process_message(msg) if self.running else None

    def get_log_context(self, message: StreamMessage[MessageBatch] | None) -> dict[str, str]:
        """What log records about a batch carry."""
        return {"stream": self.stream, "message_id": message.message_id if message else ""}

    async def get_one(self, *, timeout: float = 5) -> NoReturn:
        """Refused: read a stream with a handler, or with `pipeline.streams.follow`."""
        raise FeatureNotSupportedException("get_one(): read a stream with a handler, or with pipeline.streams.follow")

    def __aiter__(self) -> AsyncIterator[StreamMessage[MessageBatch]]:
        raise FeatureNotSupportedException("async for: read a stream with a handler, or with pipeline.streams.follow")

    def _make_response_publisher(self, message: StreamMessage[MessageBatch]) -> tuple[()]:
        return ()

    # Reading

    async def start(self) -> None:
        """Begin to read, in a task of its own; returns at once."""
        await super().start()
        self._refuse_many_arguments()
        self.failure = None
        self._post_start()
        if self.calls:
            self._task = asyncio.create_task(self._run(), name=f"read {self.stream} for {self.group}")

    async def stop(self) -> None:
        """Stop reading at once, and return when that is done.

        A handler that is at work on a batch is cancelled too: it is waiting for room, and must take a batch in whole
        or not at all.
        """
        self.running = False
        task, self._task = self._task, None
        if task is not None and task is not asyncio.current_task():
            task.cancel()
            await asyncio.wait({task})
        await super().stop()

    async def _run(self) -> None:
        """Read until stopped, or until something fails that no new connection can mend."""
        try:
            await self._follow()
        except StopConsume:
            self.running = False
        except SystemExit as exit_:
            self._fail(exit_)
            if app := self._outer_config.context.get("app"):
                app.exit()
        except Exception as error:  # noqa: BLE001 - whatever the handler raises is exposed, and its owner told
            self._fail(error)

    async def _follow(self) -> None:
        config = self._config
        batches = follow(
            self._outer_config.connector,
            self.stream,
            self._where,
            name=config.group,
            max_batch=config.max_batch,
            on_state=self._on_state,
            refuse_at_start=config.refuse_at_start,
            how=config.how,
        )
        async with contextlib.aclosing(batches):
            async for batch in batches:
                await self.consume(batch)
                self._last = (batch[-1].offset, batch[-1].timestamp)
                if isinstance(config.start, Start):
                    await self._store_offset(batch[-1].offset)

    def _on_state(self, state: StreamState) -> None:
        self.state = state
        self._config.on_state(state)

    def _fail(self, failure: BaseException) -> None:
        self.running = False
        self.failure = failure
        self._config.on_failure(failure)

    def _refuse_many_arguments(self) -> None:
        for call in self.calls:
            if len(call.dependant.flat_params) > 1:  # type: ignore[union-attr]  # it is set by now
                raise SetupError(f"the handler {call.name!r} takes more than one argument: it is called with a batch")

    # Where to begin

    async def _where(self) -> Start:
        """Where the caller says; else after the last batch, after the group's stored offset, or at the given start."""
        start = self._config.start
        if not isinstance(start, Start):
            return await start()
        connector = self._outer_config.connector
        if self._last is not None:
            offset, timestamp = self._last
            if await connector.timestamp_at(self.stream, offset) == timestamp:
                return Start("offset", offset + 1)
            _log.warning("stream %s was created anew or trimmed: reading it from its first message", self.stream)
            return Start("first")
        stored = await connector.stored_offset(self.stream, self.group)
        return start if stored is None else Start("offset", stored + 1)

    async def _store_offset(self, offset: int) -> None:
        with contextlib.suppress(Unavailable, BrokerRefused):  # the next batch's offset, or a reconnection, will do
            await self._outer_config.connector.store_offset(self.stream, self.group, offset)
