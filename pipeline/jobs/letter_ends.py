"""Ends of jobs, as dead letters are told of them: what came of a redrive, and what opens one again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import bindparam, insert, select, update

from pipeline.events import Outcome
from pipeline.jobs.contract import Settlement
from pipeline.jobs.verdicts import Died, Passed
from pipeline.ledger.clean import clean_text
from pipeline.ledger.redriving import LEFT
from pipeline.ledger.tables import DeadLetter, OperatorAction
from pipeline.ledger.units import Scope

__all__ = ["LetterEnds"]

_TABLE: Final[Any] = DeadLetter.__table__  # type: ignore[attr-defined]
_REDRIVEN: Final = (
    update(_TABLE).where(_TABLE.c.id == bindparam("letter")).values(state="redriven", outcome=bindparam("came_of_it"))
)


class LetterEnds:
    """What becomes of the dead letters of one stage when the jobs of their events end, in the jobs' own settlement.

    A job's end is written once, so its line in the history is, too. Whatever job it was that failed: a dead letter
    that is open no more is open again then, and its history says why.

    Args:
        settlement: Where they end.
        scope: The source of the events, and the stream's incarnation.
        stage: The stage.
    """

    def __init__(self, settlement: Settlement, scope: Scope, stage: str) -> None:
        self._settlement = settlement
        self._scope = scope
        self._stage = stage
        self._letters: dict[tuple[int, str], Any] = {}

    async def find(self, verdicts: Sequence[Passed | Died]) -> None:
        """Look for their dead letters, and lock them: before anything is written of these verdicts."""
        if not verdicts:
            return
        columns, key = _TABLE.c, self._scope.key
        told = (columns.id, columns.message_offset, columns.route, columns.state, columns.outcome, columns.redrives)
        found = await self._settlement.connection.execute(
            select(*told, columns.request)
            .where(
                columns.consumer_group == key.group, columns.stream == key.stream,
                columns.incarnation == self._scope.incarnation, columns.job == self._stage, columns.state != "open",
                columns.message_offset.in_(sorted({verdict.event.message.offset for verdict in verdicts})),
            )
            .order_by(columns.id)
            .with_for_update()
        )  # fmt: skip
        self._letters = {(row.message_offset, row.route): row for row in found}

    async def write(self, verdicts: Sequence[Passed | Died], unwritable: dict[str, str]) -> None:
        """Write what came of them, beside the dead letters that they leave.

        Args:
            verdicts: Those that `find` was given.
            unwritable: Of those of them that can't be written: why, by their jobs' ids.
        """
        if not self._letters:
            return
        failed = {verdict.job.id: verdict.reason for verdict in verdicts if isinstance(verdict, Died)} | unwritable
        actions, redriven = [], []
        # Of several jobs of an event, one that failed decides: its dead letter is open now.
        for verdict in sorted(verdicts, key=lambda verdict: verdict.job.id not in failed):
            place = (verdict.event.message.offset, verdict.event.route)
            letter, reason = self._letters.get(place), failed.get(verdict.job.id)
            if letter is None or (reason is None and not _awaits(letter, verdict)):
                continue
            del self._letters[place]
            if reason is not None:
                actions.append(self._action(letter, "failed", Outcome.DEAD, f"{self._stage}: {reason}"))
                continue
            filtered = isinstance(verdict, Passed) and verdict.context is None
            outcome = Outcome.FILTERED if filtered else Outcome.HANDLED
            redriven.append({"letter": letter.id, "came_of_it": outcome.value})
            actions.append(self._action(letter, "redriven", outcome))
        if redriven:
            await self._settlement.connection.execute(_REDRIVEN, redriven)
        if actions:
            await self._settlement.connection.execute(insert(OperatorAction), actions)

    def _action(self, letter: Any, action: str, outcome: Outcome, reason: str = "") -> dict[str, Any]:
        return {
            "at": self._settlement.now, "actor": f"worker {self._settlement.worker}", "action": action,
            "dead_letter": letter.id, "request": letter.request, "reason": clean_text(reason),
            "details": {"outcome": outcome.value},
        }  # fmt: skip


def _awaits(letter: Any, verdict: Passed | Died) -> bool:
    """Whether it waits for what comes of this very job."""
    return (letter.state, letter.outcome, letter.redrives) == ("redriving", LEFT, verdict.event.redrive)
