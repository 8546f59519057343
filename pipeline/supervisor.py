"""The supervisor of one source: stands by for its lease, owns it while it can, and gives it up in good order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from time import monotonic
from typing import TYPE_CHECKING, Any, Protocol

from pipeline.config.models import SourceTable
from pipeline.connectors import BrokerRefused, Connector, MessageBatch
from pipeline.dispatch.resume import Resume
from pipeline.dispatch.source import Source
from pipeline.errors import Fenced, Unavailable
from pipeline.jobs.full_queues import FullQueues
from pipeline.ledger.columns import utcnow
from pipeline.ledger.lease import Lease, Standing, acquire
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.units import SourceKey
from pipeline.policies.backoff import backoff
from pipeline.routing import Router
from pipeline.stages import Stage
from pipeline.stats import SourceStats
from pipeline.upkeep import LEASE_SECONDS, Upkeep

if TYPE_CHECKING:
    from pipeline.streams.broker import StreamBroker
    from pipeline.streams.follow import StreamState

__all__ = ["LEASE_SECONDS", "Reader", "Shared", "SourceSupervisor", "or_stop"]

_FULL_SECONDS = 5.0
"""How long a window may be full before that is told as the reason why no more is read."""
_log = logging.getLogger("pipeline.supervisor")


@dataclass(frozen=True, slots=True)
class Shared:
    """What all sources of a runner use.

    Attributes:
        owner: This runner's name in leases.
        broker: The FastStream broker.
        connector: The connector under it.
        ledger: Where everything is committed.
        create_streams: Whether missing streams are created.
        router: The compiled routes.
        resources: The opened resources by name.
        pipeline: The pipeline's name.
        on_jobs: Called after each commit that left jobs.
        now: The time that jobs are left at, aware, in UTC.
        queue_limits: How many jobs may wait on the queues that a stage leaves jobs on, by the stage and the queue.
    """

    owner: str
    broker: StreamBroker
    connector: Connector
    ledger: Ledger
    create_streams: bool
    router: Router
    resources: Mapping[str, Any]
    pipeline: str
    on_jobs: Callable[[], None] = lambda: None
    now: Callable[[], datetime] = utcnow
    queue_limits: Mapping[str, Mapping[str, int]] = field(default_factory=dict)


class Reader(Protocol):
    """What brings a source its messages."""

    async def start(self) -> None:
        """Begin."""

    async def stop(self) -> None:
        """Bring no more."""


class SourceSupervisor:
    """Runs one source for as long as its runner runs.

    Args:
        name: The source's name.
        table: Its configuration.
        stages: Its started stages by name.
        shared: What all sources use.
        stats: Its counters.
    """

    part_of_queues = 1.0  # of each queue's max_waiting: so many may wait before this source pauses

    def __init__(
        self, name: str, table: SourceTable, stages: Mapping[str, Stage], shared: Shared, stats: SourceStats
    ) -> None:
        self.name = name
        self.stats = stats
        self._table = table
        self._stages = stages
        self._shared = shared
        self._source: Source | None = None
        self._stop = asyncio.Event()
        self._grace = 0.0
        self._reader_problem = ""
        self._is_new = True  # it has neither read nor stood by: what the broker refuses ends the start
        self._told = ("starting", "")
        self._full_since: float | None = None

    async def run(self) -> None:
        """Own the source whenever no other runner does, until `stop`.

        Raises:
            BrokerRefused: The broker said no when it was first asked: no such stream, a refused login. Not where it had
                read or stood by before that.
        """
        while not self._stop.is_set():
            lease = await or_stop(self._prepare(), self._stop)
            if lease is None:
                break
            await self._own(lease)
        self.stats.state, self.stats.reason = "stopped", ""

    def stop(self, grace: float) -> None:
        """Ask `run` to end; work in flight has `grace` seconds to finish."""
        self._grace = grace
        self._stop.set()

    # Standing by

    async def _prepare(self) -> Lease:
        """The lease, once the stream is there; waits for a broker and a database that are away."""
        failures = 0
        while True:
            try:
                if self._shared.create_streams:
                    await self._shared.connector.connect()
                    await self._shared.connector.create_stream(self._table.stream)
                return await self._acquire()
            except (BrokerRefused, Unavailable) as error:
                if isinstance(error, BrokerRefused) and self._is_new:
                    raise
                failures += 1
                self._tell("paused", str(error))
                await asyncio.sleep(backoff(failures, 0.2, 5.0, jitter=0.2))

    async def _acquire(self) -> Lease:
        key = SourceKey(self.name, self._table.group, self._table.stream)
        return await acquire(
            self._shared.ledger, key, self._shared.owner, ttl=LEASE_SECONDS, on_standby=self._standing_by
        )

    def _standing_by(self, standing: Standing) -> None:
        self._is_new = False
        self._tell("standby", f"runner {standing.owner} owns the source")

    # Owning

    async def _own(self, lease: Lease) -> None:
        ended: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

        def end(error: BaseException | None = None) -> None:
            if not ended.done():
                ended.set_result(None if isinstance(error, Fenced) else error)

        source = self._source = self._make_source(lease, end)
        source.own_until(lease.renewed_at + LEASE_SECONDS)
        source.start()
        reader = self._make_reader(lease, source, end)
        upkeep = self._make_upkeep(lease)
        full_queues = self._look_at_queues(source)
        upkeep.start(source, end, self._tell_paused)
        full_queues.start()
        self.stats.prefix = lease.progress.prefix
        self._tell("running")
        try:
            await reader.start()
            await or_stop(asyncio.shield(ended), self._stop)
            await reader.stop()
            if not ended.done():
                await self._drain(source, ended)
        finally:
            await asyncio.gather(full_queues.stop(), upkeep.stop())
            await source.close()
            self._source = None
            self.stats.in_flight = 0
        await self._give_up(upkeep, ended)

    def _look_at_queues(self, source: Source) -> FullQueues:
        shared = self._shared
        limits = {queue: most for stage in self._stages for queue, most in shared.queue_limits.get(stage, {}).items()}
        return FullQueues(
            shared.ledger.database, shared.pipeline, limits, source.window, shared.now, part=self.part_of_queues
        )

    # What a replay does in a way of its own

    def _make_source(self, lease: Lease, end: Callable[[BaseException | None], None]) -> Source:
        shared = self._shared
        return Source(
            self.name, self._table, shared.router, self._stages, shared.resources, shared.ledger, lease, self.stats,
            end, on_jobs=shared.on_jobs, now=shared.now, pipeline=shared.pipeline,
        )  # fmt: skip

    def _make_reader(self, lease: Lease, source: Source, end: Callable[[BaseException | None], None]) -> Reader:
        table = self._table
        _log.info("source %s: reading stream %s as group %s", self.name, table.stream, table.group)
        subscriber = self._shared.broker.subscriber(
            table.stream, group=table.group, start=self._make_resume(lease, source).start, max_batch=table.batch,
            on_state=self._reader_state, on_failure=end, refuse_at_start=self._is_new, persistent=False,
        )  # fmt: skip
        subscriber(self._admission(source))
        return subscriber

    def _make_resume(self, lease: Lease, source: Source) -> Resume:
        return Resume(
            self._shared.connector, self._shared.ledger, lease, source.window, self._table, self._lost_to_retention
        )

    def _lost_to_retention(self, count: int) -> None:
        self.stats.lost_to_retention += count
        self.stats.last_error = f"{count} offsets were removed by the stream's retention before they were read"

    def _make_upkeep(self, lease: Lease) -> Upkeep:
        return Upkeep(self.name, self._table, lease, self._shared.connector, self._shared.ledger, self.stats)

    def _admission(self, source: Source) -> Callable[[MessageBatch], Awaitable[None]]:
        """What takes the batches that are read."""
        return source.admit

    async def _drain(self, source: Source, ended: asyncio.Future[BaseException | None]) -> None:
        self._tell("draining")
        drained = asyncio.create_task(source.drain(self._grace), name=f"drain {self.name}")
        awaited: set[asyncio.Future[Any]] = {drained, ended}
        try:
            await asyncio.wait(awaited, timeout=self._grace, return_when=asyncio.FIRST_COMPLETED)
            if not drained.done() and not ended.done():
                _log.warning(
                    "source %s: %d messages were still in flight after %g s; they will be delivered again",
                    self.name, source.window.in_flight, self._grace,
                )  # fmt: skip
            if not ended.done() and (begun := source.begun):
                _log.warning(
                    "source %s: %d of the messages that are left have begun: what stages have done for them is done "
                    "again, with the same request ids", self.name, begun,
                )  # fmt: skip
        finally:
            drained.cancel()
            await asyncio.gather(drained, return_exceptions=True)

    async def _give_up(self, upkeep: Upkeep, ended: asyncio.Future[BaseException | None]) -> None:
        """Let the next runner in, and pass on what ended the source where it was not another runner."""
        error = ended.result() if ended.done() else None
        if not ended.done() or error is not None:
            await upkeep.give_back()
        if error is not None:
            self.stats.last_error = str(error)
            self._tell("failed", str(error))
            raise error

    # State, for people

    def _reader_state(self, state: StreamState) -> None:
        self._is_new = self._is_new and state.status != "reading"
        self._reader_problem = state.reason if state.status in ("down", "refused", "stuck") else ""
        if self._reader_problem:
            self.stats.last_error = state.reason
        if self._source is not None:
            self._tell_paused(self._source)

    def refresh(self) -> None:
        """Bring the counters that are read rather than counted up to date."""
        if self._source is not None:
            self.stats.in_flight = self._source.window.in_flight
            self._tell_paused(self._source)

    def _tell_paused(self, source: Source) -> None:
        if self.stats.state not in ("running", "paused"):
            return
        paused = source.window.paused
        # A window that is full for a moment is the normal state under load, not an outage.
        full = paused.pop("window", "")
        reasons = [reason for reason in (self._reader_problem, *paused.values()) if reason]
        self._tell("paused" if reasons else "running", "; ".join(dict.fromkeys(reasons)))
        if not full:
            self._full_since = None
        elif self._full_since is None:
            self._full_since = monotonic()
        elif not reasons and monotonic() - self._full_since > _FULL_SECONDS:
            self.stats.reason = f"reading waits for the stages: {full}"

    def _tell(self, state: str, reason: str = "") -> None:
        if (state, reason) != self._told:
            level = logging.WARNING if state in ("paused", "failed") else logging.INFO
            _log.log(level, "source %s: %s%s", self.name, state, f" ({reason})" if reason else "")
        self._told = self.stats.state, self.stats.reason = state, reason


async def or_stop(work: Any, stop: asyncio.Event) -> Any:
    """The result of this awaitable; None where `stop` is set before it, and then it is cancelled."""
    task, stopped = asyncio.ensure_future(work), asyncio.create_task(stop.wait())
    try:
        await asyncio.wait([task, stopped], return_when=asyncio.FIRST_COMPLETED)
        return task.result() if task.done() else None
    finally:
        for pending in (task, stopped):
            pending.cancel()
        await asyncio.gather(task, stopped, return_exceptions=True)
