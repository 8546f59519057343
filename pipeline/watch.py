"""The watch over a running process: its heartbeat, its connections, its event loop, and its alarm."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from functools import partial

from pipeline.alarm import Alarm
from pipeline.config.models import PipelineTable
from pipeline.connections import Connections, Probe
from pipeline.heartbeat import beat
from pipeline.ledger.database import Database
from pipeline.ledger.instances import Instances
from pipeline.loop_watch import LoopWatch
from pipeline.stats import ConnectionStats, InstanceStats

__all__ = ["Watch"]


class Watch:
    """Watches over one runner or worker.

    Args:
        database: Where heartbeats go.
        table: The pipeline as a whole.
    """

    def __init__(self, database: Database, table: PipelineTable) -> None:
        self._database = database
        self._table = table
        self._connections = Connections({})
        self._loop = LoopWatch()

    @property
    def connections(self) -> dict[str, ConnectionStats]:
        """How each connection stands."""
        return self._connections.states

    @property
    def longest_block(self) -> float:
        """For how many seconds the event loop did nothing else, at most."""
        return self._loop.longest

    def start(self, stats: Callable[[], InstanceStats], probes: Mapping[str, Probe]) -> list[asyncio.Task[None]]:
        """Begin; the tasks go on until they are cancelled. One that ends with an error is a bug: end the process.

        Args:
            stats: What the process did so far.
            probes: What asks each system that it depends on, by the dependency's name.
        """
        self._connections = Connections(probes)
        name, alarm = self._table.name, None
        if self._table.on_unhealthy is not None:
            left = partial(Instances(self._database).inherit, name)
            alarm = Alarm(self._table.on_unhealthy, name, stats, left=left)
        alerts = (lambda: alarm.alerts) if alarm is not None else dict
        return [
            asyncio.create_task(beat(self._database, name, stats, alerts), name="heartbeat"),
            asyncio.create_task(self._loop.run(), name="watch the loop"),
            *self._connections.start(),
            *(alarm.start() if alarm is not None else ()),
        ]
