"""A stage's jobs: events of an asynchronous stage go through its policies, all others to its handler's `run_jobs`."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping, Sequence
from typing import Any

from pipeline.errors import Unavailable
from pipeline.jobs.contract import Job, Settlement, Work
from pipeline.jobs.event_settlement import EventSettler
from pipeline.jobs.event_tries import EventTries
from pipeline.jobs.stage_event import is_stage_event
from pipeline.jobs.verdicts import Verdict
from pipeline.jobs.work import PartOfWork
from pipeline.ledger.copies import Copies
from pipeline.ledger.database import Database
from pipeline.stages import Stage

__all__ = ["StageJobs"]

_log = logging.getLogger("pipeline.jobs")


class StageJobs:
    """The `pipeline.jobs.executor.JobRunner` of one stage.

    Args:
        stage: The stage, started.
        database: Where what its handler leaves is written.
        resources: The opened resources by name.
        pipeline: The pipeline's name.
        copies: Copies dead letters to streams; None for no copies.
    """

    def __init__(
        self,
        stage: Stage,
        database: Database,
        resources: Mapping[str, Any],
        pipeline: str,
        copies: Copies | None = None,
    ) -> None:
        self._name = stage.name
        self._handler = stage.handler
        self._tries = EventTries(stage, resources)
        self._settler = EventSettler(database, stage.name, pipeline, copies)

    async def run_jobs(self, work: Work) -> None:
        """Run claimed jobs of the stage."""
        events = [job for job in work.jobs if is_stage_event(job)]
        if not events:
            await self._handler.run_jobs(work)
        elif len(events) == len(work.jobs):
            await self._run_events(work)
        else:
            own = [job for job in work.jobs if not is_stage_event(job)]
            ends = await asyncio.gather(
                self._run_events(PartOfWork(work, events)),
                self._handler.run_jobs(PartOfWork(work, own)),
                return_exceptions=True,
            )
            for end in ends:
                if end is not None:
                    raise end

    async def jobs_failed(self, settlement: Settlement, jobs: Sequence[Job], reason: str) -> None:
        """Take note, in the settlement that ends them, of jobs that end without success; see `Handler.jobs_failed`."""
        events = [job for job in jobs if is_stage_event(job)]
        await self._settler.bury(settlement, events, reason)
        if own := [job for job in jobs if not is_stage_event(job)]:
            await self._handler.jobs_failed(settlement, own, reason)

    def close(self) -> None:
        """Let go of timers, once nothing runs any more."""
        self._tries.close()

    async def _run_events(self, work: Work) -> None:
        """Run events; those that have ended are settled together, and none waits for a slower one.

        Raises `Unavailable` where the engine itself fails, so that no event is lost to that: it is tried again.
        """
        batches, verdicts = self._tries.begin(work.jobs)
        running: set[asyncio.Task[list[Verdict]]] = {asyncio.create_task(self._tries.run(batch)) for batch in batches}
        try:
            while running or verdicts:
                if verdicts:
                    await self._settler.settle(work, verdicts)
                if not running:
                    return
                ended, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                verdicts = [verdict for task in ended for verdict in task.result()]
        except Exception as error:
            _log.critical("stage %s: the engine itself failed", self._name, exc_info=error)
            raise Unavailable("the engine", f"{type(error).__name__}: {error}") from error
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
