"""A batch of a stream as FastStream's middlewares see it."""

from __future__ import annotations

from typing import Any, cast

from faststream.message import StreamMessage

from pipeline.connectors import Message, MessageBatch

__all__ = ["StreamBatch"]


class StreamBatch(StreamMessage[MessageBatch]):
    """One batch: `raw_message` holds the messages, `body` their bodies, `batch_headers` their headers.

    Attributes:
        stream: The stream that it was read from.
        group: The consumer group that reads it.
    """

    raw_message: list[Message]

    def __init__(self, batch: MessageBatch, stream: str, group: str) -> None:
        super().__init__(
            batch,
            [message.body for message in batch],
            batch_headers=cast("list[dict[str, Any]]", [message.headers for message in batch]),
            content_type=batch[0].content_type,
            message_id=f"{stream}@{batch[0].offset}-{batch[-1].offset}",
        )
        self.stream = stream
        self.group = group
