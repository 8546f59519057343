"""The worker: runs the jobs that runners and other workers leave on queues; may be started many times over."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.config.load import Loaded
from pipeline.config.problems import near
from pipeline.errors import UserError
from pipeline.jobs.contract import INLINE
from pipeline.jobs.service import JobService
from pipeline.life import Life
from pipeline.parts import Parts, load_with_plugins
from pipeline.plugins import Plugins
from pipeline.resources import Resource
from pipeline.stats import InstanceStats
from pipeline.watch import Watch

__all__ = ["Worker"]


class Worker(Life):
    """A worker that can be started and stopped, once: ``async with Worker.from_file("pipeline.toml"): …``, or `run`.

    It starts those stages only that have jobs, and opens what these need; to the broker it connects when there is
    something to publish.

    Args:
        loaded: The checked configuration.
        plugins: The loaded plugins.
        queues: The queues to serve; None for all.

    Raises:
        UserError: There is no queue that a worker could serve, or none of this name.
    """

    state_name = "worker"

    def __init__(self, loaded: Loaded, plugins: Plugins, *, queues: Sequence[str] | None = None) -> None:
        super().__init__()
        _refuse(loaded, queues or ())
        self.loaded = loaded
        self.config = loaded.config
        self.plugins = plugins
        self.queues = tuple(dict.fromkeys(queues)) if queues else None
        self.jobs: JobService | None = None
        self._parts = Parts(loaded, plugins)
        self.database = self._parts.database
        self._watch = Watch(self.database, self.config.pipeline)

    @classmethod
    def from_file(
        cls,
        path: str | Path = "pipeline.toml",
        *,
        queues: Sequence[str] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Worker:
        """The worker for a pipeline's file.

        Args:
            path: The file.
            queues: The queues to serve; None for all.
            environ: Variables in place of the process's own.

        Raises:
            ConfigError: The file is wrong; it carries every problem at once.
            PluginError: A plugin can't be used.
            UserError: As for `Worker`.
        """
        return cls(*load_with_plugins(path, environ), queues=queues)

    @property
    def resources(self) -> dict[str, Resource[Any]]:
        """The opened resources by name."""
        return self._parts.resources

    @property
    def in_flight(self) -> int:
        """How many jobs it is at."""
        return 0 if self.jobs is None else self.jobs.in_flight

    def stats(self) -> InstanceStats:
        """How it is, and how many jobs it is at; it has no sources."""
        return InstanceStats.of(
            {}, running=self._running, kind="worker", connections=self._watch.connections,
            jobs_in_flight=self.in_flight, longest_block=self._watch.longest_block,
        )  # fmt: skip

    async def _start(self) -> None:
        parts, stack = self._parts, self._stack
        stack.push_async_callback(parts.connector.close)
        stack.push_async_callback(self.database.close)
        await parts.prepare_database()
        await parts.open_resources(stack, parts.needs_of(await parts.job_stages(inline=False)))
        jobs = await parts.job_service(stack, inline=False, serve=self.queues)
        stack.push_async_callback(jobs.stop, 0.0)
        await jobs.start()
        self.jobs = jobs
        self._aside = [
            *self._watch.start(self.stats, parts.probes(jobs, broker=False)),
            asyncio.create_task(parts.look_at_resources(), name="look at the resources"),
        ]

    async def _end(self) -> None:
        if self.jobs is not None:
            await self.jobs.stop(self.config.pipeline.grace)
        for task in self._aside:
            task.cancel()
        await asyncio.gather(*self._aside, return_exceptions=True)


def _refuse(loaded: Loaded, queues: Sequence[str]) -> None:
    if loaded.config.jobs.url is None:
        where = "a queue within the runner's own process" if loaded.use_queue else "no queue"
        raise UserError(
            f"{loaded.path} has {where}, which no other process can serve: 'pipeline run' runs its jobs; for workers "
            "set REDIS_URL, or 'url' in [jobs]"
        )
    known = [name for name in loaded.queues if name != INLINE]
    for name in queues:
        if name not in known:
            raise UserError(f"there is no queue {name!r}{near(name, known)}")
