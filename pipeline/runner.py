"""The runner: a whole pipeline, from its file to its running sources; what programs embed."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.load import Loaded
from pipeline.errors import Unavailable, UserError
from pipeline.jobs.contract import INLINE
from pipeline.jobs.service import JobService
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.owner import owner_id
from pipeline.life import Life
from pipeline.parts import Parts, load_with_plugins
from pipeline.plugins import Plugins
from pipeline.replay.letters import ReplaysRedrives
from pipeline.resources import Resource
from pipeline.routing import Router
from pipeline.stages import Stage
from pipeline.stats import InstanceStats, SourceStats
from pipeline.streams.broker import StreamBroker
from pipeline.supervisor import Shared, SourceSupervisor
from pipeline.watch import Watch

__all__ = ["Pipeline"]

_log = logging.getLogger("pipeline.runner")


class Pipeline(Life):
    """A pipeline that can be started and stopped, once.

    ``async with Pipeline.from_file("pipeline.toml"):`` runs it beside whatever else the program does; `lifespan` does
    so for a FastAPI or Starlette app; `run` waits until it is told to stop.

    Args:
        loaded: The checked configuration.
        plugins: The loaded plugins.
        middlewares: FastStream middlewares; each sees a batch as one message, from decoding to admission.
        worker: Whether it runs jobs, too; where False, only those that no other process could run.
    """

    state_name = "pipeline"

    def __init__(
        self, loaded: Loaded, plugins: Plugins, *, middlewares: Sequence[Any] = (), worker: bool = True
    ) -> None:
        super().__init__()
        self.loaded = loaded
        self.config = loaded.config
        self.plugins = plugins
        self.worker = worker
        self.jobs: JobService | None = None
        self._middlewares = middlewares
        self._parts = Parts(loaded, plugins)
        self.connector = self._parts.connector
        self.database = self._parts.database
        self._stats = {name: SourceStats(name) for name in self.config.source}
        self._supervisors: list[SourceSupervisor] = []
        self._redrives: ReplaysRedrives | None = None
        self._watch = Watch(self.database, self.config.pipeline)

    @classmethod
    def from_file(
        cls,
        path: str | Path = "pipeline.toml",
        *,
        environ: Mapping[str, str] | None = None,
        middlewares: Sequence[Any] = (),
        worker: bool = True,
    ) -> Pipeline:
        """The pipeline that a file describes.

        Args:
            path: The file.
            environ: Variables in place of the process's own.
            middlewares: FastStream middlewares, such as those of `pipeline.streams.prometheus`.
            worker: As for `Pipeline`.

        Raises:
            ConfigError: The file is wrong; it carries every problem at once.
            PluginError: A plugin can't be used.
        """
        return cls(*load_with_plugins(path, environ), middlewares=middlewares, worker=worker)

    @property
    def resources(self) -> dict[str, Resource[Any]]:
        """The opened resources by name."""
        return self._parts.resources

    def stats(self) -> InstanceStats:
        """What it did since it started."""
        for supervisor in self._supervisors:
            supervisor.refresh()
        return InstanceStats.of(
            self._stats, running=self._running, connections=self._watch.connections,
            jobs_in_flight=self.jobs.in_flight if self.jobs else 0,
            longest_block=self._watch.longest_block,
        )  # fmt: skip

    async def _start(self) -> None:
        """Start every source.

        Raises:
            UserError: Something that no waiting can mend: a second runner on an embedded broker, a schema that needs
                ``pipeline migrate``, a Redis that refuses the login, jobs that nobody could ever run.
        """
        self._refuse_idle_queue()
        parts, stack = self._parts, self._stack
        await self.connector.claim()
        stack.push_async_callback(self.connector.close)
        stack.push_async_callback(self.database.close)
        await parts.prepare_database()
        await parts.open_resources(stack, self.loaded.resources)
        # Without a logger, as FastStream would log the cancellation at a stop as an error.
        broker = StreamBroker(self.connector, middlewares=self._middlewares, logger=None)
        await broker.connect()
        stack.push_async_callback(broker.stop)
        jobs = await parts.job_service(stack, inline=True, serve=None if self.worker else ())
        shared = Shared(
            owner_id(), broker, self.connector, Ledger(self.database, parts.copies()), parts.creates_streams(),
            Router(self.config.route), self.resources, self.config.pipeline.name,
            jobs.wake, jobs.clock.now, parts.queue_limits(),
        )  # fmt: skip
        started: dict[str, dict[str, Stage]] = {}
        for name, table in self.config.source.items():
            if shared.create_streams:
                await self._create_stream(table.stream)
            stages = await parts.start_stages(stack, parts.stages_of(name))
            self._supervisors.append(SourceSupervisor(name, table, stages, shared, self._stats[name]))
            started[name] = stages
        self._redrives = ReplaysRedrives(self.config, self.database, shared, started)
        stack.push_async_callback(jobs.stop, 0.0)
        await jobs.start()
        self.jobs = jobs
        self._tasks = [
            asyncio.create_task(supervisor.run(), name=f"source {supervisor.name}") for supervisor in self._supervisors
        ]
        self._tasks.append(asyncio.create_task(self._redrives.run(), name="redrives of replays"))
        self._aside = [
            *self._watch.start(self.stats, parts.probes(jobs, broker=True)),
            asyncio.create_task(parts.look_at_resources(), name="look at the resources"),
        ]

    async def _end(self) -> None:
        grace = self.config.pipeline.grace
        for supervisor in self._supervisors:
            supervisor.stop(grace)
        if self._redrives is not None:
            self._redrives.stop(grace)
        jobs = [self.jobs.stop(grace)] if self.jobs is not None else []
        await asyncio.gather(*self._tasks, *jobs, return_exceptions=True)
        for task in self._aside:
            task.cancel()
        await asyncio.gather(*self._aside, return_exceptions=True)

    def _refuse_idle_queue(self) -> None:
        queues = [name for name in self.loaded.queues if name != INLINE]
        if not self.worker and self.loaded.use_queue and self.config.jobs.url is None and queues:
            raise UserError(
                f"the queue of jobs is in this process, so without a worker here nobody would run those of "
                f"{', '.join(queues)}: set REDIS_URL (or 'url' in [jobs]), or leave out --no-worker"
            )

    async def _create_stream(self, stream: str) -> None:
        """Create it now, so that others can publish once this is started; its source sees to it where this fails."""
        try:
            await self.connector.create_stream(stream)
        except Unavailable as error:
            _log.warning("%s; the stream %s is created when it is back", error, stream)
