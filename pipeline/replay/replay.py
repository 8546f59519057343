"""A replay as a part of a program: started, watched, stopped; asked again for the same, it goes on where it stopped."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from time import monotonic
from typing import Any

from pipeline.config.load import Loaded
from pipeline.connectors import Message
from pipeline.errors import PipelineError
from pipeline.events import Outcome
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.owner import owner_id
from pipeline.ledger.replay_table import ReplayRow
from pipeline.ledger.replays import Replays
from pipeline.ledger.tables import ProgressRow
from pipeline.ledger.units import Progress
from pipeline.life import Life
from pipeline.parts import Parts, load_with_plugins
from pipeline.plugins import Plugins
from pipeline.replay.pace import Pace
from pipeline.replay.planning import Plan, finished_in, plan_replay
from pipeline.replay.request import ReplayRequest
from pipeline.replay.summary import ReplayProgress, ReplaySummary
from pipeline.replay.supervising import ReplaySupervisor
from pipeline.replay.tally import Tally
from pipeline.routing import Router
from pipeline.stats import SourceStats
from pipeline.streams.broker import StreamBroker
from pipeline.supervisor import Shared

__all__ = ["Replay"]

_log = logging.getLogger("pipeline.replay")


class Replay(Life):
    """A replay that can be started and stopped, once; it ends by itself when its range is finished.

    ``summary = await Replay.from_file("pipeline.toml", ReplayRequest("first", only=["audit"])).complete()``. It may run
    beside runners of the same pipeline, in this process or another, where the broker lets several processes read.

    Args:
        loaded: The checked configuration.
        plugins: The loaded plugins.
        request: What to replay.
        plan: The plan that `plan_replay` made of this request; without it, it is made at the start.
        rate: At most so many events per second; None for as many as can be handled.
        middlewares: FastStream middlewares; each sees a batch as one message.
    """

    state_name = "replay"

    def __init__(
        self,
        loaded: Loaded,
        plugins: Plugins,
        request: ReplayRequest,
        *,
        plan: Plan | None = None,
        rate: float | None = None,
        middlewares: Sequence[Any] = (),
    ) -> None:
        super().__init__()
        self.loaded = loaded
        self.config = loaded.config
        self.plugins = plugins
        self.request = request
        self.plan = plan
        self._rate = rate
        self._middlewares = middlewares
        self._parts = Parts(loaded, plugins)
        self._stats = SourceStats()
        self._tally = Tally((), is_part=False)
        self._supervisor: ReplaySupervisor | None = None
        self._progress: Progress | None = None
        self._totals: ProgressRow | None = None
        self._left_jobs = False
        self._finished = False
        self._began = self._ended = 0.0

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        request: ReplayRequest,
        *,
        rate: float | None = None,
        environ: Mapping[str, str] | None = None,
        middlewares: Sequence[Any] = (),
    ) -> Replay:
        """The replay of a pipeline's file.

        Args:
            path: The file.
            request: What to replay.
            rate: As for `Replay`.
            environ: Variables in place of the process's own.
            middlewares: As for `Replay`.

        Raises:
            ConfigError: The file is wrong; it carries every problem at once.
            PluginError: A plugin can't be used.
        """
        return cls(*load_with_plugins(path, environ), request, rate=rate, middlewares=middlewares)

    async def complete(self) -> ReplaySummary:
        """Start, wait until the range is finished, and stop.

        Raises:
            UserError: As `start`; or the broker said no.
        """
        async with self:
            await self.wait()
        return self.summary()

    def progress(self) -> ReplayProgress:
        """How far it is."""
        plan, supervisor, stats = self.plan, self._supervisor, self._stats
        if supervisor is not None:
            supervisor.refresh()
            if supervisor.lease is not None:
                self._progress = supervisor.lease.progress
        total = plan.total if plan is not None else 0
        done = 0
        if plan is not None:
            done = total if self._finished else finished_in(plan.first, plan.last, self._progress or Progress())
        handled = stats.processed - stats.outcomes[Outcome.FILTERED]
        return ReplayProgress(
            done, total, stats.processed, handled, stats.failed, stats.in_flight, stats.state, stats.reason
        )

    def summary(self) -> ReplaySummary:
        """What it did.

        Raises:
            PipelineError: It was not started yet.
        """
        plan, progress = self.plan, self.progress()
        if plan is None:
            raise PipelineError("the replay was not started, so there is nothing to tell of it")
        totals = self._totals
        outcomes = {one.value: getattr(totals, one.value) for one in Outcome} if totals is not None else {}
        this_run = {one.value: count for one, count in self._stats.outcomes.items()}
        choice, tally = plan.choice, self._tally
        return ReplaySummary(
            choice.name, choice.group, choice.source, choice.table.stream, plan.first, plan.last, self._finished,
            progress.done, outcomes, this_run, tally.routes(), tally.unreadable, tally.unreadable_known,
            (self._ended or monotonic()) - self._began, self._left_jobs, self._stats.lost_to_retention,
        )  # fmt: skip

    # Life

    async def _start(self) -> None:
        """Start it.

        Raises:
            UserError: The request is wrong; another process reads an embedded broker; the schema needs
                ``pipeline migrate``.
            Unavailable: The broker or the database can't be reached.
        """
        self._began = monotonic()
        if self.plan is None:
            self.plan = await plan_replay(self.loaded, self.plugins, self.request)
        plan, parts, stack = self.plan, self._parts, self._stack
        self._finished = plan.is_over
        stack.push_async_callback(self._parts.database.close)
        if self._finished:
            self._tasks = [asyncio.create_task(self._read_totals(), name="look at the replay")]
            return
        await parts.connector.claim()
        stack.push_async_callback(parts.connector.close)
        await parts.open_resources(stack, parts.needs_of(plan.choice.stages))
        broker = StreamBroker(parts.connector, middlewares=self._middlewares, logger=None)
        await broker.connect()
        stack.push_async_callback(broker.stop)
        row = await Replays(parts.database).begin(plan.row(self.config.pipeline.name))
        self.plan = replace(plan, first=row.first, last=row.last)  # as it stands, where another process was faster
        self._supervisor = await self._supervise(row, broker)
        self._tasks = [asyncio.create_task(self._run(row, self._supervisor), name=f"replay {row.name}")]

    async def _supervise(self, row: ReplayRow, broker: StreamBroker) -> ReplaySupervisor:
        assert self.plan is not None  # noqa: S101 - for the type checker
        choice, parts = self.plan.choice, self._parts
        stages = await parts.start_stages(self._stack, choice.stages)
        router = Router(choice.routes)
        self._stats.source = choice.source
        known = await Replays(parts.database).unreadable(choice.live_group, row)
        self._tally = Tally(known, is_part=choice.is_part)
        shared = Shared(
            owner_id(), broker, parts.connector, Ledger(parts.database, parts.copies()), False, router, parts.resources,
            self.config.pipeline.name, self._note_jobs, queue_limits=parts.queue_limits(),
        )  # fmt: skip

        def counts(message: Message) -> bool:
            key = message.routing_key
            return key is None or bool(router.routes_for(choice.source, key))

        return ReplaySupervisor(
            choice.source, choice.table, stages, shared, self._stats, row, Pace(self._rate, counts), self._tally
        )

    async def _run(self, row: ReplayRow, supervisor: ReplaySupervisor) -> None:
        try:
            await supervisor.run()
            if supervisor.completed:
                await Replays(self._parts.database).finish(row.group, row.stream)
                self._finished = True
        finally:
            self._ended = monotonic()
            await self._read_totals()

    async def _end(self) -> None:
        if self._supervisor is not None:
            self._supervisor.stop(self.config.pipeline.grace)
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._ended = self._ended or monotonic()

    async def _read_totals(self) -> None:
        """What stands in the ledger, of all runs of this replay."""
        assert self.plan is not None  # noqa: S101 - for the type checker
        choice = self.plan.choice
        try:
            self._totals = await Replays(self._parts.database).progress(choice.group, choice.table.stream)
        except PipelineError as error:
            _log.warning("what the replay has done so far is not known: %s", error)

    def _note_jobs(self) -> None:
        self._left_jobs = True
