"""Upkeep: what is done beside a source for as long as a runner owns it: its lease is renewed, its traces kept tidy."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from time import monotonic

from pipeline.config.models import SourceTable
from pipeline.connectors import BrokerRefused, Connector
from pipeline.dispatch.source import Source
from pipeline.errors import Fenced, Unavailable
from pipeline.ledger.database import DatabaseRefused
from pipeline.ledger.lease import Lease
from pipeline.ledger.ledger import Ledger
from pipeline.stats import SourceStats

__all__ = ["LEASE_SECONDS", "Upkeep"]

LEASE_SECONDS = 10.0
"""How long a runner may be silent before another takes its sources over."""
_RENEW_SECONDS = 2.0
_STORE_SECONDS = 5.0
_FORGET_SECONDS = 600.0
_log = logging.getLogger("pipeline.supervisor")


class Upkeep:
    """Renews the lease, follows with the broker's stored offset, and forgets old ids.

    Args:
        name: The source's name.
        table: Its configuration.
        lease: The ownership.
        connector: Where the offset is stored.
        ledger: Where the lease is.
        stats: The source's counters.
        tells_broker: Whether the broker stores the group's offset, for monitoring.
    """

    def __init__(
        self,
        name: str,
        table: SourceTable,
        lease: Lease,
        connector: Connector,
        ledger: Ledger,
        stats: SourceStats,
        *,
        tells_broker: bool = True,
    ) -> None:
        self._tells_broker = tells_broker
        self._name = name
        self._table = table
        self._lease = lease
        self._connector = connector
        self._ledger = ledger
        self._stats = stats
        self._tasks: list[asyncio.Task[None]] = []

    def start(
        self, source: Source, end: Callable[[BaseException | None], None], on_look: Callable[[Source], None]
    ) -> None:
        """Begin.

        Args:
            source: The source at work; held while its lease can't be renewed.
            end: Called where the source can't go on: with None where another runner has taken it over.
            on_look: Called after each try to renew the lease.
        """
        self._tasks = [
            asyncio.create_task(self._care(self._keep(source, on_look), end), name=f"keep {self._name}"),
            asyncio.create_task(self._care(self._tidy(), end), name=f"tidy {self._name}"),
        ]

    async def stop(self) -> None:
        """End it."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def give_back(self) -> None:
        """Let the next runner in at once."""
        try:
            await self._store_offset()
            async with asyncio.timeout(_RENEW_SECONDS):  # the lease runs out by itself: not worth a long wait
                await self._ledger.release(self._lease)
        except (Unavailable, DatabaseRefused, TimeoutError) as problem:
            reason = str(problem) or f"no answer within {_RENEW_SECONDS:g} s"
            _log.warning("source %s: its lease could not be released: %s", self._name, reason)

    async def _care(self, work: Awaitable[None], end: Callable[[BaseException | None], None]) -> None:
        """Do this beside the source; where it fails the source is ended, and not left alive and idle."""
        try:
            await work
        except Fenced as error:
            _log.error("source %s: %s", self._name, error)
            end(None)
        except Exception as error:  # noqa: BLE001 - whatever it is, the source must not go on without it
            end(error)

    async def _keep(self, source: Source, on_look: Callable[[Source], None]) -> None:
        """Renew the lease, and do nothing that could delay it; while it can't be renewed, nothing is taken in."""
        while True:
            try:
                await self._ledger.renew(self._lease)
            except (Unavailable, DatabaseRefused) as error:
                self._stats.last_error = str(error)
                source.window.hold("lease", str(error))
            else:
                source.own_until(self._lease.renewed_at + LEASE_SECONDS)
                source.window.release("lease")
            on_look(source)
            await asyncio.sleep(_RENEW_SECONDS)

    async def _tidy(self) -> None:
        """Follow with the broker's stored offset, and forget old ids."""
        stored, forget_at = self._lease.progress.prefix, monotonic()
        while True:
            try:
                if monotonic() >= forget_at:
                    await self._forget()
                    forget_at = monotonic() + _FORGET_SECONDS
            except (Unavailable, DatabaseRefused) as error:
                self._stats.last_error = str(error)
            await asyncio.sleep(_STORE_SECONDS)
            if self._lease.progress.prefix != stored:
                stored = self._lease.progress.prefix
                await self._store_offset()

    async def _store_offset(self) -> None:
        prefix = self._lease.progress.prefix
        if prefix < 0 or not self._tells_broker:
            return
        try:
            async with asyncio.timeout(_RENEW_SECONDS):
                await self._connector.store_offset(self._table.stream, self._table.group, prefix)
        except (Unavailable, BrokerRefused, TimeoutError):
            _log.debug("source %s: the broker did not take the offset; it is for monitoring only", self._name)

    async def _forget(self) -> None:
        if self._table.dedupe is not False:
            before = datetime.now(UTC) - timedelta(seconds=self._table.dedupe)
            await self._ledger.forget(self._table.group, before)
