"""The executor: claims the jobs that it is told of, lets their handlers run them, and settles what these leave over."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, Final

from pipeline.config.models import QueueTable
from pipeline.errors import Unavailable
from pipeline.jobs.claims import Claims
from pipeline.jobs.clock import Clock
from pipeline.jobs.contract import LOST_LIMIT, Job
from pipeline.jobs.leftovers import Leftovers, WorkersLost, is_cancelled, outcome_of
from pipeline.jobs.outages import Outage
from pipeline.jobs.patience import Patience
from pipeline.jobs.pending import Pending
from pipeline.jobs.permits import Permits
from pipeline.jobs.settlement import Settled, Settler
from pipeline.jobs.work import ClaimedWork, JobRunner
from pipeline.ledger.database import Database, DatabaseRefused

__all__ = ["Executor", "JobRunner"]

_SMALLEST: Final = 50
_BIGGEST: Final = 500
"""Jobs in a batch, where so many are pending: for fewer a transaction costs too much, for more it lasts too long."""
_RENEWALS_PER_LEASE: Final = 3
_LAST_WAIT: Final = 5.0
"""Seconds that a stop waits for handlers to answer their cancellation, and for the database to take claims back."""
_FOREIGN_WAIT: Final = 5.0
"""Seconds until a job whose stage this worker does not have is offered again."""
_log = logging.getLogger("pipeline.jobs")


class Executor:
    """Runs jobs in this process.

    Args:
        database: Where the jobs are.
        runners: What runs the jobs of each stage, by the stage's name.
        queues: The queues' configuration by name; a queue that is not among them has the defaults.
        owner: This worker, as `owner_id` names it; no two executors share one.
        pipeline: Whose jobs it runs.
        clock: The time by which jobs are due.
        lease: Seconds that a claim lasts; it is renewed three times within that.
        on_settled: Called after a commit that left new jobs, jobs to be run again, or messages.
    """

    def __init__(
        self,
        database: Database,
        runners: Mapping[str, JobRunner],
        queues: Mapping[str, QueueTable],
        *,
        owner: str,
        pipeline: str,
        clock: Clock,
        lease: float = 30.0,
        on_settled: Callable[[], None] | None = None,
    ) -> None:
        self._runners = runners
        self._queues = queues
        self._clock = clock
        self._lease = lease
        self._on_settled = on_settled
        self._claims = Claims(database, owner, clock, lease, pipeline=pipeline)
        self._settler = Settler(database, owner, clock, pipeline=pipeline)
        self._permits: dict[str, Permits] = {}
        self._outages = {stage: Outage(stage) for stage in runners}
        self._busy: set[str] = set()
        self._pending: dict[str, Pending] = {}
        self._claimed: set[str] = set()
        self._has_claimed = False
        self._runs: set[asyncio.Task[None]] = set()
        self._alone = asyncio.Lock()
        self._renewing: asyncio.Task[None] | None = None
        self._patience = Patience()
        self._stopping = False

    @property
    def in_flight(self) -> int:
        """How many jobs are claimed and not settled."""
        return len(self._claimed)

    def waiting(self, queue: str) -> int:
        """How many jobs of a queue wait for its permits."""
        return len(self._pending.get(queue, ()))

    def waits(self, queue: str, ids: Sequence[str]) -> bool:
        """Whether any of these jobs waits for its queue's permits."""
        pending = self._pending.get(queue)
        return pending is not None and any(job in pending for job in ids)

    async def start(self) -> None:
        """Begin to renew claims."""
        self._renewing = asyncio.create_task(self._renew(), name="renew claims")

    async def run(self, queue: str, ids: Sequence[str]) -> None:
        """Run those of these jobs that can be claimed; returns when all of them are settled.

        Waits for the queue's permits, and for the database while it is away. Where the caller is cancelled the jobs
        go on: only `stop` ends them.
        """
        wanted = [job for job in dict.fromkeys(ids) if job not in self._busy]
        if self._stopping or not wanted:
            return
        self._busy.update(wanted)
        pending = self._pending.setdefault(queue, Pending())
        over = pending.add(wanted)
        if pending.feeder is None or pending.feeder.done():
            pending.feeder = self._start(self._feed(queue, pending), f"jobs of {queue}")
            pending.feeder.add_done_callback(self._tell_failure)
        await over.wait()

    async def stop(self, grace: float) -> None:
        """Take nothing more; let what runs finish for `grace` seconds; then cancel it and give its jobs back."""
        self._stopping = True
        self._patience.end()
        for permits in self._permits.values():
            permits.close()
        with suppress(TimeoutError):
            async with asyncio.timeout(grace):
                while self._runs:
                    await asyncio.wait(self._runs)
        late = list(self._runs)
        for task in late:
            task.cancel()
        if late:
            await asyncio.wait(late, timeout=_LAST_WAIT)
        if self._renewing is not None:
            self._renewing.cancel()
            await asyncio.gather(self._renewing, return_exceptions=True)
        if self._has_claimed:
            await self._give_all_back()

    # Hints

    async def _feed(self, queue: str, pending: Pending) -> None:
        """Run what is pending, as far as there are permits.

        Two batches share the permits, unless these would be small: one is computed while the database is at the other.
        """
        permits = self._permits_of(queue)
        most = min(max(_SMALLEST, permits.limit // 2), _BIGGEST)
        try:
            while pending:
                await permits.wait()
                taken = pending.take(await permits.take(min(len(pending), most)))
                if not taken:
                    return
                chunk = self._start(self._run_chunk(queue, list(taken), permits), f"batch of {queue}")
                chunk.add_done_callback(partial(self._end_chunk, queue, taken))
        finally:  # what is left is not to be run any more
            rest = pending.take(len(pending))
            self._busy.difference_update(rest)
            Pending.end(rest)

    def _start(self, run: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(run, name=name)
        self._runs.add(task)
        task.add_done_callback(self._runs.discard)
        return task

    def _end_chunk(self, queue: str, taken: dict[str, Any], task: asyncio.Task[None]) -> None:
        if task.cancelled() or task.exception() is not None:
            pending = self._pending[queue]  # what was settled before may have come anew, and waits
            self._busy.difference_update(job for job in taken if job not in pending)
        Pending.end(taken)
        self._tell_failure(task)

    @staticmethod
    def _tell_failure(task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.critical("%s: the engine itself failed", task.get_name(), exc_info=error)

    async def _run_chunk(self, queue: str, ids: list[str], permits: Permits) -> None:
        """Run jobs for which there are permits."""
        left = set(ids)
        try:
            left -= await self._claim_and_run(queue, ids, permits)
            if not left or self._stopping:
                return
            asked = sorted(left)
            for suspect in await self._patience.persist(lambda: self._claims.suspects(queue, asked)) or ():
                async with self._alone:
                    if not await permits.take(1):
                        return
                    left -= await self._claim_and_run(queue, [suspect], permits, suspects=True)
        finally:
            self._busy.difference_update(left)

    async def _claim_and_run(
        self, queue: str, ids: list[str], permits: Permits, *, suspects: bool = False
    ) -> frozenset[str]:
        """Claim and run jobs, each of which has a permit. Returns the ids of those that could be claimed."""
        unused = len(ids)
        try:
            self._has_claimed = True
            jobs = await self._patience.persist(lambda: self._claims.take(queue, ids, suspects=suspects)) or []
            claimed = frozenset(job.id for job in jobs)
            self._claimed.update(claimed)
            unused -= len(jobs)
        finally:
            permits.give_back(unused)
        by_stage: dict[str, list[Job]] = {}
        for job in jobs:
            by_stage.setdefault(job.stage, []).append(job)
        works = [self._run_stage(queue, stage, batch, permits) for stage, batch in by_stage.items()]
        if len(works) == 1:
            await works[0]
        else:
            await _all([asyncio.create_task(work) for work in works])
        return claimed

    async def _run_stage(self, queue: str, stage: str, jobs: list[Job], permits: Permits) -> None:
        """Run claimed jobs of one stage; each gives its permit back when it is settled."""

        def settled(what: Settled) -> None:
            self._let_go(what.jobs, permits)
            if what.left_more and self._on_settled is not None:
                self._on_settled()

        runner = self._runners.get(stage)
        if runner is None:
            await self._refuse(stage, [job.id for job in jobs])
            self._let_go([job.id for job in jobs], permits)
            return
        table = self._queues.get(queue) or QueueTable()
        work = ClaimedWork(jobs, queue, table, self._settler, self._clock.now(), settled)
        try:
            deadly = any(job.lost > LOST_LIMIT for job in jobs)  # such a job is claimed alone
            error = WorkersLost(jobs[0].lost) if deadly else await outcome_of(runner.run_jobs(work))
            if not isinstance(error, Unavailable | DatabaseRefused):
                self._outages[stage].passed()
            if work.unsettled:
                leftovers = Leftovers(work, stage, error, self._outages[stage], getattr(runner, "jobs_failed", None))
                await self._patience.persist(leftovers.settle)
        finally:
            if not is_cancelled():  # else `stop` gives them back
                self._let_go(list(work.unsettled), permits)

    def _let_go(self, ids: Collection[str], permits: Permits) -> None:
        self._claimed.difference_update(ids)
        self._busy.difference_update(ids)
        permits.give_back(len(ids))

    async def _refuse(self, stage: str, ids: list[str]) -> None:
        _log.warning("no stage %r on this worker: %d of its jobs are left to others", stage, len(ids))
        reason = f"there is no stage {stage!r} on the worker that it came to"
        await self._patience.persist(lambda: self._claims.give_back(ids, after=_FOREIGN_WAIT, error=reason))

    # Claims

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(self._lease / _RENEWALS_PER_LEASE)
            if not self._claimed:
                continue
            try:
                await self._claims.renew(self._claimed)
            except (Unavailable, DatabaseRefused) as error:
                _log.warning("claims could not be renewed: %s", error)
            except Exception:  # noqa: BLE001 - this must go on: a claim that is not renewed is run twice
                _log.exception("claims could not be renewed")

    async def _give_all_back(self) -> None:
        try:
            async with asyncio.timeout(_LAST_WAIT):
                count = await self._claims.give_all_back()
        except (Unavailable, DatabaseRefused, TimeoutError) as error:
            _log.warning("%d jobs could not be given back, and will be when their claims run out: %s",
                         len(self._claimed), error)  # fmt: skip
            return
        if count:
            _log.info("%d jobs were given back", count)
        self._claimed.clear()
        self._has_claimed = False

    def _permits_of(self, queue: str) -> Permits:
        if queue not in self._permits:
            self._permits[queue] = Permits((self._queues.get(queue) or QueueTable()).concurrency)
            if self._stopping:
                self._permits[queue].close()
        return self._permits[queue]


async def _all(tasks: Sequence[asyncio.Task[Any]]) -> None:
    """Wait for all tasks, cancelling them when this is cancelled; raise the first error when all have ended."""
    results = await asyncio.gather(*tasks, return_exceptions=True)
    for result in results:
        if isinstance(result, BaseException):
            raise result
