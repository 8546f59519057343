"""FastStream's OpenTelemetry middleware for streams: a span a batch, linked to the spans of its publishers."""

from __future__ import annotations

from typing import Any, cast

from faststream._internal.basic_types import AsyncFuncAny
from faststream._internal.context.repository import ContextRepo
from faststream.message import StreamMessage
from faststream.opentelemetry import TelemetryMiddleware, TelemetrySettingsProvider
from faststream.opentelemetry.middleware import BaseTelemetryMiddleware
from opentelemetry.metrics import Meter, MeterProvider
from opentelemetry.semconv.trace import SpanAttributes
from opentelemetry.trace import TracerProvider

from pipeline.connectors import MessageBatch
from pipeline.streams.message import StreamBatch
from pipeline.streams.producer import StreamPublishCommand

__all__ = ["StreamTelemetryMiddleware"]


class _Settings(TelemetrySettingsProvider[MessageBatch, StreamPublishCommand]):
    """What a span says about a batch and about a publish."""

    messaging_system = "stream"

    def get_consume_attrs_from_message(self, msg: StreamMessage[MessageBatch]) -> dict[str, Any]:
        batch = cast("StreamBatch", msg)
        return {
            SpanAttributes.MESSAGING_SYSTEM: self.messaging_system,
            SpanAttributes.MESSAGING_MESSAGE_ID: batch.message_id,
            SpanAttributes.MESSAGING_BATCH_MESSAGE_COUNT: len(batch.raw_message),
            SpanAttributes.MESSAGING_MESSAGE_PAYLOAD_SIZE_BYTES: sum(map(len, batch.body)),
            SpanAttributes.MESSAGING_DESTINATION_NAME: batch.stream,
            "messaging.consumer.group.name": batch.group,
        }

    def get_consume_destination_name(self, msg: StreamMessage[MessageBatch]) -> str:
        return cast("StreamBatch", msg).stream

    def get_publish_attrs_from_cmd(self, cmd: StreamPublishCommand) -> dict[str, Any]:
        attributes = {
            SpanAttributes.MESSAGING_SYSTEM: self.messaging_system,
            SpanAttributes.MESSAGING_DESTINATION_NAME: cmd.destination,
        }
        if cmd.id is not None:
            attributes[SpanAttributes.MESSAGING_MESSAGE_ID] = cmd.id
        return attributes

    def get_publish_destination_name(self, cmd: StreamPublishCommand) -> str:
        return cmd.destination


class _Linking(BaseTelemetryMiddleware[StreamPublishCommand]):
    """Names each publisher's span as FastStream looks for it: by a correlation id, which streams don't send."""

    async def consume_scope(self, call_next: AsyncFuncAny, msg: StreamMessage[Any]) -> Any:
        msg.batch_headers = [
            {**headers, "correlation_id": headers["traceparent"]}
            for headers in msg.batch_headers
            if "traceparent" in headers
        ]
        return await super().consume_scope(call_next, msg)


class StreamTelemetryMiddleware(TelemetryMiddleware[StreamPublishCommand]):
    """For ``StreamBroker(…, middlewares=[StreamTelemetryMiddleware()])``.

    A batch is one span of kind consumer, which ends when the batch is taken in; its links are the publishers' spans,
    found in the messages' ``traceparent`` headers, which publishing sets.

    Args:
        tracer_provider: By default the global one.
        meter_provider: By default the global one.
        meter: A meter to use in place of the provider's.
        include_messages_counters: Whether messages are counted, beside the durations.
    """

    def __init__(
        self,
        *,
        tracer_provider: TracerProvider | None = None,
        meter_provider: MeterProvider | None = None,
        meter: Meter | None = None,
        include_messages_counters: bool = True,
    ) -> None:
        super().__init__(
            settings_provider_factory=lambda _: _Settings(),
            tracer_provider=tracer_provider,
            meter_provider=meter_provider,
            meter=meter,
            include_messages_counters=include_messages_counters,
        )

    def __call__(self, msg: Any, /, *, context: ContextRepo) -> _Linking:
        """The middleware of one batch or one publish."""
        return _Linking(
            msg,
            tracer=self._tracer,
            settings_provider_factory=self._settings_provider_factory,
            metrics_container=self._metrics,
            context=context,
        )
