"""Dead letters, as people look at them."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, func, select
from sqlmodel import col

from pipeline.errors import UserError
from pipeline.ledger.clean import clean_id
from pipeline.ledger.database import Database
from pipeline.ledger.tables import DeadLetter

__all__ = ["FILTERS", "DeadLetters"]

FILTERS = ("source", "group", "stream", "route", "stage", "kind", "event_id", "routing_key", "state")
"""What dead letters can be chosen by: the names of `DeadLetter`'s fields."""


class DeadLetters:
    """The table `dead_letters`, read. The ledger writes it, together with the progress.

    Methods raise `Unavailable("database", …)` where the database can't be reached.
    """

    def __init__(self, db: Database) -> None:
        self._db = db

    async def list(self, limit: int = 50, *, before: int | None = None, **filters: str | None) -> list[DeadLetter]:
        """The newest dead letters first.

        Args:
            limit: How many at most.
            before: Only those with a smaller id: the last id of one page gives the next page.
            filters: `FILTERS` → the value that the field must have; None does not filter.

        Raises:
            UserError: A filter has an unknown name.
        """
        statement = select(DeadLetter).where(*_conditions(filters)).order_by(col(DeadLetter.id).desc()).limit(limit)
        if before is not None:
            statement = statement.where(col(DeadLetter.id) < before)
        return await self._db.fetch(DeadLetter, statement)

    async def get(self, number: int) -> DeadLetter | None:
        """The dead letter with this id."""
        found = await self._db.fetch(DeadLetter, select(DeadLetter).where(col(DeadLetter.id) == number))
        return found[0] if found else None

    async def count(self, **filters: str | None) -> int:
        """How many there are; filters as for `list`."""
        counted = await self._db.fetch(int, select(func.count()).select_from(DeadLetter).where(*_conditions(filters)))
        return counted[0]


def _conditions(filters: dict[str, Any]) -> list[ColumnElement[bool]]:
    unknown = sorted(set(filters) - set(FILTERS))
    if unknown:
        raise UserError(f"dead letters can't be chosen by {unknown[0]!r}; known are {', '.join(FILTERS)}")
    if filters.get("event_id") is not None:
        filters["event_id"] = clean_id(filters["event_id"])
    return [getattr(DeadLetter, name) == value for name, value in filters.items() if value is not None]
