"""A dead letter on its way again: where its flight enters its route, and whether it still may."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.events import Outcome
from pipeline.jobs.stage_event import restored_error
from pipeline.ledger.tables import DeadLetter

if TYPE_CHECKING:
    from pipeline.dispatch.flight import Flight
    from pipeline.dispatch.lanes import Lanes
    from pipeline.dispatch.overtaken import Overtaken

__all__ = ["Again"]


class Again:
    """What a flight has beside its message where it is a redrive.

    Args:
        letter: The dead letter, as it was when the redrive was begun.

    Attributes:
        refusal: Why nothing was run; empty where something is.
        only: Whether it runs what failed, and nothing after it: an asynchronous stage, or stages of ``finally``. What
            stands behind these was not kept from running when they failed.
        left: Whether the stage whose job had failed is left as a job anew: what comes of that, its worker tells.
    """

    __slots__ = ("left", "letter", "only", "refusal")

    def __init__(self, letter: DeadLetter) -> None:
        self.letter = letter
        self.refusal = ""
        self.only = False
        self.left = False

    @property
    def place(self) -> tuple[str, str]:
        """Its route and ordering key, as `Overtaken` knows them."""
        return self.letter.route, self.letter.key or ""

    def may_enter(self, lanes: Lanes, overtaken: Overtaken) -> bool:
        """Whether it may begin now, at the head of its lane; if not, `refusal` says why."""
        letter = self.letter
        later = letter.overtaken_by or overtaken.later_than(self.place, letter.incarnation, letter.offset)
        if later is not None and not letter.forced:
            self.refusal = f"a later event of its key, {later}, was handled in the meantime"
        elif self._enters_stage and letter.stage not in self._stages_of(lanes):
            gone = f"the stage {letter.stage!r} is no longer there in the route {letter.route!r}"
            self.refusal = f"{gone}: publish its event anew" if letter.job else f"{gone}: run it from the start"
        return not self.refusal

    def enter(self, flight: Flight) -> bool:
        """Let the flight stand before the stage that failed; False where it is to begin at the route's start."""
        if not self._enters_stage:
            return False
        letter, lanes = self.letter, flight.lanes[flight.at]
        step = list(self._stages_of(lanes)).index(letter.stage)
        chain = lanes.stages if letter.closing is None else lanes.closing
        self.only = bool(letter.job) or letter.closing is not None
        if self.only:
            failed = {letter.stage, *(letter.closing or {}).get("stages", ())}
            flight.chain = [entry for name, entry in zip(self._stages_of(lanes), chain, strict=True) if name in failed]
            flight.step = 0
        else:
            flight.chain, flight.step = chain, step
        if letter.closing is not None:
            flight.closing = True
            flight.route_outcome = Outcome(letter.closing["outcome"])
            flight.route_error = restored_error(letter.closing.get("error"))
        return True

    def leaves(self, route: str, stage: str) -> int:
        """Note that a stage is left as a job; which redrive that is of the dead letter of this very job, 0 for none."""
        if (self.letter.route, self.letter.job) != (route, stage):
            return 0
        self.left = True
        return self.letter.redrives + 1

    @property
    def _enters_stage(self) -> bool:
        """Whether it enters at the stage that failed; a job's letter always does, as its route went on without it."""
        letter = self.letter
        return bool(letter.stage and letter.route) and (not letter.from_start or bool(letter.job))

    def _stages_of(self, lanes: Lanes) -> tuple[str, ...]:
        """The names of those stages of the route among which the failed one was."""
        return lanes.route.stages if self.letter.closing is None else lanes.route.finally_
