"""Dead letters that later events overtake: once a later event of a key is handled, an earlier one comes too late."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Collection, Iterable
from typing import Final

from pipeline.dispatch.flight import Flight
from pipeline.errors import Unavailable
from pipeline.ledger.clean import clean_id
from pipeline.ledger.database import DatabaseRefused
from pipeline.ledger.lease import Lease
from pipeline.ledger.redriving import Redrives
from pipeline.ledger.units import Dead, Overtaking
from pipeline.policies.backoff import backoff

__all__ = ["Overtaken", "Place"]

Place = tuple[str, str]
"""A route's name and an ordering key, as the database keeps it."""
_MOST: Final = 200_000
"""Places that are told apart, as hashes; with more of them each handled event that has a key costs an UPDATE."""
_log = logging.getLogger("pipeline.dispatch")


class Overtaken:
    """Which routes and keys of a source have dead letters that a later event may overtake, and which events did.

    A place that is kept for longer than it need be costs one UPDATE that finds nothing.

    Args:
        redrives: Where the dead letters are.
        lease: The ownership of the source, and the stream's incarnation.
        hold: Called with ``database`` and the reason when it does not answer, to pause the source.
        release: Called with ``database`` when it is back.

    Attributes:
        waiting: Hashes of the places of such dead letters.
    """

    def __init__(
        self, redrives: Redrives, lease: Lease, hold: Callable[[str, str], None], release: Callable[[str], None]
    ) -> None:
        self.waiting: set[int] = set()
        self._too_many = False
        self._redrives = redrives
        self._lease = lease
        self._hold = hold
        self._release = release
        self._loaded = False
        self._loading = asyncio.Lock()
        self._uncommitted: dict[Flight, list[Overtaking]] = {}
        self._newest: dict[Place, Overtaking] = {}
        self._unwritten: dict[Place, dict[Flight, Dead]] = {}
        self._places: dict[Flight, list[Place]] = {}

    async def load(self) -> None:
        """Find out what earlier runs left; once. Waits for a database that is away."""
        if self._loaded:
            return
        async with self._loading:
            failures = 0
            while not self._loaded:
                try:
                    for place in await self._redrives.waiting_keys(self._lease.key, _MOST + 1):
                        self._wait(place)
                    self._loaded = True
                except (Unavailable, DatabaseRefused) as error:
                    failures += 1
                    self._hold("database", str(error))
                    if failures == 1:
                        _log.warning("%s; nothing is taken in until it is back", error)
                    await asyncio.sleep(backoff(failures, 0.1, 5.0, jitter=0.2))
            if failures:
                self._release("database")

    def died(self, flight: Flight) -> None:
        """The flight, which has a key there, has left a dead letter of the route that it runs now."""
        place = (flight.lanes[flight.at].name, clean_id(flight.keys[flight.at] or ""))
        self._wait(place)
        if flight.again is None and flight.dead:
            self._unwritten.setdefault(place, {})[flight] = flight.dead[-1]
            self._places.setdefault(flight, []).append(place)

    def _wait(self, place: Place) -> None:
        if len(self.waiting) < _MOST:
            self.waiting.add(hash(place))
        elif not self._too_many:
            self._too_many = True
            _log.warning("source %s: more than %d keys have dead letters", self._lease.key.source, _MOST)

    def handled(self, flight: Flight) -> None:
        """The flight was handled on the route that it runs now."""
        key = flight.keys[flight.at]
        if key is None or not self.waiting:
            return
        place = (flight.lanes[flight.at].name, clean_id(key))
        if hash(place) not in self.waiting and not self._too_many:
            return
        again = flight.again
        if again is None and not self._too_many:
            self.waiting.discard(hash(place))  # it is later than all that has died; a redrive may be in their midst
        incarnation = self._lease.incarnation if again is None else again.letter.incarnation
        later = Overtaking(*place, incarnation, flight.message.offset, flight.event.id)
        if again is None:
            # A flight that died here may still run another route, and be committed after this one.
            for dead in self._unwritten.get(place, {}).values():
                dead.overtaken_by = dead.overtaken_by or later.event_id
        self._uncommitted.setdefault(flight, []).append(later)
        newest = self._newest.get(place)
        if newest is None or newest[2:4] < later[2:4]:
            self._newest[place] = later

    def by(self, flights: Iterable[Flight]) -> list[Overtaking]:
        """What is to be written of these flights when they are committed."""
        if not self._uncommitted:
            return []
        return [later for flight in flights for later in self._uncommitted.get(flight, ())]

    def committed(self, flights: Iterable[Flight]) -> None:
        """That was written."""
        if self._uncommitted:
            for flight in flights:
                self._uncommitted.pop(flight, None)
        if self._places:
            for flight in flights:
                for place in self._places.pop(flight, ()):
                    self._unwritten[place].pop(flight, None)
                    if not self._unwritten[place]:
                        del self._unwritten[place]

    # For redrives: what was read from the database may be older than what was handled since

    def later_than(self, place: Place, incarnation: int, offset: int) -> str | None:
        """The id of an event that was handled there after this one; None for none that was handled lately."""
        newest = self._newest.get(place)
        return newest.event_id if newest is not None and newest[2:4] > (incarnation, offset) else None

    def written(self) -> list[tuple[Place, Overtaking]]:
        """What is written by now: whatever is read from here on shows it."""
        uncommitted = {later for those in self._uncommitted.values() for later in those}
        return [(place, later) for place, later in self._newest.items() if later not in uncommitted]

    def forget(self, written: Iterable[tuple[Place, Overtaking]], besides: Collection[Place]) -> None:
        """Forget what was written, but for these places, of which something was read before."""
        for place, later in written:
            if place not in besides and self._newest.get(place) == later:
                del self._newest[place]
