"""A flight: one message on its way, from admission to commit."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from pipeline.connectors import Message
from pipeline.events import Event, Outcome
from pipeline.ledger.units import Dead, JournalEntry, Unit

if TYPE_CHECKING:
    from pipeline.dispatch.again import Again
    from pipeline.dispatch.lanes import Lanes, StageEntry

__all__ = ["DEAD", "FILTERED", "HANDLED", "SEVERITY", "Flight"]

# An enumeration's member costs more to look up than the rest of a line; each event does so several times.
FILTERED, HANDLED, DEAD = Outcome.FILTERED, Outcome.HANDLED, Outcome.DEAD
SEVERITY = {Outcome.DUPLICATE: 0, Outcome.FILTERED: 1, Outcome.HANDLED: 2, Outcome.DEAD: 3}
"""A message's outcome is the worst of its routes': dead > handled > filtered."""


class Flight:
    """One message in flight, and where it stands.

    Attributes:
        message: The message.
        event: Its event; None where it could not be decoded, or is a duplicate.
        remember: The id that dedupe is to remember; None for none.
        lanes: The lanes of its routes, in file order.
        keys: Its ordering key in each of them; None where it is unordered.
        at: The index of the route that it runs now.
        chain: The stages that it runs now: its route's, or that route's ``finally``.
        step: The index of the stage in `chain`.
        closing: Whether `chain` is the route's ``finally``.
        attempt: The number of the current stage's try, from 1.
        first_at: When the current stage was first tried and failed.
        again: What it has beside its message where it is a redrive of a dead letter.
        alone: Run it in a batch of its own, because a batch that it was in failed as a whole.
        begun: A stage has finished it, so a stop lets it go on to its end; or a stop lets it begin all the same.
        route_outcome: The current route's outcome so far.
        route_error: What ended the current route's stages.
        outcome: The worst outcome of its routes so far.
        finished: All its routes are done, and it is in a commit.
    """

    __slots__ = (
        "again", "alone", "at", "attempt", "begun", "chain", "closing", "dead", "event", "finished", "first_at",
        "journal", "keys", "lanes", "message", "outcome", "remember", "route_error", "route_outcome", "rows",
        "statements", "step",
    )  # fmt: skip

    def __init__(self, message: Message, event: Event[Any] | None, remember: str | None) -> None:
        self.message = message
        self.event: Event[Any] = event  # type: ignore[assignment]  # None only for what reaches no stage
        self.remember = remember
        self.lanes: Sequence[Lanes] = ()
        self.keys: Sequence[str | None] = ()
        self.at = 0
        self.chain: Sequence[StageEntry] = ()
        self.step = 0
        self.closing = False
        self.attempt = 1
        self.first_at: datetime | None = None
        self.alone = False
        self.again: Again | None = None
        self.begun = False
        self.route_outcome = HANDLED
        self.route_error: BaseException | None = None
        self.outcome = FILTERED
        self.finished = False
        self.rows: list[Any] | None = None
        self.statements: list[Any] | None = None
        self.dead: list[Dead] | None = None
        self.journal: list[JournalEntry] | None = None

    @property
    def route_name(self) -> str:
        """The name of the route that it runs now."""
        return self.lanes[self.at].name

    def keep(self, rows: list[Any], statements: list[Any]) -> None:
        """Take over what a successful try left."""
        if rows:
            self.rows = self.rows + rows if self.rows else rows
        if statements:
            self.statements = self.statements + statements if self.statements else statements

    def die(self, dead: Dead) -> None:
        """Note that the message, or one of its routes, failed for good."""
        self.dead = [*self.dead, dead] if self.dead else [dead]

    def note(self, route: str, outcome: Outcome, reason: str = "") -> None:
        """Keep a journal entry."""
        entry = JournalEntry(route, outcome, reason)
        self.journal = [*self.journal, entry] if self.journal else [entry]

    def worsen(self, outcome: Outcome) -> None:
        """Let the message's outcome be at least this bad."""
        if SEVERITY[outcome] > SEVERITY[self.outcome]:
            self.outcome = outcome

    def unit(self) -> Unit | None:
        """What is to be written for this message; None where it is only counted."""
        if self.remember is None and not (self.rows or self.statements or self.dead or self.journal):
            return None
        return Unit(
            self.message,
            self.remember,
            getattr(self.event, "routing_key", self.message.routing_key),
            self.outcome,
            self.rows or (),
            self.statements or (),
            self.dead or (),
            self.journal or (),
            self.lanes,
            self.keys,
        )
