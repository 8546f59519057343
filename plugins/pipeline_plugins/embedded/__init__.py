"""The embedded broker: a durable log in one local file, which any process of the machine may publish to."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline import hookimpl
from pipeline.connectors import Connector
from pipeline_plugins.embedded.connector import EmbeddedConnector

__all__ = ["EmbeddedConnector", "pipeline_connectors"]


@hookimpl
def pipeline_connectors() -> Sequence[type[Connector]]:
    """Registers the connector for ``embedded://``, the default where no broker is configured."""
    return (EmbeddedConnector,)
