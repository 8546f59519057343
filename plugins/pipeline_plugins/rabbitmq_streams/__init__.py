"""RabbitMQ Streams as a broker: registers the connector, and imports no client library."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline import hookimpl
from pipeline.connectors import Connector
from pipeline_plugins.rabbitmq_streams.connector import RabbitMQStreamsConnector

__all__ = ["RabbitMQStreamsConnector"]


@hookimpl
def pipeline_connectors() -> Sequence[type[Connector]]:
    """The connector for ``rabbitmq-stream://`` and ``rabbitmq-stream+tls://``."""
    return [RabbitMQStreamsConnector]
