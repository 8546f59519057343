"""The job service: what a process needs to have jobs run: the executor, the queue, the relay and those who tidy up."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping
from typing import Final

from pipeline.connectors import Connector
from pipeline.errors import PipelineError, Unavailable
from pipeline.jobs.clock import Clock
from pipeline.jobs.contract import INLINE
from pipeline.jobs.executor import Executor, JobRunner
from pipeline.jobs.hints import HintQueue, InlineHints
from pipeline.jobs.lanes import Carries, Lane
from pipeline.jobs.publisher import OutboxPublisher
from pipeline.jobs.relay import NEAR, Relay
from pipeline.jobs.retention import trim_runs
from pipeline.jobs.rounds import Rounds, rested
from pipeline.jobs.settings import JobSettings, QueueTables, hint_queue
from pipeline.jobs.sweeper import LostHints, LostWorkers, forget_hints_of
from pipeline.ledger.database import Database
from pipeline.ledger.owner import owner_id

__all__ = ["JobService", "JobSettings", "hint_queue"]

_RELAY_APART: Final = 0.02
"""So that jobs of commits that follow one another closely share hints."""
_SWEEP_SECONDS: Final = 1.0
_TRIM_SECONDS: Final = 10.0
_PUBLISH_SECONDS: Final = 0.5
_PROBE_SECONDS: Final = 10.0
_LAST_WAIT: Final = 2.0
_OURS: Final = ("database", "queue")
"""Dependencies of whose outages the first relay and the queue itself tell."""
_log = logging.getLogger("pipeline.jobs")


class JobService:
    """Has jobs run: those of this process's stages here, all others by whoever has their queue.

    Args:
        database: Where the jobs are.
        connector: Where the outbox's messages go.
        runners: What runs the jobs of each stage, by the stage's name.
        settings: How.
        clock: The time by which jobs are due; the database's by default.
        hints: The queue, in place of the one that the settings describe.

    Raises:
        UserError: The URL of Redis is wrong.
    """

    def __init__(
        self,
        database: Database,
        connector: Connector,
        runners: Mapping[str, JobRunner],
        settings: JobSettings,
        *,
        clock: Clock | None = None,
        hints: HintQueue | None = None,
    ) -> None:
        self.settings = settings
        self.owner = owner_id()
        self.clock = clock or Clock()
        self._database = database
        self._tables = QueueTables(settings)
        self.executor = Executor(
            database, runners, self._tables, owner=self.owner, pipeline=settings.pipeline, clock=self.clock,
            on_settled=self.wake,
        )  # fmt: skip
        # Where nothing leaves jobs, nothing need be installed that speaks to Redis. A worker serves what others leave.
        wanted = settings.use_queue and (settings.queues or runners or not settings.inline)
        self._queue = (hints or hint_queue(settings.url, settings.prefix)) if wanted else None
        self._lanes = list(self._make_lanes())
        self._workers = LostWorkers(database, self.clock, pipeline=settings.pipeline)
        self._relays = [
            Rounds(
                "relay",
                self._relay(lane),
                every=NEAR,
                apart=_RELAY_APART,
                silent=() if lane is self._lanes[0] else _OURS,
            )
            for lane in self._lanes
        ]
        publisher = OutboxPublisher(
            database, connector, pipeline=settings.pipeline, create_streams=settings.create_streams
        )
        self._publisher = Rounds("outbox", publisher.round, every=_PUBLISH_SECONDS, apart=_RELAY_APART, silent=_OURS)
        self._rounds = [
            *self._relays, self._publisher,
            *(Rounds("sweeper", self._sweep_hints(lane), every=_SWEEP_SECONDS, silent=_OURS) for lane in self._lanes),
            Rounds("sweeper", self._sweep_workers, every=_SWEEP_SECONDS, silent=_OURS),
            Rounds("trimming of job runs", self._trim, every=_TRIM_SECONDS, silent=_OURS),
        ]  # fmt: skip
        if self._queue is not None and settings.serve is None:
            self._rounds.append(Rounds("search for queues", self._find_queues, every=_SWEEP_SECONDS, silent=_OURS))
        self._served: set[str] = set()
        self._stopped = False

    # Life

    async def start(self) -> None:
        """Begin; does not wait for Redis, the database or the broker.

        Raises:
            UserError: Redis refuses the login, or can't be used as it is configured.
        """
        await self._look_at_queue()
        await self.executor.start()
        for lane in self._lanes:
            for queue in self._queues_of(lane):
                self._serve(lane, queue)
            lane.hints.on_up = self.wake
        for rounds in self._rounds:
            rounds.start()

    async def stop(self, grace: float) -> None:
        """Take no more jobs, let those that run finish within so many seconds, give the others back; once."""
        if self._stopped:
            return
        self._stopped = True
        # What a local queue were told of now, nobody would hear; to others, jobs that end may still leave something.
        local = [relay for relay, lane in zip(self._relays, self._lanes, strict=True) if lane.hints.is_local]
        await asyncio.gather(*(relay.stop() for relay in local))
        await asyncio.gather(*(lane.hints.stop() for lane in self._lanes))
        await self.executor.stop(grace)
        if local:
            await self._forget_own_hints()
        await asyncio.gather(*(rounds.stop() for rounds in self._rounds))
        await asyncio.gather(*(lane.hints.close() for lane in self._lanes))

    def wake(self, *_: object) -> None:
        """Look for new jobs and messages now: some were committed."""
        for relay in self._relays:
            relay.wake()
        self._publisher.wake()

    # What it does

    @property
    def in_flight(self) -> int:
        """How many jobs run here now."""
        return self.executor.in_flight

    @property
    def serves(self) -> tuple[str, ...]:
        """The queues whose jobs are run here, by name; those that turned up later included."""
        return tuple(sorted(self._served))

    @property
    def shared_queue(self) -> HintQueue | None:
        """The queue, where it is not in this process."""
        return self._queue if self._queue is not None and not self._queue.is_local else None

    async def depths(self) -> dict[str, int]:
        """How many hints each queue holds, by the queue's name. Raises `Unavailable` where Redis can't be reached."""
        found: dict[str, int] = {}
        for lane in self._lanes:
            names = [name for name in {*self._tables, *await lane.hints.names()} if lane.carries.includes(name)]
            found |= {name: backlog.hints for name, backlog in (await lane.hints.backlogs(names)).items()}
        return found

    # Parts

    def _make_lanes(self) -> Iterator[Lane]:
        if self._queue is None:
            yield Lane(InlineHints(), Carries.ALL)
            return
        if self.settings.inline:
            yield Lane(InlineHints(), Carries.INLINE)
        yield Lane(self._queue, Carries.OTHERS)

    def _queues_of(self, lane: Lane) -> Iterator[str]:
        """The queues of a lane that are served here from the start."""
        serve = self.settings.serve
        if lane.hints is not self._queue:
            yield from {INLINE, *(name for name in self._tables if lane.carries.includes(name))}
        else:
            yield from (name for name in (self._tables if serve is None else serve) if lane.carries.includes(name))

    def _serve(self, lane: Lane, queue: str) -> None:
        if queue not in self._served:
            self._served.add(queue)
            lane.hints.serve(queue, self.executor, self.settings.table(queue).concurrency)

    def _meet(self, lane: Lane, queue: str) -> None:
        """Serve a queue that a job was left on, too, where nobody declared it."""
        if lane.hints is not self._queue or self.settings.serve is None:
            self._serve(lane, queue)

    async def _look_at_queue(self) -> None:
        """Refuse what no waiting mends; only warn of a Redis that is away."""
        if self._queue is None or not (self._tables or self.settings.serve):
            return
        try:
            async with asyncio.timeout(_PROBE_SECONDS):
                await self._queue.probe()
        except (Unavailable, TimeoutError) as error:
            if self.settings.serve is not None and not self.settings.serve:  # else its workers say so in a moment
                reason = str(error) or f"queue: no answer within {_PROBE_SECONDS:g} s"
                _log.warning("%s; jobs wait in the database until Redis is back", reason)

    def _relay(self, lane: Lane) -> Callable[[], Awaitable[float | None]]:
        relay = Relay(
            self._database, lane, self.clock, pipeline=self.settings.pipeline, owner=self.owner,
            concurrency=lambda queue: self.settings.table(queue).concurrency,
            meet=lambda queue: self._meet(lane, queue),
        )  # fmt: skip
        return relay.round

    def _sweep_hints(self, lane: Lane) -> Callable[[], Awaitable[float | None]]:
        lost = LostHints(self._database, lane, self.clock, owner=self.owner, pipeline=self.settings.pipeline)

        async def sweep() -> float | None:
            if not lane.hints.is_up:
                return None
            began = time.monotonic()
            try:
                if await lost.sweep():
                    self.wake()
            except Unavailable as error:
                if error.dependency != "queue":  # else the queue says so itself
                    raise
            return rested(time.monotonic() - began, _SWEEP_SECONDS)

        return sweep

    async def _sweep_workers(self) -> float | None:
        began = time.monotonic()
        if await self._workers.sweep():
            self.wake()
        return rested(time.monotonic() - began, _SWEEP_SECONDS)

    async def _forget_own_hints(self) -> None:
        """Let others be told at once of what this process was told of and did not begin: nobody else sees its hints."""
        try:
            async with asyncio.timeout(_LAST_WAIT):
                await forget_hints_of(self._database, self.owner, self.settings.pipeline)
        except (PipelineError, TimeoutError) as error:
            _log.debug("jobs that were not begun here are told of anew in a minute: %s", error)

    async def _trim(self) -> float | None:
        await trim_runs(self._database, self._tables, self.settings.pipeline)
        return None

    async def _find_queues(self) -> float | None:
        """Serve queues, too, that nobody declared, and that jobs are left on all the same."""
        if self._queue is not None and self._queue.is_up:
            try:
                names = await self._queue.names()
            except PipelineError as error:
                _log.debug("%s", error)
                return None
            lane = next(lane for lane in self._lanes if lane.hints is self._queue)
            for name in sorted(names - self._served):
                _log.info("queue %s: no stage and no [jobs.queue] names it; it is served with the defaults", name)
                self._serve(lane, name)
        return None
