"""The parts that a runner and a worker share: broker, database, resources, stages, and the jobs of these stages."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from pipeline.config.load import Loaded, load, peek
from pipeline.config.models import STAGES
from pipeline.connections import Probe
from pipeline.errors import PipelineError, Unavailable
from pipeline.handlers import Handler
from pipeline.jobs.contract import INLINE
from pipeline.jobs.executor import JobRunner
from pipeline.jobs.figures import jobs_by_stage
from pipeline.jobs.service import JobService, JobSettings
from pipeline.jobs.stage_jobs import StageJobs
from pipeline.ledger.copies import Copies
from pipeline.ledger.database import Database
from pipeline.ledger.migrations import prepare
from pipeline.plugins import Plugins, load_plugins
from pipeline.policies.circuit import Circuits
from pipeline.resources import Resource
from pipeline.stages import Stage

__all__ = ["Parts", "load_with_plugins"]

_PROBE_SECONDS = 10.0
_log = logging.getLogger("pipeline.runner")


def load_with_plugins(path: str | Path, environ: Mapping[str, str] | None) -> tuple[Loaded, Plugins]:
    """A checked configuration, and the plugins it was checked with.

    Raises:
        ConfigError: The file is wrong; it carries every problem at once.
        PluginError: A plugin can't be used.
    """
    path = Path(path)
    variables = os.environ if environ is None else environ
    local = [path.parent / handlers for handlers in peek(path, variables).handlers]
    plugins = load_plugins(local).require_sound()
    return load(path, variables, plugins.catalog()), plugins


class Parts:
    """What a configuration describes, made as it is needed. Created without I/O.

    Args:
        loaded: The checked configuration.
        plugins: The loaded plugins.

    Attributes:
        connector: The connector to the broker.
        database: The database.
        resources: The opened resources by name.
    """

    def __init__(self, loaded: Loaded, plugins: Plugins) -> None:
        self.loaded = loaded
        self.config = loaded.config
        self._plugins = plugins
        self.connector = loaded.connector(loaded.config.broker.url or "")
        self.database = Database(loaded.config.database.url or "")
        self.resources: dict[str, Resource[Any]] = {}
        self._job_stages: list[str] | None = None
        self._circuits = Circuits()

    async def prepare_database(self) -> None:
        """Migrate a SQLite file; look whether a PostgreSQL database is migrated, where it answers.

        Raises:
            UserError: It is not.
        """
        try:
            for revision in await prepare(self.database, self._plugins.branches(), self.loaded.path):
                _log.info("database %s: migrated to %s", self.database.location, revision)
        except Unavailable as error:
            if self.database.dialect == "sqlite":
                raise
            # What needs it waits for it; where it then lacks something, that is said, and the migration waited for.
            _log.warning("%s; starting without a look at its schema", error)

    async def open_resources(self, stack: AsyncExitStack, names: Iterable[str]) -> None:
        """Start these resources; the stack stops them."""
        for name in names:
            resource = self.loaded.resource(name)(self.loaded.resource_options(name))
            stack.push_async_callback(resource.stop)
            await resource.start()
            self.resources[name] = resource

    async def look_at_resources(self) -> None:
        """Warn of a resource that does not answer at the start; what needs it will wait."""

        async def look(name: str, resource: Resource[Any]) -> None:
            try:
                async with asyncio.timeout(_PROBE_SECONDS):
                    await resource.probe()
            except (PipelineError, TimeoutError) as error:
                reason = str(error) or f"no answer within {_PROBE_SECONDS:g} s"
                _log.warning("resource %s: %s; events that need it will wait", name, reason)

        await asyncio.gather(*(look(name, resource) for name, resource in self.resources.items()))

    def probes(self, jobs: JobService, *, broker: bool) -> dict[str, Probe]:
        """What asks each system that is depended on whether it answers, by the dependency's name.

        Args:
            jobs: Knows the queue.
            broker: Whether the broker is one of them.
        """
        found: dict[str, Probe] = {name: resource.probe for name, resource in self.resources.items()}
        if broker:
            found["broker"] = self.connector.probe
        found["database"] = self.database.probe
        if (queue := jobs.shared_queue) is not None:
            found["queue"] = queue.probe
        return found

    def creates_streams(self) -> bool:
        """Whether streams that are missing are created."""
        wanted = self.config.broker.create_streams
        return self.connector.creates_streams if wanted is None else wanted

    def copies(self) -> Copies | None:
        """What leaves copies of dead letters for other streams; None where no source wants any."""
        streams = {name: table.dead_letter_stream for name, table in self.config.source.items()}
        wanted = {name: stream for name, stream in streams.items() if stream is not None}
        return Copies(self.config.pipeline.name, wanted) if wanted else None

    def queue_limits(self) -> dict[str, dict[str, int]]:
        """How many jobs may wait on the queues that a stage leaves jobs on, by the stage and the queue."""
        limits = {name: table.max_waiting for name, table in self.loaded.queues.items() if table.max_waiting}
        used = {stage: self.loaded.queues_of(stage) for stage in self.stages_of()}
        return {stage: {queue: limits[queue] for queue in queues if queue in limits} for stage, queues in used.items()}

    # Stages

    def stages_of(self, source: str | None = None) -> list[str]:
        """The stages that routes name, of one source or of all, in the routes' order."""
        routes = [route for route in self.config.route if source is None or route.source == source]
        return list(dict.fromkeys(name for route in routes for name in (*route.stages, *route.finally_)))

    def has_jobs(self, stage: str, *, inline: bool) -> bool:
        """Whether anything of a stage may run as a job here: it is async, or its handler leaves jobs or can run them.

        A handler that names its queues leaves jobs on no others but `INLINE`, which only a runner (`inline`) serves.
        """
        queues = {*self.loaded.queues_of(stage)} - (set() if inline else {INLINE})
        handler = self.loaded.handler(stage)
        names_queues = handler.queues.__func__ is not Handler.queues.__func__  # type: ignore[attr-defined]
        return bool(queues) or (handler.run_jobs is not Handler.run_jobs and (inline or not names_queues))

    async def job_stages(self, *, inline: bool) -> list[str]:
        """The stages whose jobs are run: those that may leave some, and those of which some are left from before."""
        if self._job_stages is None:
            self._job_stages = [name for name in self.stages_of() if self.has_jobs(name, inline=inline)]
            try:
                left = await jobs_by_stage(self.database, self.config.pipeline.name)
            except PipelineError as error:
                _log.debug("jobs that are left from before were not looked for: %s", error)
                left = {}
            for name, (count, queues) in left.items():
                if not inline and {*queues} == {INLINE}:
                    continue
                if name not in self.config.stage:
                    _log.warning(
                        "%d jobs on %s wait for the stage %s, which is not configured: 'pipeline queues' shows them",
                        count, ", ".join(queues), name,
                    )  # fmt: skip
                elif name not in self._job_stages:
                    _log.warning(
                        "stage %s leaves no jobs any more; %d from before, on %s, are run all the same",
                        name, count, ", ".join(queues),
                    )  # fmt: skip
                    self._job_stages.append(name)
        return self._job_stages

    def needs_of(self, stages: Iterable[str]) -> list[str]:
        """The names of the resources that these stages need, of those that are configured."""
        needed = {name for stage in stages for name in self.loaded.handler(stage).needs(self.loaded.options(stage))}
        return [name for name in self.loaded.resources if name in needed]

    async def start_stages(self, stack: AsyncExitStack, names: Iterable[str]) -> dict[str, Stage]:
        """A new instance of each of these stages, started; the stack stops them."""
        stages: dict[str, Stage] = {}
        for name in names:
            handler = self.loaded.handler(name)(self.loaded.options(name))
            table = self.config.stage[name]
            stage = Stage(
                name, handler, self.loaded.policy(name), self.loaded.when(name),
                is_async=table.is_async, queue=table.async_queue or STAGES, circuits=self._circuits,
            )  # fmt: skip
            stack.push_async_callback(stage.stop)
            await stage.start(
                self.config.pipeline.name, self.resources, database=self.database,
                extensions=self.loaded.catalog.extensions, use_queue=self.loaded.use_queue,
            )  # fmt: skip
            stages[name] = stage
        return stages

    # Jobs

    async def job_service(self, stack: AsyncExitStack, *, inline: bool, serve: Sequence[str] | None) -> JobService:
        """Who has the jobs run, not started yet, with a new instance of each stage that has jobs.

        Args:
            stack: Stops these instances.
            inline: Whether it runs the jobs of `INLINE`.
            serve: The queues that it serves; None for all.
        """
        jobs = self.config.jobs
        names = await self.job_stages(inline=inline)
        settings = JobSettings(
            pipeline=self.config.pipeline.name, queues=self.loaded.queues, default=jobs,
            use_queue=self.loaded.use_queue, url=jobs.url, prefix=jobs.prefix,
            inline=inline, serve=serve, create_streams=self.creates_streams(),
        )  # fmt: skip
        stages = await self.start_stages(stack, names)
        runners: dict[str, JobRunner] = {}
        for name, stage in stages.items():
            runners[name] = jobs_of_stage = StageJobs(
                stage, self.database, self.resources, self.config.pipeline.name, self.copies()
            )
            stack.callback(jobs_of_stage.close)
        return JobService(self.database, self.connector, runners, settings)
