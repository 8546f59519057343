"""The table of replays: which range of which stream each of them runs again, fixed when it began."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from sqlalchemy import BigInteger, Text
from sqlmodel import Field, SQLModel

from pipeline.ledger.columns import json_type, utcnow
from pipeline.ledger.tables import LedgerModel

__all__ = ["REPLAY_TABLES", "ReplayRow"]


def _text(**options: Any) -> Any:
    return Field(sa_type=Text, **options)


class ReplayRow(LedgerModel, table=True):
    """One replay; its progress, lease and dead letters are where every group's are, under its own group.

    Attributes:
        group: Its consumer group.
        stream: The stream.
        pipeline: The pipeline's name: several may share a database.
        name: Its name, by which it is found again.
        source: The source's name in `pipeline.toml`.
        asked: What was asked for, as JSON: ``from``, ``to``, ``routes`` and ``stages``.
        first: The first offset of the range.
        last: The last offset of the range.
        incarnation: Which life of the stream the range belongs to, as the source's own group counts them.
        started_at: When it began.
        finished_at: When everything in the range had an outcome; None before.
    """

    __tablename__ = "replays"

    group: str = _text(primary_key=True, sa_column_kwargs={"name": "consumer_group"})
    stream: str = _text(primary_key=True)
    pipeline: str = _text()
    name: str = _text()
    source: str = _text()
    asked: dict[str, Any] = Field(default_factory=dict, sa_type=json_type())
    first: int = Field(sa_type=BigInteger, sa_column_kwargs={"name": "first_offset"})
    last: int = Field(sa_type=BigInteger, sa_column_kwargs={"name": "last_offset"})
    incarnation: int = 0
    started_at: datetime = Field(default_factory=utcnow)
    finished_at: datetime | None = None


REPLAY_TABLES: tuple[type[SQLModel], ...] = (ReplayRow,)
"""All of them, for the core's migrations."""
