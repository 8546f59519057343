"""The supervisor of a replay: a source's, for a range of its stream, and for one process at a time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import NoReturn

from pipeline.config.models import SourceTable
from pipeline.connectors import Connector, Message, MessageBatch, Start, StreamBounds
from pipeline.dispatch.resume import Resume
from pipeline.dispatch.source import Source
from pipeline.dispatch.window import Window
from pipeline.errors import UserError
from pipeline.ledger.lease import Lease, Leases, Standing, acquire
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.owner import is_gone
from pipeline.ledger.replay_table import ReplayRow
from pipeline.ledger.units import Progress, SourceKey
from pipeline.replay.pace import Pace
from pipeline.replay.tally import Tally
from pipeline.stages import Stage
from pipeline.stats import SourceStats
from pipeline.streams.follow import StreamState
from pipeline.supervisor import LEASE_SECONDS, Shared, SourceSupervisor
from pipeline.upkeep import Upkeep

__all__ = ["ReplaySupervisor", "acquire_alone"]

_POLL_SECONDS = 1.0
_LAST_GRACE = 5.0
"""Seconds for what is in flight where a replay ends by itself."""
_log = logging.getLogger("pipeline.replay")


class ReplaySupervisor(SourceSupervisor):
    """Runs one replay, until everything in its range has an outcome, or until `stop`.

    Args:
        name: The source's name.
        table: Its configuration, with the replay's group.
        stages: The started stages by name.
        shared: What all sources use.
        stats: The counters.
        replay: The range.
        pace: How fast.
        tally: Is told of the end of each route of each message, and of what can't be decoded.

    Attributes:
        lease: The lease, once it has one.
        completed: Whether everything in the range has an outcome.
    """

    part_of_queues = 0.5  # at the whole, a replay would keep a queue full, and pause the sources that live events have

    def __init__(
        self,
        name: str,
        table: SourceTable,
        stages: Mapping[str, Stage],
        shared: Shared,
        stats: SourceStats,
        replay: ReplayRow,
        pace: Pace,
        tally: Tally,
    ) -> None:
        super().__init__(name, table, stages, shared, stats)
        self.lease: Lease | None = None
        self.completed = False
        self._replay = replay
        self._pace = pace
        self._tally = tally
        self._gone = ""

    async def run(self) -> None:
        """Run the replay.

        Raises:
            BrokerRefused: The broker said no.
            UserError: Another process runs this replay, or its stream is not the one that it began on.
        """
        await super().run()
        if self._gone and not self.completed:
            raise UserError(f"{self._gone}: the replay can't go on")

    # What differs from a source

    async def _acquire(self) -> Lease:
        key = SourceKey(self.name, self._table.group, self._table.stream)
        lease = await acquire_alone(self._shared.ledger, key, self._shared.owner)
        # Events without an id of their own get one that is made of it: the same as the source's own group gave them.
        lease.incarnation = self._replay.incarnation
        self.lease = lease
        return lease

    def _make_source(self, lease: Lease, end: Callable[[BaseException | None], None]) -> Source:
        source = super()._make_source(lease, end)
        source.passage.on_route = self._tally.route_ended
        source.leaves_no_letter = self._tally.leaves_no_letter
        return source

    def _make_resume(self, lease: Lease, source: Source) -> Resume:
        return _RangeResume(
            self._shared.connector, self._shared.ledger, lease, source.window, self._table, self._replay,
            lambda: self._complete(source), self._lost_to_retention,
        )  # fmt: skip

    def _admission(self, source: Source) -> Callable[[MessageBatch], Awaitable[None]]:
        last, pace = self._replay.last, self._pace

        async def admit(batch: MessageBatch) -> None:
            over = batch[-1].offset >= last
            inside = [message for message in batch if message.offset <= last] if over else batch
            for piece, counted in pace.steps(inside):
                if piece:
                    await pace.wait(counted)
                    await source.admit(piece)
            if over:
                await self._complete(source)

        return admit

    def _make_upkeep(self, lease: Lease) -> Upkeep:
        shared = self._shared  # the broker is not told of this group, which nobody would ever remove there
        return Upkeep(self.name, self._table, lease, shared.connector, shared.ledger, self.stats, tells_broker=False)

    def _reader_state(self, state: StreamState) -> None:
        super()._reader_state(state)
        if state.status == "refused":  # a source waits until its stream is there again; its range is gone
            self._gone = state.reason
            self.stop(_LAST_GRACE)

    async def _complete(self, source: Source) -> NoReturn:
        """End the replay once everything that was taken in is committed; then wait to be cancelled."""
        await source.window.wait_idle()
        self.completed = True
        self.stop(_LAST_GRACE)
        while True:
            await asyncio.Event().wait()


class _RangeResume(Resume):
    """Where a replay begins to read; says so where nothing is left to be read."""

    def __init__(
        self,
        connector: Connector,
        ledger: Ledger,
        lease: Lease,
        window: Window,
        table: SourceTable,
        replay: ReplayRow,
        on_over: Callable[[], Awaitable[NoReturn]],
        on_lost: Callable[[int], None],
    ) -> None:
        super().__init__(connector, ledger, lease, window, table, on_lost)
        self._replay = replay
        self._on_over = on_over

    async def start(self) -> Start:
        """The position to read from now; never returns where the range holds nothing more.

        Raises:
            Unavailable: The broker can't be asked.
            UserError: The stream is not the one that the replay began on.
        """
        start = await super().start()
        replay = self._replay
        if start.at == "offset" and start.value > replay.last:
            await self._on_over()
        bounds = await self._connector.bounds(replay.stream)
        if bounds.first is None or bounds.first > replay.last:
            _log.warning("stream %s: the rest of the range was removed by retention", replay.stream)
            await self._on_over()
        return start

    def _lost_between(self, offset: int, first: int) -> int:
        return max(0, super()._lost_between(offset, min(first, self._replay.last + 1)))

    async def _first_start(self) -> Start:
        replay = self._replay
        bounds = await self._connector.bounds(replay.stream)
        if bounds.first is not None and bounds.first > replay.first:  # removed since it was planned
            self._tell_lost(replay.first - 1, bounds.first)
        return Start("offset", replay.first)

    async def _begin_anew(self, bounds: StreamBounds, offset: int, timestamp: int | None) -> NoReturn:
        # Where the stream has lost its end, what is left of the range lay there: it is beyond the progress.
        await self._new_incarnation(Progress())

    async def _go_on(self, progress: Progress, offset: int, timestamp: int, found: Message) -> NoReturn:
        await self._new_incarnation(progress)

    async def _new_incarnation(self, progress: Progress) -> NoReturn:
        raise UserError(
            f"stream {self._replay.stream} was deleted and created anew, or has lost its end: what is left of the "
            "replay's range is gone"
        )


async def acquire_alone(ledger: Leases, key: SourceKey, owner: str) -> Lease:
    """The lease of a replay; waits only for a holder that may be dead, for as long as it takes to be sure.

    Raises:
        UserError: Another process runs this replay.
        Unavailable: The database can't be reached.
    """
    return await acquire(_Alone(ledger), key, owner, ttl=LEASE_SECONDS, poll=_POLL_SECONDS)


class _Alone:
    """Leases whose living holders are not waited for."""

    def __init__(self, leases: Leases) -> None:
        self._leases = leases
        self._last: Standing | None = None

    async def try_acquire(self, key: SourceKey, owner: str, seen: Standing | None = None) -> Lease | Standing:
        found = await self._leases.try_acquire(key, owner, seen)
        if isinstance(found, Standing):
            last, self._last = self._last, found
            if last is None and not is_gone(found.owner):
                host, pid, *_ = found.owner.rsplit(":", 4)
                _log.warning("process %s on %s has this replay; looking whether it lives", pid, host)
            if last is not None and (last.owner, last.epoch) == (found.owner, found.epoch) and last.beat != found.beat:
                host, pid, *_ = found.owner.rsplit(":", 4)
                raise UserError(f"this replay is being run by process {pid} on {host}, or its dead letters are")
        return found
