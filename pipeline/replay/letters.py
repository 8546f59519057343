"""Redrives of replays' dead letters: a runner carries them out where no process runs the replay itself."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Final

from pipeline.config.models import PipelineConfig, SourceTable
from pipeline.dispatch.source import Source
from pipeline.errors import Unavailable
from pipeline.ledger.database import Database, DatabaseRefused
from pipeline.ledger.lease import Lease
from pipeline.ledger.replay_table import ReplayRow
from pipeline.ledger.replays import Replays
from pipeline.replay.request import replay_table, routes_again
from pipeline.routing import Router
from pipeline.stages import Stage
from pipeline.stats import SourceStats
from pipeline.supervisor import Reader, Shared, SourceSupervisor, or_stop
from pipeline.upkeep import Upkeep

__all__ = ["ReplaysRedrives"]

_LOOK_SECONDS: Final = 1.0
_AT_ONCE: Final = 4
"""How many replays are redriven at once: each holds dead letters in memory, and shares the database's connections."""
_LAST_GRACE: Final = 5.0
"""Seconds for what is left when all is done: nothing."""
_REST_SECONDS: Final = 30.0
"""How long redrives of a replay rest that failed in a way that nobody foresaw."""
_log = logging.getLogger("pipeline.redrive")


class ReplaysRedrives:
    """Runs dead letters of replays again: with the routes and stages of their replay, and under its group.

    So their request ids are those that they had in the replay. A process that runs the replay does so itself.

    Args:
        config: The pipeline.
        database: Where replays and dead letters are.
        shared: What all sources of the runner use.
        stages: The started stages of each source, by its name.
    """

    def __init__(
        self,
        config: PipelineConfig,
        database: Database,
        shared: Shared,
        stages: Mapping[str, Mapping[str, Stage]],
    ) -> None:
        self._config = config
        self._replays = Replays(database)
        self._shared = shared
        self._stages = stages
        self._stop = asyncio.Event()
        self._homeless: set[tuple[str, str]] = set()
        self._running: dict[tuple[str, str], tuple[_Redriving, asyncio.Task[None]]] = {}

    async def run(self) -> None:
        """Carry them out until `stop`."""
        try:
            while not self._stop.is_set():
                await self._look()
                await self._stopped_within(_LOOK_SECONDS)
        finally:
            await asyncio.gather(*(task for _, task in self._running.values()))

    def stop(self, grace: float) -> None:
        """Ask `run` to end; what has begun has `grace` seconds to finish."""
        self._stop.set()
        for redriving, _ in self._running.values():
            redriving.stop(grace)

    async def _look(self) -> None:
        """Begin what is asked for; a stop does not wait for a database that is silent."""
        try:
            asked = await or_stop(self._replays.asked(self._shared.pipeline), self._stop)
            if not self._stop.is_set():
                for row in asked:
                    self._begin(row)
        except (Unavailable, DatabaseRefused) as error:
            _log.debug("redrives of replays were not looked for: %s", error)
        except Exception:  # noqa: BLE001 - whatever it is, what is live must not end because of it
            _log.exception("redrives of replays could not be looked for")

    def _begin(self, row: ReplayRow) -> None:
        place = (row.group, row.stream)
        if place in self._running or len(self._running) >= _AT_ONCE:
            return
        found = self._source_of(row)
        if found is None:
            if place not in self._homeless:
                self._homeless.add(place)
                _log.warning(
                    "replay %s: dead letters of it are to be run again, but no source reads %s for it any more; "
                    "discard them by their ids, or bring the source back", row.name, row.stream,
                )  # fmt: skip
            return
        name, own = found
        shared = replace(self._shared, router=Router(routes_again(self._config, name, row.asked)))
        redriving = _Redriving(name, own, self._stages[name], shared, SourceStats(name), row, self._replays)
        task = asyncio.create_task(self._carry_out(redriving), name=f"redrives of the replay {row.name}")
        self._running[place] = redriving, task
        task.add_done_callback(lambda _: self._running.pop(place, None))

    def _source_of(self, row: ReplayRow) -> tuple[str, SourceTable] | None:
        """The source whose replay it is, whatever it is called now, and the table that it has as one."""
        for name, table in self._config.source.items():
            own = replay_table(table, row.name)
            if (own.group, own.stream) == (row.group, row.stream):
                return name, own
        return None

    async def _carry_out(self, redriving: _Redriving) -> None:
        try:
            await redriving.run()
        except Exception:  # noqa: BLE001 - whatever it is, what is live must not end because of it
            _log.exception("redrives of the replay %s failed; they are tried again", redriving.replay.name)
            await self._stopped_within(_REST_SECONDS)

    async def _stopped_within(self, seconds: float) -> None:
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._stop.wait()


class _Redriving(SourceSupervisor):
    """Owns a replay for as long as dead letters of it are to be run again; reads no stream."""

    def __init__(
        self,
        name: str,
        table: SourceTable,
        stages: Mapping[str, Stage],
        shared: Shared,
        stats: SourceStats,
        replay: ReplayRow,
        replays: Replays,
    ) -> None:
        super().__init__(name, table, stages, shared, stats)
        self.replay = replay
        self._replays = replays

    # What differs from a source

    async def _acquire(self) -> Lease:
        lease = await super()._acquire()
        lease.incarnation = self.replay.incarnation
        return lease

    async def _own(self, lease: Lease) -> None:
        await super()._own(lease)
        self.stop(0.0)  # where more is asked for, it is owned anew

    def _make_reader(self, lease: Lease, source: Source, end: Callable[[BaseException | None], None]) -> Reader:
        _log.info("replay %s: its dead letters are run again", self.replay.name)
        return _Watch(self._all_done, lambda: self.stop(_LAST_GRACE), end)

    async def _all_done(self) -> bool:
        try:
            asked = await self._replays.asked(self._shared.pipeline)
        except (Unavailable, DatabaseRefused):
            return False
        return all((row.group, row.stream) != (self.replay.group, self.replay.stream) for row in asked)

    def _make_upkeep(self, lease: Lease) -> Upkeep:
        shared = self._shared
        return Upkeep(self.name, self._table, lease, shared.connector, shared.ledger, self.stats, tells_broker=False)

    def _tell(self, state: str, reason: str = "") -> None:
        self.stats.state, self.stats.reason = state, reason


class _Watch:
    """Stands in a reader's place, and looks when all is done.

    Args:
        all_done: Whether it is.
        on_done: Called when it is.
        failed: Called where that can't be found out.
    """

    def __init__(
        self,
        all_done: Callable[[], Awaitable[bool]],
        on_done: Callable[[], None],
        failed: Callable[[BaseException | None], None],
    ) -> None:
        self._all_done = all_done
        self._on_done = on_done
        self._failed = failed
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to look."""
        self._task = asyncio.create_task(self._look(), name="look for redrives")

    async def stop(self) -> None:
        """Look no more."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _look(self) -> None:
        try:
            while not await self._all_done():  # noqa: ASYNC110 - it stands in a database
                await asyncio.sleep(_LOOK_SECONDS)
        except Exception as error:  # noqa: BLE001 - else nobody would notice
            self._failed(error)
        else:
            self._on_done()
