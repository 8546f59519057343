"""The supervisor of one source: stands by for its lease, owns it while it can, and gives it up in good order."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from time import monotonic
from typing import TYPE_CHECKING, Any

from pipeline.config.models import SourceTable
from pipeline.connectors import BrokerRefused, Connector
from pipeline.dispatch.resume import Resume
from pipeline.dispatch.source import Source
from pipeline.errors import Fenced, Unavailable
from pipeline.ledger.columns import utcnow
from pipeline.ledger.database import DatabaseRefused
from pipeline.ledger.lease import Lease, Standing, acquire
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.units import SourceKey
from pipeline.policies.backoff import backoff
from pipeline.routing import Router
from pipeline.stages import Stage
from pipeline.stats import SourceStats

if TYPE_CHECKING:
    from pipeline.streams.broker import StreamBroker
    from pipeline.streams.follow import StreamState

__all__ = ["Shared", "SourceSupervisor"]

LEASE_SECONDS = 10.0
"""How long a runner may be silent before another takes its sources over."""
_RENEW_SECONDS = 2.0
_STORE_SECONDS = 5.0
_FORGET_SECONDS = 600.0
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


class SourceSupervisor:
    """Runs one source for as long as its runner runs.

    Args:
        name: The source's name.
        table: Its configuration.
        stages: Its started stages by name.
        shared: What all sources use.
        stats: Its counters.
    """

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

    async def run(self) -> None:
        """Own the source whenever no other runner does, until `stop`.

        Raises:
            BrokerRefused: The broker said no when it was first asked: no such stream, a refused login.
        """
        while not self._stop.is_set():
            lease = await self._or_stop(self._prepare())
            if lease is None:
                break
            await self._own(lease)
        self.stats.state, self.stats.reason = "stopped", ""

    def stop(self, grace: float) -> None:
        """Ask `run` to end; work in flight has `grace` seconds to finish."""
        self._grace = grace
        self._stop.set()

    async def _or_stop(self, work: Any) -> Any:
        """The work's result; None where `stop` comes first."""
        task, stop = asyncio.ensure_future(work), asyncio.create_task(self._stop.wait())
        try:
            await asyncio.wait([task, stop], return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            for pending in (task, stop):
                pending.cancel()
            await asyncio.gather(task, stop, return_exceptions=True)

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
            except Unavailable as error:
                failures += 1
                self._tell("paused", str(error))
                await asyncio.sleep(backoff(failures, 0.2, 5.0, jitter=0.2))

    async def _acquire(self) -> Lease:
        key = SourceKey(self.name, self._table.group, self._table.stream)
        return await acquire(
            self._shared.ledger, key, self._shared.owner, ttl=LEASE_SECONDS, on_standby=self._standing_by
        )

    def _standing_by(self, standing: Standing) -> None:
        self._tell("standby", f"runner {standing.owner} owns the source")

    # Owning

    async def _own(self, lease: Lease) -> None:
        _log.info("source %s: reading stream %s as group %s", self.name, self._table.stream, self._table.group)
        ended: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()

        def end(error: BaseException | None = None) -> None:
            if not ended.done():
                ended.set_result(None if isinstance(error, Fenced) else error)

        shared, table = self._shared, self._table
        source = self._source = Source(
            self.name, table, shared.router, self._stages, shared.resources, shared.ledger, lease, self.stats, end,
            on_jobs=shared.on_jobs, now=shared.now, pipeline=shared.pipeline,
        )  # fmt: skip
        source.own_until(lease.renewed_at + LEASE_SECONDS)
        source.committer.start()
        resume = Resume(shared.connector, shared.ledger, lease, source.window, table)
        subscriber = shared.broker.subscriber(
            table.stream, group=table.group, start=resume.start, max_batch=table.batch,
            on_state=self._reader_state, on_failure=end, persistent=False,
        )  # fmt: skip
        subscriber(source.admit)
        care = [
            asyncio.create_task(self._care(self._keep(lease, source), end), name=f"keep {self.name}"),
            asyncio.create_task(self._care(self._tidy(lease), end), name=f"tidy {self.name}"),
        ]
        self.stats.prefix = lease.progress.prefix
        self._tell("running")
        try:
            await subscriber.start()
            await self._or_stop(asyncio.shield(ended))
            await subscriber.stop()
            if not ended.done():
                await self._drain(source, ended)
        finally:
            for task in care:
                task.cancel()
            await asyncio.gather(*care, return_exceptions=True)
            await source.close()
            self._source = None
            self.stats.in_flight = 0
        await self._give_up(lease, ended)

    async def _drain(self, source: Source, ended: asyncio.Future[BaseException | None]) -> None:
        self._tell("draining")
        drained = asyncio.create_task(source.drain(), name=f"drain {self.name}")
        awaited: set[asyncio.Future[Any]] = {drained, ended}
        try:
            await asyncio.wait(awaited, timeout=self._grace, return_when=asyncio.FIRST_COMPLETED)
            if not drained.done() and not ended.done():
                _log.warning(
                    "source %s: %d messages were still in flight after %g s; they will be delivered again",
                    self.name, source.window.in_flight, self._grace,
                )  # fmt: skip
        finally:
            drained.cancel()
            await asyncio.gather(drained, return_exceptions=True)

    async def _give_up(self, lease: Lease, ended: asyncio.Future[BaseException | None]) -> None:
        """Let the next runner in at once, and pass on what ended the source where it was not another runner."""
        error = ended.result() if ended.done() else None
        if not ended.done() or error is not None:
            try:
                await self._store_offset(lease)
                async with asyncio.timeout(_RENEW_SECONDS):  # the lease runs out by itself: not worth a long wait
                    await self._shared.ledger.release(lease)
            except (Unavailable, DatabaseRefused, TimeoutError) as problem:
                reason = str(problem) or f"no answer within {_RENEW_SECONDS:g} s"
                _log.warning("source %s: its lease could not be released: %s", self.name, reason)
        if error is not None:
            self.stats.last_error = str(error)
            self._tell("failed", str(error))
            raise error

    async def _care(self, work: Awaitable[None], end: Callable[[BaseException | None], None]) -> None:
        """Do this beside the source; where it fails the source is ended, and not left alive and idle."""
        try:
            await work
        except Fenced as error:
            _log.error("source %s: %s", self.name, error)
            end(None)
        except Exception as error:  # noqa: BLE001 - whatever it is, the source must not go on without it
            end(error)

    async def _keep(self, lease: Lease, source: Source) -> None:
        """Renew the lease, and do nothing that could delay it; while it can't be renewed, nothing is taken in."""
        while True:
            try:
                await self._shared.ledger.renew(lease)
            except (Unavailable, DatabaseRefused) as error:
                self.stats.last_error = str(error)
                source.window.hold("lease", str(error))
            else:
                source.own_until(lease.renewed_at + LEASE_SECONDS)
                source.window.release("lease")
            self._tell_paused(source)
            await asyncio.sleep(_RENEW_SECONDS)

    async def _tidy(self, lease: Lease) -> None:
        """Follow with the broker's stored offset, and forget old ids."""
        stored, forget_at = lease.progress.prefix, monotonic()
        while True:
            try:
                if monotonic() >= forget_at:
                    await self._forget()
                    forget_at = monotonic() + _FORGET_SECONDS
            except (Unavailable, DatabaseRefused) as error:
                self.stats.last_error = str(error)
            await asyncio.sleep(_STORE_SECONDS)
            if lease.progress.prefix != stored:
                stored = lease.progress.prefix
                await self._store_offset(lease)

    async def _store_offset(self, lease: Lease) -> None:
        prefix = lease.progress.prefix
        if prefix < 0:
            return
        try:
            async with asyncio.timeout(_RENEW_SECONDS):
                await self._shared.connector.store_offset(self._table.stream, self._table.group, prefix)
        except (Unavailable, BrokerRefused, TimeoutError):
            _log.debug("source %s: the broker did not take the offset; it is for monitoring only", self.name)

    async def _forget(self) -> None:
        if self._table.dedupe is not False:
            before = datetime.now(UTC) - timedelta(seconds=self._table.dedupe)
            await self._shared.ledger.forget(self._table.group, before)

    # State, for people

    def _reader_state(self, state: StreamState) -> None:
        self._reader_problem = state.reason if state.status in ("down", "refused") else ""
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
        # A window that is full for a moment is the normal state under load, not an outage.
        causes = {cause: why for cause, why in source.window.paused.items() if cause != "window"}
        reasons = [reason for reason in (self._reader_problem, *causes.values()) if reason]
        self._tell("paused" if reasons else "running", "; ".join(dict.fromkeys(reasons)))

    def _tell(self, state: str, reason: str = "") -> None:
        if (state, reason) != (self.stats.state, self.stats.reason):
            level = logging.WARNING if state in ("paused", "failed") else logging.INFO
            _log.log(level, "source %s: %s%s", self.name, state, f" ({reason})" if reason else "")
        self.stats.state, self.stats.reason = state, reason
