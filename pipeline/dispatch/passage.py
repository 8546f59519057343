"""The way of flights through their routes: stage by stage, then `finally`, then the next route, each in its lane."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from time import monotonic

from pipeline.dispatch.flight import DEAD, FILTERED, HANDLED, SEVERITY, Flight
from pipeline.dispatch.jobs_left import JobsLeft
from pipeline.dispatch.lanes import Lanes, StageEntry
from pipeline.dispatch.overtaken import Overtaken
from pipeline.dispatch.stopping import Left
from pipeline.events import Outcome
from pipeline.jobs.stage_event import told_error
from pipeline.ledger.units import Dead
from pipeline.stats import SourceStats

__all__ = ["Passage"]


class Passage:
    """Leads one source's flights from stage to stage; what the stages' queues tell of.

    Args:
        group: The consumer group.
        stats: The source's counters.
        jobs: Keeps the jobs that flights leave.
        overtaken: Takes note of events that are handled after an earlier one of their key died.
        journal: Whether every outcome is kept.
        finish: Called with each flight that has ended its last route.
        failed: Called with an error that ends the source.

    Attributes:
        owned_until: Until this moment (of the monotonic clock) the source is known to be this runner's.
        on_route: Called with a route's name and outcome at the end of each route of each flight, before it is
            committed.
    """

    def __init__(
        self,
        group: str,
        stats: SourceStats,
        jobs: JobsLeft,
        overtaken: Overtaken,
        *,
        journal: bool,
        finish: Callable[[Flight], None],
        failed: Callable[[BaseException | None], None],
    ) -> None:
        self.group = group
        self.jobs = jobs
        self.failed = failed
        self.owned_until = float("inf")
        self.on_route: Callable[[str, Outcome], None] | None = None
        self._stats = stats
        self._overtaken = overtaken
        self._journal = journal
        self._finish = finish
        self._beginning: deque[Flight] = deque()
        self._is_beginning = False
        self._left: Left | None = None
        self._skipped: dict[Flight, str] = {}  # reasons, until the routes end; for the journal

    def must_hold(self) -> bool:
        """Whether the lease may have passed to another runner: then nothing new is started until it is renewed."""
        return monotonic() > self.owned_until

    def launch(self, flight: Flight, lanes: Sequence[Lanes]) -> None:
        """Let a flight join its lanes, at least one, and begin where it is at the head of the first."""
        flight.lanes = lanes
        event = flight.event
        keys: list[str | None] = []
        flight.keys = keys
        may_run = True
        for lane in lanes:
            key = lane.key_of(event) if lane.key_of is not None else None
            if key is not None and not lane.join(flight, key) and not keys:
                may_run = False
            keys.append(key)
        if may_run:
            self.begin(flight)

    def note(self, flight: Flight, reason: str = "") -> None:
        """Keep the outcome of a flight that takes no route, where every outcome is kept."""
        if self._journal:
            flight.note("", flight.outcome, reason)

    def leave(self, left: Left) -> None:
        """Begin nothing more that `left` takes."""
        self._left = left

    def begin(self, flight: Flight) -> None:
        """Let the flight begin its route, and then those that this sets free: a loop, as a lane may be long."""
        if self._left is not None and self._left.takes(flight):
            return
        if self._is_beginning:
            self._beginning.append(flight)
            return
        self._is_beginning = True
        self._enter(flight)
        while self._beginning:
            self._enter(self._beginning.popleft())
        self._is_beginning = False

    def _enter(self, flight: Flight) -> None:
        """Begin the route that the flight has come to; it is at the head of its lane there."""
        lanes = flight.lanes[flight.at]
        flight.closing = False
        flight.route_error = None
        again = flight.again
        if again is not None and not again.may_enter(lanes, self._overtaken):
            flight.route_outcome = FILTERED
            self._leave(flight, again.refusal)
            return
        flight.route_outcome = HANDLED
        if again is not None and again.enter(flight):
            self._go_on(flight)
            return
        if lanes.when is not None:
            holds, reason = lanes.when.holds(flight.event.variables())
            if not holds:
                flight.route_outcome = FILTERED
                self._leave(flight, reason or "the route's condition does not hold")
                return
        flight.chain = lanes.stages
        flight.step = 0
        self._go_on(flight)

    def _go_on(self, flight: Flight) -> None:
        """Bring the flight to its next stage, or to its route's end."""
        while True:
            chain, step = flight.chain, flight.step
            if step < len(chain):
                queue = chain[step]
                if queue.when is not None and not self._applies(queue, flight):
                    flight.step = step + 1
                    continue
                flight.attempt = 1
                flight.first_at = None
                queue.put(flight)
                return
            closing = flight.lanes[flight.at].closing
            if flight.closing or not closing or (flight.again is not None and flight.again.only):
                self._leave(flight, str(flight.route_error) if flight.route_error is not None else "")
                return
            flight.closing = True
            flight.chain = closing
            flight.step = 0

    def _applies(self, queue: StageEntry, flight: Flight) -> bool:
        variables = flight.event.variables()
        if flight.closing:
            variables |= {"outcome": str(flight.route_outcome), "error": str(flight.route_error or "")}
        assert queue.when is not None  # noqa: S101 - for the type checker
        return queue.when.holds(variables)[0]

    def stage_done(self, flight: Flight) -> None:
        """The flight's stage is done: on to the next."""
        flight.begun = True
        flight.step += 1
        self._go_on(flight)

    def stage_skipped(self, flight: Flight, reason: str, error: BaseException | None = None) -> None:
        """The event is not for this route: a handler said so, or, with an error, another event stands for it."""
        if flight.closing:
            self.stage_done(flight)
            return
        flight.begun = True
        flight.route_outcome = FILTERED
        flight.route_error = error
        if self._journal and error is None:
            self._skipped[flight] = reason
        flight.step = len(flight.chain)
        self._go_on(flight)

    def stage_dead(self, flight: Flight, dead: Dead, error: BaseException) -> None:
        """A stage failed for good: the rest of its stages is passed by, ``finally`` is not."""
        closing, outcome = flight.closing, flight.route_outcome
        if closing and outcome is DEAD and flight.dead:
            _add_to(flight.dead[-1], dead)  # a route has one dead letter
        else:
            dead.key = flight.keys[flight.at]
            # An event may well be about what the key stands for although the key is not where the route looks for it.
            dead.order_known = dead.key is not None or not flight.lanes[flight.at].ordered
            if closing:
                why = told_error(flight.route_error)
                dead.closing = {"outcome": outcome.value, "error": why, "stages": [dead.stage]}
                if outcome is HANDLED:  # its stages had their effect; only what reports of it failed
                    self._overtaken.handled(flight)
            flight.die(dead)
        flight.begun = True
        flight.route_outcome = DEAD
        self._stats.failed_with(f"{dead.stage}: {dead.reason}")
        if closing:
            flight.step += 1
        else:
            flight.route_error = error
            flight.step = len(flight.chain)
        self._go_on(flight)

    def _leave(self, flight: Flight, reason: str) -> None:
        """End the flight's route: the next flight of its lane may begin, and so may its own next route."""
        at = flight.at
        lanes, key = flight.lanes[at], flight.keys[at]
        outcome = flight.route_outcome
        if SEVERITY[outcome] > SEVERITY[flight.outcome]:
            flight.outcome = outcome
        if self._journal:
            flight.note(lanes.name, outcome, reason or self._skipped.pop(flight, ""))
        if self.on_route is not None:
            self.on_route(lanes.name, outcome)
        if key is not None:
            if outcome is DEAD:
                self._overtaken.died(flight)
            elif outcome is HANDLED and self._overtaken.waiting:
                self._overtaken.handled(flight)
        at += 1
        if at == len(flight.lanes):
            self._finish(flight)
        else:
            flight.at = at
            key_there = flight.keys[at]
            if key_there is None or flight.lanes[at].is_head(flight, key_there):
                self.begin(flight)
        if key is None:
            return
        following = lanes.leave(key)
        # The next one may still be in an earlier route; then it enters this one when it comes to it.
        if following is not None and following.lanes[following.at] is lanes:
            self.begin(following)


def _add_to(first: Dead, dead: Dead) -> None:
    """Tell of one more failed stage of ``finally``; where the route itself did not fail, a redrive runs these alone."""
    first.reason += f"; then {dead.stage}: {dead.reason}"
    if first.closing is not None:
        first.closing = {**first.closing, "stages": [*first.closing["stages"], dead.stage]}
