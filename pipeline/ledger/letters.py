"""Dead letters as rows: made of what a unit says of its failures, and written over those that are there already."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final

from sqlalchemy import func
from sqlalchemy.dialects import postgresql, sqlite

from pipeline.connectors import Message
from pipeline.ledger.clean import clean_id, clean_json, clean_text
from pipeline.ledger.fingerprints import fingerprint
from pipeline.ledger.tables import DeadLetter
from pipeline.ledger.units import Dead, Scope, Unit

__all__ = ["failure_values", "letter_rows", "message_of", "upsert_letters"]

_PLACE: Final = ("consumer_group", "stream", "incarnation", "message_offset", "route", "job")
_KEPT: Final = ("first_at", "created_at", "order_known", "redrives")


def letter_rows(scope: Scope, unit: Unit) -> Iterator[dict[str, Any]]:
    """The columns of each dead letter that a unit leaves."""
    if not unit.dead:
        return
    message, key = unit.message, scope.key
    shared = {
        "source": key.source,
        "consumer_group": key.group,
        "stream": key.stream,
        "incarnation": scope.incarnation,
        "message_offset": message.offset,
        "message_timestamp": message.timestamp,
        "body": bytes(message.body),
        "state": "open",
        "created_at": scope.at,
        "redrives": 0,
        "request": None,
        "from_start": False,
        "forced": False,
        "outcome": None,
        **_texts(scope.event_id(unit), unit),
    }
    for dead in unit.dead:
        yield (
            shared
            | failure_values(dead, key.group, key.stream)
            | {
                "first_at": dead.first_at,
                "ordering_key": None if dead.key is None else clean_id(dead.key),
                "order_known": dead.order_known,
                "overtaken_by": None if dead.overtaken_by is None else clean_id(dead.overtaken_by),
                "job": dead.job,
            }
        )


def failure_values(dead: Dead, group: str, stream: str) -> dict[str, Any]:
    """The columns that tell of the last failure."""
    kind, reason, where = clean_text(dead.kind), clean_text(dead.reason), dead.where
    place = None if where is None else clean_text(where.place)
    trace = None if where is None or where.traceback is None else clean_text(where.traceback)
    # What a handler raises on purpose has a reason that tells it from others; what nobody expected may say anything.
    decisive = None if trace is None else place
    return {
        "route": dead.route,
        "stage": dead.stage,
        "kind": kind,
        "reason": reason,
        "attempts": dead.attempts,
        "last_at": dead.last_at,
        "closing": clean_json(dead.closing),
        "fingerprint": fingerprint(group, stream, dead.route, dead.stage, kind, reason, decisive),
        "place": place,
        "traceback": trace,
    }


def message_of(letter: DeadLetter) -> Message:
    """The message as it came, under the id that its event had."""
    told = json.loads(letter.original) if letter.original else {}
    return Message(
        letter.offset,
        letter.message_timestamp,
        letter.body,
        told.get("routing_key", letter.routing_key),
        told.get("id", letter.event_id),
        told.get("headers", letter.headers),
        told.get("content_type", letter.content_type),
    )


def upsert_letters(dialect: str) -> Any:
    """An INSERT; a message that fails again at the same place replaces its dead letter, and adds to its attempts."""
    statement: Any = (postgresql.insert if dialect == "postgresql" else sqlite.insert)(DeadLetter)
    table: Any = DeadLetter.__table__  # type: ignore[attr-defined]
    replaced = {
        column.name: statement.excluded[column.name]
        for column in table.columns
        if not column.primary_key and column.name not in (*_PLACE, *_KEPT)
    }
    replaced["attempts"] = table.c.attempts + statement.excluded.attempts
    for name in ("ordering_key", "overtaken_by"):
        replaced[name] = func.coalesce(statement.excluded[name], table.c[name])
    return statement.on_conflict_do_update(index_elements=_PLACE, set_=replaced)


def _texts(event_id: str, unit: Unit) -> dict[str, Any]:
    """What a text column can't always hold as it is: cleaned, and beside it the original where that is not the same."""
    message = unit.message
    given: Mapping[str, Any] = {
        "id": event_id,
        "routing_key": unit.routing_key,
        "headers": dict(message.headers),
        "content_type": message.content_type,
    }
    cleaned = {
        "event_id": clean_id(event_id),
        "routing_key": None if unit.routing_key is None else clean_text(unit.routing_key),
        "headers": clean_json(message.headers),
        "content_type": None if message.content_type is None else clean_text(message.content_type),
    }
    same = all(a == b for a, b in zip(given.values(), cleaned.values(), strict=True))
    return cleaned | {"original": None if same else json.dumps(given, default=str)}
