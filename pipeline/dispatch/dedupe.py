"""Dedupe: which message ids this consumer group has seen."""

from __future__ import annotations

from collections.abc import Iterable

from pipeline.connectors import MessageBatch
from pipeline.ledger.ledger import Ledger

__all__ = ["Dedupe"]


class Dedupe:
    """Ids that are in flight, and those that the ledger remembers.

    One runner at a time owns a source, and its commits are fenced, so that both together are exact.

    Args:
        ledger: Remembers committed ids.
        group: The consumer group that they belong to.
    """

    def __init__(self, ledger: Ledger, group: str) -> None:
        self._ledger = ledger
        self._group = group
        self._in_flight: set[str] = set()

    async def known(self, batch: MessageBatch) -> set[str]:
        """Those ids of a batch that were seen before."""
        ids = {message.id for message in batch if message.id}
        seen = ids & self._in_flight
        asked = list(ids - seen)
        if asked:
            seen |= await self._ledger.seen(self._group, asked)
        return seen

    def take_in(self, event_id: str) -> None:
        """An event with this id is in flight."""
        self._in_flight.add(event_id)

    def let_go(self, event_ids: Iterable[str]) -> None:
        """These ids are committed: the ledger remembers them from now on."""
        self._in_flight.difference_update(event_ids)
