"""The heartbeat: a row that a running instance writes each second, for ``pipeline stats``."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from pipeline.errors import PipelineError
from pipeline.ledger.database import Database
from pipeline.ledger.instances import Instances
from pipeline.ledger.tables import Instance
from pipeline.stats import InstanceStats

__all__ = ["beat"]

_SECONDS = 1.0
_KEPT = timedelta(days=1)
_PURGE_BEATS = 3600
_log = logging.getLogger("pipeline.heartbeat")


async def beat(
    database: Database,
    pipeline: str,
    stats: Callable[[], InstanceStats],
    alerts: Callable[[], dict[str, str]] = dict,
) -> None:
    """Write the row until cancelled, and remove it then; a database that is away, or refuses, delays it.

    Where an alert is open then, the row is left for another process that tells its end.

    Args:
        database: Where to.
        pipeline: The pipeline's name.
        stats: What the instance did so far.
        alerts: The alerts that are open.
    """
    instances = Instances(database)
    host, pid, started = socket.gethostname(), os.getpid(), datetime.now(UTC)
    row = f"{host}-{pid}-{int(started.timestamp() * 1000)}"  # in a container the next process has the same pid
    beats = 0
    try:
        while True:
            try:
                now = stats().as_json() | ({"alerts": told} if (told := alerts()) else {})
                await instances.beat(
                    Instance(id=row, pipeline=pipeline, host=host, pid=pid, started_at=started, stats=now)
                )
                if beats % _PURGE_BEATS == 0:  # those of processes that were killed; open alerts stay for their heirs
                    await instances.purge(_KEPT)
                beats += 1
            except PipelineError as error:
                _log.debug("no heartbeat: %s", error)
            await asyncio.sleep(_SECONDS)
    finally:
        try:
            async with asyncio.timeout(_SECONDS):
                if told := alerts():
                    await instances.leave(row, stats().kind, told)
                else:
                    await instances.remove(row)
        except (PipelineError, TimeoutError) as error:
            _log.debug("the heartbeat's row stays: %s", error)
