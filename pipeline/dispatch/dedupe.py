"""Dedupe: which message ids this consumer group has seen."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence

from pipeline.connectors import MessageBatch
from pipeline.errors import Unavailable
from pipeline.ledger.database import DatabaseRefused
from pipeline.ledger.ledger import Ledger
from pipeline.policies.backoff import backoff

__all__ = ["Dedupe"]

_log = logging.getLogger("pipeline.dispatch")


class Dedupe:
    """Ids that are in flight, and those that the ledger remembers.

    One runner at a time owns a source, and its commits are fenced, so that both together are exact.

    Args:
        ledger: Remembers committed ids.
        group: The consumer group that they belong to.
        hold: Called with ``database`` and the reason when it does not answer, to pause the source.
        release: Called with ``database`` when it is back.
    """

    def __init__(
        self, ledger: Ledger, group: str, hold: Callable[[str, str], None], release: Callable[[str], None]
    ) -> None:
        self._ledger = ledger
        self._group = group
        self._hold = hold
        self._release = release
        self._in_flight: set[str] = set()

    async def known(self, batch: MessageBatch) -> set[str]:
        """Those ids of a batch that were seen before; waits for a database that is away."""
        ids = {message.id for message in batch if message.id}
        seen = ids & self._in_flight
        asked = list(ids - seen)
        if asked:
            seen |= await self._ask(asked)
        return seen

    async def _ask(self, ids: Sequence[str]) -> set[str]:
        failures = 0
        while True:
            try:
                seen = await self._ledger.seen(self._group, ids)
            except (Unavailable, DatabaseRefused) as error:
                failures += 1
                self._hold("database", str(error))
                if failures == 1:
                    _log.warning("%s; nothing new is taken in until it is back", error)
                await asyncio.sleep(backoff(failures, 0.1, 5.0, jitter=0.2))
                continue
            if failures:
                self._release("database")
            return seen

    def take_in(self, event_id: str) -> None:
        """An event with this id is in flight."""
        self._in_flight.add(event_id)

    def let_go(self, event_ids: Iterable[str]) -> None:
        """These ids are committed: the ledger remembers them from now on."""
        self._in_flight.difference_update(event_ids)
