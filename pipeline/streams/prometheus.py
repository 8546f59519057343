"""FastStream's Prometheus middleware for streams: messages and batches, taken in and published."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from faststream.message import StreamMessage
from faststream.prometheus import ConsumeAttrs, MetricsSettingsProvider
from faststream.prometheus.middleware import PrometheusMiddleware

from pipeline.connectors import MessageBatch
from pipeline.streams.message import StreamBatch
from pipeline.streams.producer import StreamPublishCommand

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

__all__ = ["StreamPrometheusMiddleware"]


class _Settings(MetricsSettingsProvider[MessageBatch, StreamPublishCommand]):
    """What a batch and a publish are counted as."""

    messaging_system = "stream"

    def get_consume_attrs_from_message(self, msg: StreamMessage[MessageBatch]) -> ConsumeAttrs:
        batch = cast("StreamBatch", msg)
        return {
            "destination_name": batch.stream,
            "message_size": sum(map(len, batch.body)),
            "messages_count": len(batch.raw_message),
        }

    def get_publish_destination_name_from_cmd(self, cmd: StreamPublishCommand) -> str:
        return cmd.destination


class StreamPrometheusMiddleware(PrometheusMiddleware[MessageBatch, StreamPublishCommand]):
    """For ``StreamBroker(…, middlewares=[StreamPrometheusMiddleware(registry=registry)])``.

    Args:
        registry: Where the metrics are registered.
        app_name: The label `app_name`; by default the prefix.
        metrics_prefix: What the metrics' names begin with.
        received_messages_size_buckets: Buckets of the batches' sizes, in bytes.
        custom_labels: Further labels: texts, or functions of a batch.
    """

    def __init__(
        self,
        *,
        registry: CollectorRegistry,
        app_name: str = "",
        metrics_prefix: str = "pipeline",
        received_messages_size_buckets: Sequence[float] | None = None,
        custom_labels: dict[str, str | Callable[[Any], str]] | None = None,
    ) -> None:
        super().__init__(
            settings_provider_factory=lambda _: _Settings(),
            registry=registry,
            app_name=app_name or metrics_prefix,
            metrics_prefix=metrics_prefix,
            received_messages_size_buckets=received_messages_size_buckets,
            custom_labels=custom_labels,
        )
