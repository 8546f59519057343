"""A source at work: admits batches, leads each message through its routes, and hands finished ones to the committer."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from time import monotonic
from typing import Any

from pipeline.config.models import SourceTable
from pipeline.connectors import Message, MessageBatch
from pipeline.dispatch.async_stage import AsyncStage
from pipeline.dispatch.committer import Committer
from pipeline.dispatch.decode import Decoder, Undecodable
from pipeline.dispatch.dedupe import Dedupe
from pipeline.dispatch.dependencies import Dependencies
from pipeline.dispatch.flight import SEVERITY, Flight
from pipeline.dispatch.jobs_left import JobsLeft
from pipeline.dispatch.lanes import Lanes, StageEntry
from pipeline.dispatch.stage_queue import StageQueue
from pipeline.dispatch.window import Window
from pipeline.events import Outcome
from pipeline.ledger.columns import utcnow
from pipeline.ledger.lease import Lease
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.units import Dead
from pipeline.routing import Router
from pipeline.stages import Stage
from pipeline.stats import SourceStats

__all__ = ["Source"]

_log = logging.getLogger("pipeline.dispatch")


class Source:
    """One source while this runner owns it.

    Args:
        name: The source's name.
        table: Its configuration.
        router: Finds the routes of a routing key.
        stages: The started stages by name.
        resources: The opened resources by name.
        ledger: Where finished messages are committed.
        lease: The ownership that commits are conditional on.
        stats: Where its counters are kept.
        on_end: Called when it can't go on: with None where another runner has taken the source over, else with the
            error.
        on_jobs: Called after each commit that had jobs in it.
        now: The time that jobs are left at, aware, in UTC.
        pipeline: The pipeline's name, which jobs are left with.
    """

    def __init__(
        self,
        name: str,
        table: SourceTable,
        router: Router,
        stages: Mapping[str, Stage],
        resources: Mapping[str, Any],
        ledger: Ledger,
        lease: Lease,
        stats: SourceStats,
        on_end: Callable[[BaseException | None], None],
        *,
        on_jobs: Callable[[], None] = lambda: None,
        now: Callable[[], datetime] = utcnow,
        pipeline: str,
    ) -> None:
        self.name = name
        self.group = table.group
        self.stats = stats
        self.window = Window(lease.progress, table.window, table.max_ahead)
        self.dependencies = Dependencies(resources, self._hold, self.window.release)
        self._journal = table.journal
        self._decoder = Decoder(name, table.stream, lease)
        self._dedupe = (
            Dedupe(ledger, table.group, self._hold, self.window.release) if table.dedupe is not False else None
        )
        self.jobs = JobsLeft(on_jobs, now, pipeline)
        self._queues = {
            name: StageQueue(stage, self, self.dependencies) for name, stage in stages.items() if not stage.is_async
        }
        entries: dict[str, StageEntry] = {
            name: AsyncStage(stage, self, lease) for name, stage in stages.items() if stage.is_async
        }
        entries |= self._queues
        self._router = router
        self._lanes = {
            route.index: Lanes(
                route,
                [entries[stage] for stage in route.stages],
                [entries[stage] for stage in route.finally_],
            )
            for route in router.routes
            if route.source == name
        }
        self._lanes_by_key: dict[str, tuple[Lanes, ...]] = {}
        self._beginning: deque[Flight] = deque()
        self._skipped: dict[Flight, str] = {}  # reasons, until the routes end; for the journal
        self._owned_until = float("inf")
        self.committer = Committer(ledger, lease, self.window, stats, self._committed, on_end)
        self.failed = on_end

    # Admission

    async def admit(self, batch: MessageBatch) -> None:
        """Take a batch in, whole or not at all, as soon as there is room; returns once it is on its way.

        Messages that were admitted before (a reconnection reads some again) or that an earlier run finished are
        passed over.
        """
        window = self.window
        await window.room()
        dedupe = self._dedupe
        seen = await dedupe.known(batch) if dedupe else set()
        if window.last < 0:
            window.begin(batch[0].offset)
            self.committer.note_progress()
        for message in batch:
            if message.offset <= window.last:
                continue
            if window.is_done(message.offset):
                window.admit_done(message.offset, message.timestamp)
                continue
            remember = None
            if dedupe is not None and message.id:
                if message.id in seen:
                    self._settle(message, Outcome.DUPLICATE)
                    continue
                remember = message.id
                seen.add(remember)
                dedupe.take_in(remember)
            self._take_in(message, remember)
        self.stats.last_message_time = datetime.now(UTC)
        window.admitted()

    def _take_in(self, message: Message, remember: str | None) -> None:
        try:
            event = self._decoder.decode(message)
        except Undecodable as reason:
            self._undecodable(message, remember, str(reason))
            return
        flight = Flight(message, event, remember)
        self.window.admit(flight)
        lanes = self._lanes_by_key.get(event.routing_key)
        if lanes is None:
            lanes = self._route(event.routing_key)
        if not lanes:
            if self._journal:
                flight.note("", Outcome.FILTERED, "unrouted")
            self._finish(flight)
            return
        flight.lanes = lanes
        keys = [lane.key_of(event) if lane.key_of is not None else None for lane in lanes]
        flight.keys = keys
        may_run = True
        for index, key in enumerate(keys):
            if key is not None and not lanes[index].join(flight, key) and index == 0:
                may_run = False
        if may_run:
            self._begin(flight)

    def _route(self, routing_key: str) -> tuple[Lanes, ...]:
        if len(self._lanes_by_key) >= 10_000:
            self._lanes_by_key.clear()
        lanes = tuple(self._lanes[route.index] for route in self._router.routes_for(self.name, routing_key))
        self._lanes_by_key[routing_key] = lanes
        return lanes

    def _undecodable(self, message: Message, remember: str | None, reason: str) -> None:
        now = datetime.now(UTC)
        flight = Flight(message, None, remember)
        flight.die(Dead("", "", "undecodable", reason, 0, now, now))
        flight.outcome = Outcome.DEAD
        _log.error("source %s: message %s@%d is dead: %s", self.name, self._decoder.stream, message.offset, reason)
        self.window.admit(flight)
        self.stats.failed_with(f"message at offset {message.offset}: {reason}")
        self._finish(flight)

    def _settle(self, message: Message, outcome: Outcome) -> None:
        """Take in a message whose outcome is known at once."""
        flight = Flight(message, None, None)
        flight.outcome = outcome
        if self._journal:
            flight.note("", outcome)
        self.window.admit(flight)
        self._finish(flight)

    # The way through the routes

    def _begin(self, flight: Flight) -> None:
        """Let the flight begin its route, and then those that this sets free: a loop, as a lane may be long."""
        self._beginning.append(flight)
        if len(self._beginning) > 1:
            return
        while self._beginning:
            self._enter(self._beginning[0])
            self._beginning.popleft()

    def _enter(self, flight: Flight) -> None:
        """Begin the route that the flight has come to; it is at the head of its lane there."""
        lanes = flight.lanes[flight.at]
        flight.closing = False
        flight.route_error = None
        if lanes.when is not None:
            holds, reason = lanes.when.holds(flight.event.variables())
            if not holds:
                flight.route_outcome = Outcome.FILTERED
                self._leave(flight, reason or "the route's condition does not hold")
                return
        flight.route_outcome = Outcome.HANDLED
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
            if flight.closing or not closing:
                self._leave(flight, str(flight.route_error or ""))
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
        flight.step += 1
        self._go_on(flight)

    def stage_skipped(self, flight: Flight, reason: str) -> None:
        """A handler said that the event is not for this route."""
        if flight.closing:
            self.stage_done(flight)
            return
        flight.route_outcome = Outcome.FILTERED
        flight.route_error = None
        if self._journal:
            self._skipped[flight] = reason
        flight.step = len(flight.chain)
        self._go_on(flight)

    def stage_dead(self, flight: Flight, dead: Dead, error: BaseException) -> None:
        """A stage failed for good: the rest of its stages is passed by, ``finally`` is not."""
        if flight.closing and flight.route_outcome is Outcome.DEAD and flight.dead:
            flight.dead[-1].reason += f"; then {dead.stage}: {dead.reason}"  # a route has one dead letter
        else:
            flight.die(dead)
        flight.route_outcome = Outcome.DEAD
        self.stats.failed_with(f"{dead.stage}: {dead.reason}")
        if flight.closing:
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
        at += 1
        if at == len(flight.lanes):
            self._finish(flight)
        else:
            flight.at = at
            key_there = flight.keys[at]
            if key_there is None or flight.lanes[at].is_head(flight, key_there):
                self._begin(flight)
        if key is None:
            return
        following = lanes.leave(key)
        # The next one may still be in an earlier route; then it enters this one when it comes to it.
        if following is not None and following.lanes[following.at] is lanes:
            self._begin(following)

    def _finish(self, flight: Flight) -> None:
        self.committer.add(flight)

    def _committed(self, flights: list[Flight]) -> None:
        if self._dedupe is not None:
            self._dedupe.let_go(flight.remember for flight in flights if flight.remember is not None)
        self.jobs.committed(flights)

    # Ownership, pause and stop

    def own_until(self, moment: float) -> None:
        """The lease is known to be ours until this moment (of the monotonic clock)."""
        self._owned_until = moment
        for queue in self._queues.values():
            queue.resume()

    def must_hold(self) -> bool:
        """Whether the lease may have passed to another runner: then nothing new is started until it is renewed."""
        return monotonic() > self._owned_until

    def _hold(self, cause: str, reason: str) -> None:
        self.stats.last_error = reason
        self.window.hold(cause, reason)

    async def drain(self) -> None:
        """Return when nothing is left that can be done without waiting for a timer or a dependency."""
        while any(queue.busy for queue in self._queues.values()) or self.committer.busy:  # noqa: ASYNC110 - at stop only
            await asyncio.sleep(0.01)

    async def close(self) -> None:
        """End all work at once; what is not committed will be delivered again."""
        await asyncio.gather(*(queue.close() for queue in self._queues.values()))
        await self.dependencies.close()  # after the queues: a cancelled try may still report an outage
        await self.committer.close()
