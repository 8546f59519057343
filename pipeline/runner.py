"""The runner: a whole pipeline, from its file to its running sources; what programs embed."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import Any

from pipeline.config.load import Loaded, load, peek
from pipeline.errors import PipelineError, Unavailable, UserError
from pipeline.heartbeat import beat
from pipeline.ledger.database import Database
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.migrations import migrate, pending
from pipeline.ledger.owner import owner_id
from pipeline.plugins import Plugins, load_plugins
from pipeline.resources import Resource
from pipeline.routing import Router
from pipeline.stages import Stage
from pipeline.stats import InstanceStats, SourceStats
from pipeline.streams.broker import StreamBroker
from pipeline.supervisor import Shared, SourceSupervisor

__all__ = ["Pipeline"]

_PROBE_SECONDS = 10.0
_log = logging.getLogger("pipeline.runner")


class Pipeline:
    """A pipeline that can be started and stopped, once.

    ``async with Pipeline.from_file("pipeline.toml"):`` runs it beside whatever else the program does; `lifespan` does
    so for a FastAPI or Starlette app; `run` waits until it is told to stop.

    Args:
        loaded: The checked configuration.
        plugins: The loaded plugins.
        middlewares: FastStream middlewares; each sees a batch as one message, from decoding to admission.
    """

    def __init__(self, loaded: Loaded, plugins: Plugins, *, middlewares: Sequence[Any] = ()) -> None:
        self.loaded = loaded
        self.config = loaded.config
        self.plugins = plugins
        self._middlewares = middlewares
        self.connector = loaded.connector(self._broker_url())
        self.database = Database(self._database_url())
        self.resources: dict[str, Resource[Any]] = {}
        self._stats = {name: SourceStats(name) for name in self.config.source}
        self._supervisors: list[SourceSupervisor] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._heart: asyncio.Task[None] | None = None
        self._look: asyncio.Task[None] | None = None
        self._stack = AsyncExitStack()
        self._stopping = asyncio.Event()
        self._starting = asyncio.Lock()
        self._running = False
        self._stop_task: asyncio.Task[None] | None = None

    @classmethod
    def from_file(
        cls,
        path: str | Path = "pipeline.toml",
        *,
        environ: Mapping[str, str] | None = None,
        middlewares: Sequence[Any] = (),
    ) -> Pipeline:
        """The pipeline that a file describes.

        Args:
            path: The file.
            environ: Variables in place of the process's own.
            middlewares: FastStream middlewares, such as those of `pipeline.streams.prometheus`.

        Raises:
            ConfigError: The file is wrong; it carries every problem at once.
            PluginError: A plugin can't be used.
        """
        path = Path(path)
        variables = os.environ if environ is None else environ
        local = [path.parent / handlers for handlers in peek(path, variables).handlers]
        plugins = load_plugins(local).require_sound()
        return cls(load(path, variables, plugins.catalog()), plugins, middlewares=middlewares)

    # Life

    @property
    def is_running(self) -> bool:
        """Whether it is started, and not stopped yet."""
        return self._running

    def stats(self) -> InstanceStats:
        """What it did since it started."""
        for supervisor in self._supervisors:
            supervisor.refresh()
        return InstanceStats.of(self._stats, running=self._running)

    async def start(self) -> None:
        """Start every source; returns when they are on their way, and does not wait for brokers or databases.

        Raises:
            UserError: Something that no waiting can mend: a second runner on an embedded broker, a schema that needs
                ``pipeline migrate``.
        """
        if self._running or self._stopping.is_set():
            raise PipelineError("a Pipeline is started once: make a new one to start again")
        async with self._starting:
            try:
                await self._start()
            except BaseException:
                await self._stack.aclose()
                raise
            self._running = True

    async def _start(self) -> None:
        await self.connector.claim()
        self._stack.push_async_callback(self.connector.close)
        self._stack.push_async_callback(self.database.close)
        await self._prepare_database()
        await self._open_resources()
        # Without a logger, as FastStream would log the cancellation at a stop as an error.
        broker = StreamBroker(self.connector, middlewares=self._middlewares, logger=None)
        await broker.connect()
        self._stack.push_async_callback(broker.stop)
        router = Router(self.config.route)
        ledger = Ledger(self.database)
        shared = Shared(owner_id(), broker, self.connector, ledger, self._creates_streams(), router, self.resources)
        for name, table in self.config.source.items():
            if shared.create_streams:
                await self._create_stream(table.stream)
            stages = await self._start_stages(name)
            self._supervisors.append(SourceSupervisor(name, table, stages, shared, self._stats[name]))
        self._tasks = [
            asyncio.create_task(supervisor.run(), name=f"source {supervisor.name}") for supervisor in self._supervisors
        ]
        self._heart = asyncio.create_task(beat(self.database, self.config.pipeline.name, self.stats), name="heartbeat")
        self._look = asyncio.create_task(self._look_at_resources(), name="look at the resources")

    async def wait(self) -> None:
        """Return when it is stopped; a source that fails for good ends it, and its error is raised here."""
        stopped = asyncio.create_task(self._stopping.wait())
        try:
            await asyncio.wait([stopped, *self._tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            stopped.cancel()
            await self.stop()
        errors = [error for task in self._tasks if not task.cancelled() and (error := task.exception())]
        if errors:
            raise errors[0]

    async def run(self) -> None:
        """Start, run until SIGTERM or SIGINT, and stop in good order.

        Raises:
            UserError: As `start`; or a source's broker said no.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._stopping.set)
        try:
            await self.start()
            await self.wait()
        finally:
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)

    async def stop(self) -> None:
        """Stop: what is in flight finishes within the grace period, progress is committed, everything is let go."""
        if self._stop_task is None:
            self._stop_task = asyncio.create_task(self._stop())
        await asyncio.shield(self._stop_task)

    async def _stop(self) -> None:
        self._stopping.set()
        async with self._starting:  # a start that is under way comes to its end first
            pass
        try:
            for supervisor in self._supervisors:
                supervisor.stop(self.config.pipeline.grace)
            await asyncio.gather(*self._tasks, return_exceptions=True)
            aside = [task for task in (self._heart, self._look) if task is not None]
            for task in aside:
                task.cancel()
            await asyncio.gather(*aside, return_exceptions=True)
            await self._stack.aclose()
        finally:
            self._running = False

    async def __aenter__(self) -> Pipeline:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def lifespan(self) -> Callable[[Any], Any]:
        """A lifespan for FastAPI or Starlette: ``FastAPI(lifespan=pipeline.lifespan())``."""

        @asynccontextmanager
        async def lifespan(app: Any) -> AsyncIterator[dict[str, Any]]:
            async with self:
                yield {"pipeline": self}

        return lifespan

    # Parts

    def _broker_url(self) -> str:
        url = self.config.broker.url
        assert url is not None  # noqa: S101 - loading with a catalog fills it in
        return url

    def _database_url(self) -> str:
        url = self.config.database.url
        assert url is not None  # noqa: S101 - loading with a catalog fills it in
        return url

    async def _prepare_database(self) -> None:
        branches = self.plugins.branches()
        if self.database.dialect == "sqlite":
            for revision in await migrate(self.database, branches):
                _log.info("database %s: migrated to %s", self.database.location, revision)
            return
        try:
            missing = await pending(self.database, branches)
        except Unavailable as error:
            # Its sources wait for it; where it then lacks something, they say so, and wait for the migration.
            _log.warning("%s; starting without a look at its schema", error)
            return
        if missing:
            raise UserError(
                f"the database {self.database.location} lacks {', '.join(missing)}: "
                f"run 'pipeline migrate {self.loaded.path}' first"
            )

    async def _look_at_resources(self) -> None:
        """Warn of a resource that does not answer at the start; its events will wait for it."""

        async def look(name: str, resource: Resource[Any]) -> None:
            try:
                async with asyncio.timeout(_PROBE_SECONDS):
                    await resource.probe()
            except (PipelineError, TimeoutError) as error:
                reason = str(error) or f"no answer within {_PROBE_SECONDS:g} s"
                _log.warning("resource %s: %s; events that need it will wait", name, reason)

        await asyncio.gather(*(look(name, resource) for name, resource in self.resources.items()))

    async def _open_resources(self) -> None:
        for name in self.loaded.resources:
            resource = self.loaded.resource(name)(self.loaded.resource_options(name))
            self._stack.push_async_callback(resource.stop)
            await resource.start()
            self.resources[name] = resource

    def _creates_streams(self) -> bool:
        wanted = self.config.broker.create_streams
        return self.connector.creates_streams if wanted is None else wanted

    async def _create_stream(self, stream: str) -> None:
        """Create it now, so that others can publish once this is started; its source sees to it where this fails."""
        try:
            await self.connector.create_stream(stream)
        except Unavailable as error:
            _log.warning("%s; the stream %s is created when it is back", error, stream)

    async def _start_stages(self, source: str) -> dict[str, Stage]:
        """One instance of each stage that the source's routes name."""
        names = [
            name for route in self.config.route if route.source == source for name in (*route.stages, *route.finally_)
        ]
        stages: dict[str, Stage] = {}
        for name in dict.fromkeys(names):
            handler = self.loaded.handler(name)(self.loaded.options(name))
            table = self.config.stage[name]
            stage = Stage(name, handler, self.loaded.policy(name), self.loaded.when(name), is_async=table.is_async)
            self._stack.push_async_callback(stage.stop)
            await stage.start(self.config.pipeline.name, self.resources)
            stages[name] = stage
        return stages
