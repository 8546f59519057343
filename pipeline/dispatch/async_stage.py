"""An async stage where its source is: it leaves each event as a job for a worker, and lets the flight pass at once."""

from __future__ import annotations

import logging
from dataclasses import replace
from datetime import UTC, datetime

from pipeline.dispatch.failures import Stages
from pipeline.dispatch.flight import Flight
from pipeline.errors import describe
from pipeline.handlers import Context
from pipeline.jobs.stage_event import stage_job
from pipeline.ledger.lease import Lease
from pipeline.ledger.units import Dead
from pipeline.stages import Stage

__all__ = ["AsyncStage"]

_log = logging.getLogger("pipeline.dispatch")


class AsyncStage:
    """Stands in a chain where another stage's queue would.

    Args:
        stage: The stage; its handler is not called here.
        source: Hears that the flight's stage is done.
        lease: Knows the stream's incarnation.
    """

    def __init__(self, stage: Stage, source: Stages, lease: Lease) -> None:
        self.when = stage.when
        self._stage = stage
        self._source = source
        self._lease = lease

    def put(self, flight: Flight) -> None:
        """Leave the flight's event as a job, and bring the flight to its next stage."""
        stage, source, event = self._stage, self._source, flight.event
        incarnation = self._lease.incarnation if flight.again is None else flight.again.letter.incarnation
        redrive = 0 if flight.again is None else flight.again.leaves(flight.route_name, stage.name)
        closing = flight.closing
        context = Context(
            stage.name, flight.route_name, source.group, event.id, 1,
            flight.route_outcome if closing else None, flight.route_error,
        )  # fmt: skip
        try:
            job = stage_job(
                stage.queue, context, event, flight.message, incarnation, flight.keys[flight.at],
                ordered=flight.lanes[flight.at].ordered, redrive=redrive,
            )  # fmt: skip
        except Exception as error:  # noqa: BLE001 - an event that can't be made a job must not stop all others
            now = datetime.now(UTC)
            _log.error("stage %s: %r can't be left as a job", stage.name, event, exc_info=error)
            dead = Dead(flight.route_name, stage.name, type(error).__name__, describe(error), 0, now, now)
            source.stage_dead(flight, dead, error)
            return
        # The job that the first run left there may not have run yet.
        if flight.again is not None and closing and not redrive:
            job = replace(job, id=f"{job.id}:{flight.again.letter.redrives + 1}")
        source.jobs.leave(flight, (job,))
        source.stage_done(flight)
