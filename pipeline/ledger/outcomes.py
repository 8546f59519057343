"""What has come of a request to redrive so far, as counts."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import func, select

from pipeline.ledger.database import Database
from pipeline.ledger.tables import DeadLetter, OperatorAction

__all__ = ["outcomes"]

_TABLE: Final[Any] = DeadLetter.__table__  # type: ignore[attr-defined]
_ACTIONS: Final[Any] = OperatorAction.__table__  # type: ignore[attr-defined]


async def outcomes(db: Database, request: str) -> dict[str, int]:
    """See `DeadLetters.outcomes`."""
    under_way = select(_TABLE.c.outcome, func.count()).where(_TABLE.c.request == request, _TABLE.c.state == "redriving")
    ended = select(_ACTIONS.c.dead_letter, _ACTIONS.c.action, _ACTIONS.c.details).where(
        _ACTIONS.c.request == request, _ACTIONS.c.action.in_(("redriven", "failed", "refused"))
    )
    counts, last = {"waiting": 0}, {}
    async with db.read() as connection:
        for outcome, number in await connection.execute(under_way.group_by(_TABLE.c.outcome)):
            counts[outcome or "waiting"] = number
        for letter, action, details in await connection.execute(ended.order_by(_ACTIONS.c.id)):
            last[letter] = details["outcome"] if action == "redriven" else action
    for name in last.values():  # a job that fails after all, of another redrive, has the last word
        counts[name] = counts.get(name, 0) + 1
    return counts
