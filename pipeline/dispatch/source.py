"""A source at work: admits batches, lets each message take its routes, and hands finished ones to the committer."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from math import inf
from typing import Any

from pipeline.config.models import SourceTable
from pipeline.connectors import Message, MessageBatch
from pipeline.dispatch.async_stage import AsyncStage
from pipeline.dispatch.committer import Committer
from pipeline.dispatch.decode import Decoder, Undecodable
from pipeline.dispatch.dedupe import Dedupe
from pipeline.dispatch.dependencies import Dependencies
from pipeline.dispatch.flight import Flight
from pipeline.dispatch.jobs_left import JobsLeft
from pipeline.dispatch.lanes import Lanes, StageEntry
from pipeline.dispatch.overtaken import Overtaken
from pipeline.dispatch.passage import Passage
from pipeline.dispatch.redrive import Redriver
from pipeline.dispatch.stage_queue import StageQueue
from pipeline.dispatch.stopping import Left, in_the_way
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

    Attributes:
        leaves_no_letter: Asked of each message that can't be decoded whether it is only passed by.
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
        self.stats = stats
        self.leaves_no_letter: Callable[[Message], bool] | None = None
        self.window = Window(lease.progress, table.window, table.max_ahead, table.limits.in_flight)
        self.dependencies = Dependencies(resources, self._hold, self.window.release, self.window.admit_one)
        self._decoder = Decoder(name, table.stream, lease, table.limits)
        self._dedupe = (
            Dedupe(ledger, table.group, self._hold, self.window.release) if table.dedupe is not False else None
        )
        self._overtaken = Overtaken(ledger.redrives, lease, self._hold, self.window.release)
        self.passage = passage = Passage(
            table.group, stats, JobsLeft(on_jobs, now, pipeline), self._overtaken,
            journal=table.journal, finish=self._finish, failed=on_end,
        )  # fmt: skip
        self._queues = {
            name: StageQueue(stage, passage, self.dependencies) for name, stage in stages.items() if not stage.is_async
        }
        entries: dict[str, StageEntry] = {
            name: AsyncStage(stage, passage, lease) for name, stage in stages.items() if stage.is_async
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
        self.committer = Committer(ledger, lease, self.window, stats, self._overtaken, self._committed, on_end)
        self._redriver = Redriver(
            ledger.redrives, lease, self._decoder, passage, self._overtaken, self.window, self._route,
            tuple(self._lanes.values()), on_end,
        )  # fmt: skip

    def start(self) -> None:
        """Begin to commit, and to look for dead letters that are to be run again."""
        self.committer.start()
        self._redriver.start()

    # Admission

    async def admit(self, batch: MessageBatch) -> None:
        """Take a batch in, whole or not at all, as soon as there is room; returns once it is on its way.

        Messages that were admitted before (a reconnection reads some again) or that an earlier run finished are
        passed over.
        """
        window = self.window
        await window.room()
        await self._overtaken.load()
        dedupe = self._dedupe
        seen = await dedupe.known(batch) if dedupe else set()
        if window.last < 0:
            window.begin(batch[0].offset, batch[0].timestamp)
            self.committer.note_progress()
        may_be_done = window.may_be_done
        for message in batch:
            if message.offset <= window.last:
                continue
            if may_be_done and window.is_done(message.offset):
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
            if self.leaves_no_letter is not None and self.leaves_no_letter(message):
                self._settle(message, Outcome.FILTERED, str(reason))
                return
            self._undecodable(message, remember, reason.kind, str(reason))
            return
        flight = Flight(message, event, remember)
        self.window.admit(flight)
        lanes = self._lanes_by_key.get(event.routing_key)
        if lanes is None:
            lanes = self._route(event.routing_key)
        if not lanes:
            self.passage.note(flight, "unrouted")
            self._finish(flight)
            return
        self.passage.launch(flight, lanes)

    def _route(self, routing_key: str) -> tuple[Lanes, ...]:
        if (known := self._lanes_by_key.get(routing_key)) is not None:
            return known
        if len(self._lanes_by_key) >= 10_000:
            self._lanes_by_key.clear()
        lanes = tuple(self._lanes[route.index] for route in self._router.routes_for(self.name, routing_key))
        self._lanes_by_key[routing_key] = lanes
        return lanes

    def _undecodable(self, message: Message, remember: str | None, kind: str, reason: str) -> None:
        now = datetime.now(UTC)
        flight = Flight(message, None, remember)
        flight.die(Dead("", "", kind, reason, 0, now, now))
        flight.outcome = Outcome.DEAD
        self.passage.note(flight, reason)
        _log.error("source %s: message %s@%d is dead: %s", self.name, self._decoder.stream, message.offset, reason)
        self.window.admit(flight)
        self.stats.failed_with(f"message at offset {message.offset}: {reason}")
        self._finish(flight)

    def _settle(self, message: Message, outcome: Outcome, reason: str = "") -> None:
        """Take in a message whose outcome is known at once."""
        flight = Flight(message, None, None)
        flight.outcome = outcome
        self.passage.note(flight, reason)
        self.window.admit(flight)
        self._finish(flight)

    def _finish(self, flight: Flight) -> None:
        if flight.again is None:
            self.committer.add(flight)
        else:
            self._redriver.finish(flight)

    def _committed(self, flights: list[Flight]) -> None:
        if self._dedupe is not None:
            self._dedupe.let_go(flight.remember for flight in flights if flight.remember is not None)
        self.passage.jobs.committed(flights)

    # Ownership, pause and stop

    def own_until(self, moment: float) -> None:
        """The lease is known to be ours until this moment (of the monotonic clock)."""
        self.passage.owned_until = moment
        for queue in self._queues.values():
            queue.resume()

    def _hold(self, cause: str, reason: str) -> None:
        self.stats.last_error = reason
        self.window.hold(cause, reason)

    async def drain(self, grace: float = inf) -> None:
        """Bring what has begun to its end, and let nothing else begin.

        What has begun is waited for also while it waits for another try, for its turn or for a dependency: left where
        it is, it would do its finished stages again at the next start.

        Args:
            grace: Seconds that there are; what waits for a time beyond them is not waited for.
        """
        until = asyncio.get_running_loop().time() + grace
        left = Left()
        self.passage.leave(left)
        self._redriver.leave()
        for queue in self._queues.values():
            queue.leave(left)
        while True:
            while self._busy(until):  # noqa: ASYNC110 - at stop only
                await asyncio.sleep(0.01)
            freed = left.let_begin(in_the_way(self.window.open()))
            if not freed and not self._busy(until):
                return
            for flight in freed:
                self.passage.begin(flight)

    @property
    def begun(self) -> int:
        """How many messages are in flight of which a stage is done, or that a stop let begin."""
        return sum(flight.begun for flight in self.window.open())

    def _busy(self, until: float) -> bool:
        queues = any(queue.busy(until) for queue in self._queues.values())
        return queues or self.committer.busy or self._redriver.busy

    async def close(self) -> None:
        """End all work at once; what is not committed will be delivered again."""
        await asyncio.gather(*(queue.close() for queue in self._queues.values()))
        await self.dependencies.close()  # after the queues: a cancelled try may still report an outage
        await self._redriver.close()
        await self.committer.close()
