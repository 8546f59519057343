"""An event as handlers see it, and what can become of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any, Generic

from typing_extensions import TypeVar

ModelT = TypeVar("ModelT", default=Any)


_UNKNOWN = datetime.fromtimestamp(0, UTC)


class Outcome(StrEnum):
    """What became of a message; the worst of its routes' outcomes, in this order."""

    DUPLICATE = "duplicate"
    FILTERED = "filtered"
    HANDLED = "handled"
    DEAD = "dead"


class Event(Generic[ModelT]):
    """One event, decoded. Treat it as read-only: all stages of all its routes see the same object.

    Attributes:
        id: The message's own id; else ``stream/incarnation/offset``.
        routing_key: From the broker; else the data's ``event_type``; else empty.
        data: The body, a JSON object.
        headers: The message's headers (AMQP application properties), as JSON values.
        content_type: As the publisher gave it; None where it gave none.
        body: The bytes as they came.
        timestamp: When the broker took the message, in milliseconds since 1970 (UTC).
        source: The source's name in ``pipeline.toml``.
        stream: The stream's name.
        offset: The message's offset in the stream.
        model: The data as the model that the handler declares; None where it declares none.
    """

    __slots__ = (
        "body", "content_type", "data", "headers", "id", "model", "offset", "routing_key", "source", "stream",
        "timestamp",
    )  # fmt: skip

    def __init__(
        self,
        id: str,  # noqa: A002 - the field's name everywhere else
        routing_key: str,
        data: dict[str, Any],
        headers: Mapping[str, Any],
        content_type: str | None = None,
        body: bytes = b"",
        timestamp: int = 0,
        source: str = "",
        stream: str = "",
        offset: int = 0,
        model: ModelT | None = None,
    ) -> None:
        self.id = id
        self.routing_key = routing_key
        self.data = data
        self.headers = headers
        self.content_type = content_type
        self.body = body
        self.timestamp = timestamp
        self.source = source
        self.stream = stream
        self.offset = offset
        self.model: ModelT = model  # type: ignore[assignment]  # None only where the handler declares no model

    @property
    def time(self) -> datetime:
        """When the broker took the message, as an aware UTC datetime; 1970 where no calendar has what it says."""
        try:
            return datetime.fromtimestamp(self.timestamp / 1000, UTC)
        except (ValueError, OverflowError, OSError):  # no checksum covers the header of a chunk
            return _UNKNOWN

    def with_model(self, model: ModelT) -> Event[ModelT]:
        """The same event carrying its data as a validated model."""
        return Event(
            self.id, self.routing_key, self.data, self.headers, self.content_type, self.body,
            self.timestamp, self.source, self.stream, self.offset, model,
        )  # fmt: skip

    def variables(self) -> dict[str, Any]:
        """The names that expressions and templates see."""
        return {
            "routing_key": self.routing_key,
            "id": self.id,
            "data": self.data,
            "headers": dict(self.headers),
            "time": self.time,
        }

    def __repr__(self) -> str:
        return f"<Event {self.routing_key!r} id={self.id!r} {self.stream}@{self.offset}>"
