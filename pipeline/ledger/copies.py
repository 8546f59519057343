"""Copies of dead letters on a stream: left in the outbox, in the transaction that writes the dead letter."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final

from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncConnection

from pipeline.ids import name_uuid
from pipeline.ledger.clean import clean_json
from pipeline.ledger.job_tables import OutboxMessage

__all__ = ["Copies"]

_NAMES: Final = "0b8f2a4e-6b1c-4c55-9a39-2d5c9f6b7a10"  # the name space of the copies' ids; never change it
_HEADERS: Final = {
    "reason": "reason", "kind": "kind", "route": "route", "stage": "stage", "attempts": "attempts",
    "source": "source", "group": "consumer_group", "stream": "stream", "offset": "message_offset",
    "event-id": "event_id",
}  # fmt: skip
_LONGEST: Final = 2_000
"""Characters of a header: brokers bound them."""


class Copies:
    """Leaves a copy of each new dead letter of some sources.

    Args:
        pipeline: The pipeline that publishes them.
        streams: Source → the stream that its dead letters are copied to.
    """

    def __init__(self, pipeline: str, streams: Mapping[str, str]) -> None:
        self._pipeline = pipeline
        self._streams = streams

    async def leave(self, connection: AsyncConnection, letters: Iterable[Mapping[str, Any]]) -> None:
        """Leave copies of these dead letters, which are given by column, within their transaction."""
        if rows := [row for letter in letters if (row := self._row(letter)) is not None]:
            insert: Any = postgresql.insert if connection.dialect.name == "postgresql" else sqlite.insert
            await connection.execute(insert(OutboxMessage).on_conflict_do_nothing(), rows)

    def _row(self, letter: Mapping[str, Any]) -> dict[str, Any] | None:
        stream = self._streams.get(letter["source"])
        if stream is None:
            return None
        place = ("consumer_group", "stream", "incarnation", "message_offset", "route", "job")
        told = {f"x-dead-letter-{name}": letter[column] for name, column in _HEADERS.items()}
        told["x-dead-letter-where"] = letter["place"] or ""  # a copy's own copy must not say what the first one said
        told["x-dead-letter-at"] = letter["last_at"].isoformat()
        given = json.loads(letter["original"])["headers"] if letter["original"] else letter["headers"]
        return {
            "pipeline": self._pipeline,
            "stream": stream,
            "message_id": name_uuid(_NAMES, "\x1f".join(str(letter[name]) for name in place)),
            "routing_key": letter["routing_key"] or "",
            "body": letter["body"],
            "headers": clean_json({**given, **{name: _short(value) for name, value in told.items()}}),
            "content_type": letter["content_type"],
            "created_at": letter["created_at"],
        }


def _short(value: Any) -> Any:
    return value[:_LONGEST] if isinstance(value, str) else value
