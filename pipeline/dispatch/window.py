"""The window: which messages are in flight, how much room there is, and the progress that finished ones make."""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from collections import deque
from collections.abc import Collection, Iterable
from typing import NamedTuple

from pipeline.dispatch.flight import Flight
from pipeline.ledger.units import Progress, Range

__all__ = ["Window"]


class _Closed(NamedTuple):
    """A run of finished messages that lies beyond an unfinished one."""

    first: int
    last: int
    timestamp: int
    messages: int


class Window:
    """The messages between the prefix that is finished and the newest that was admitted.

    Finished messages beyond an unfinished one are kept as ranges, so that a stuck message costs no memory for those
    that pass it. Offsets may have gaps; a range covers them.

    Args:
        progress: Where the source stands.
        limit: How many messages may be in flight (admitted, and not committed).
        max_ahead: How many messages may be finished beyond one that is not.
        limit_bytes: How many bytes the messages in flight may have together; None for no limit.
    """

    def __init__(self, progress: Progress, limit: int, max_ahead: int, limit_bytes: int | None = None) -> None:
        self.limit = limit
        self.limit_bytes = limit_bytes
        self.max_ahead = max_ahead
        self.in_flight = 0
        self._bytes = 0
        self._ahead = 0
        self._holds: dict[str, str] = {}
        self._for_room: set[str] = set()
        self._room = asyncio.Event()
        self._idle = asyncio.Event()
        self.reset(progress)

    def reset(self, progress: Progress) -> None:
        """Begin at this progress, with nothing in flight."""
        self._items: deque[Flight | _Closed] = deque()
        self._prefix = progress.prefix
        self._timestamp = progress.timestamp
        self._done: tuple[Range, ...] = progress.ahead
        self._done_newest = progress.newest
        self._starts = [first for first, _ in progress.ahead]
        self.last = progress.prefix
        self.last_timestamp = progress.timestamp
        self._ahead = 0
        self._update()

    # Admission

    async def room(self) -> None:
        """Return when there is room for a batch, and nothing holds the source."""
        await self._room.wait()

    @property
    def is_held(self) -> bool:
        """Whether anything but a want of room keeps the source from taking messages in."""
        return not self._for_room.issuperset(self._holds)

    def hold(self, cause: str, reason: str, *, for_room: bool = False) -> None:
        """Pause admission until `release(cause)`; the reason is for people.

        With `for_room` it is for want of room, as in a queue: what is asked for besides the stream's messages goes on.
        """
        self._holds[cause] = reason
        if for_room:
            self._for_room.add(cause)
        self._update()

    def release(self, cause: str) -> None:
        """End the pause that this cause holds."""
        self._holds.pop(cause, None)
        self._update()

    def admit_one(self, cause: str) -> None:
        """Let one batch in although this cause holds; not where anything else does, or where there is no room."""
        if self._holds.keys() <= {cause} and not self._is_full:
            self._room.set()  # until the next change

    @property
    def paused(self) -> dict[str, str]:
        """Why admission pauses, by cause; empty where it does not."""
        reasons = dict(self._holds)
        if self.in_flight >= self.limit:
            reasons["window"] = f"{self.in_flight} messages are in flight"
        elif self._is_heavy:
            reasons["window"] = f"{self.in_flight} messages are in flight, with {self._bytes} bytes"
        if self._ahead >= self.max_ahead:
            reasons["max_ahead"] = f"{self._ahead} messages are finished beyond one that is not"
        return reasons

    @property
    def may_be_done(self) -> bool:
        """Whether an earlier run finished any message that is still to come."""
        return bool(self._done)

    @property
    def done_to_come(self) -> tuple[tuple[Range, ...], int | None]:
        """What an earlier run finished, and this one has not met again yet; and when the last of it was written."""
        return tuple(self._done_to_come()), self._done_newest

    def is_done(self, offset: int) -> bool:
        """Whether an earlier run finished this message, beyond its prefix."""
        if not self._done:
            return False
        place = bisect_right(self._starts, offset) - 1
        return place >= 0 and offset <= self._done[place][1]

    def begin(self, offset: int, timestamp: int) -> None:
        """Count what lies before the first message as done: a restart must not go back to what the start left out.

        The time is that of the first message itself: a restart knows the stream by it as long as that is not finished.
        """
        self._prefix, self._timestamp = offset - 1, timestamp

    def admit(self, flight: Flight) -> None:
        """Take a message in; offsets only rise."""
        self._items.append(flight)
        self.in_flight += 1
        message = flight.message
        self._bytes += message.size
        self.last = message.offset
        self.last_timestamp = message.timestamp

    def admit_done(self, offset: int, timestamp: int) -> None:
        """Take in a message that an earlier run finished."""
        items = self._items
        if items and type(before := items[-1]) is _Closed:
            items[-1] = _Closed(before.first, offset, timestamp, before.messages + 1)
        else:
            items.append(_Closed(offset, offset, timestamp, 1))
        self._ahead += 1
        self.last = offset
        self.last_timestamp = timestamp

    def admitted(self) -> None:
        """Say that a batch has been taken in."""
        if self._ahead and not self.in_flight:
            self.progress()  # nothing is in flight: what an earlier run finished joins the prefix now
        self._update()

    # Progress

    def progress(self, flights: Collection[Flight] = ()) -> Progress:
        """Where the source stands once these flights, which are done, are committed, beside those before them."""
        for flight in flights:
            flight.finished = True
        if self._pass_finished() < len(flights):  # the others lie beyond one that is not finished
            self._compact()
        closed = [item for item in self._items if type(item) is _Closed] if self._ahead else []
        ranges, to_come = [(item.first, item.last) for item in closed], self._done_to_come()
        newest = self._done_newest if to_come else closed[-1].timestamp if closed else None
        return Progress(self._prefix, self._timestamp, (*ranges, *to_come), newest)

    def committed(self, flights: Collection[Flight]) -> None:
        """Say that these flights are committed, and make room."""
        self.in_flight -= len(flights)
        self._bytes -= sum([flight.message.size for flight in flights])  # a list is faster than a generator
        self._update()

    @property
    def bytes(self) -> int:
        """How many bytes the messages in flight have together, their headers included."""
        return self._bytes

    @property
    def idle(self) -> bool:
        """Whether nothing is in flight."""
        return self.in_flight == 0

    async def wait_idle(self) -> None:
        """Return when nothing is in flight."""
        await self._idle.wait()

    def open(self) -> Iterable[Flight]:
        """The flights that are not finished."""
        return [item for item in self._items if type(item) is Flight and not item.finished]

    def _done_to_come(self) -> list[Range]:
        """What an earlier run finished, and this one has not met again yet."""
        if self._done and self._done[-1][1] <= self.last:
            self._done, self._starts = (), []
        return [(max(first, self.last + 1), last) for first, last in self._done if last > self.last]

    def _pass_finished(self) -> int:
        """Move the prefix to the first that is not finished; how many flights it has passed."""
        items, passed, flights = self._items, None, 0
        while items and (type(item := items[0]) is _Closed or item.finished):  # type: ignore[union-attr]
            passed = items.popleft()
            if type(passed) is _Closed:
                self._ahead -= passed.messages
            else:
                flights += 1
        if type(passed) is _Closed:
            self._prefix, self._timestamp = passed.last, passed.timestamp
        elif passed is not None:
            message = passed.message  # type: ignore[union-attr]
            self._prefix, self._timestamp = message.offset, message.timestamp
        return flights

    def _compact(self) -> None:
        """Turn each run of finished messages into one range."""
        kept: deque[Flight | _Closed] = deque()
        self._ahead = 0
        for item in self._items:
            if type(item) is Flight:
                if not item.finished:
                    kept.append(item)
                    continue
                message = item.message
                item = _Closed(message.offset, message.offset, message.timestamp, 1)  # noqa: PLW2901
            assert isinstance(item, _Closed)  # noqa: S101 - for the type checker
            self._ahead += item.messages
            if kept and type(before := kept[-1]) is _Closed:
                kept[-1] = _Closed(before.first, item.last, item.timestamp, before.messages + item.messages)
            else:
                kept.append(item)
        self._items = kept

    @property
    def _is_full(self) -> bool:
        return self.in_flight >= self.limit or self._ahead >= self.max_ahead or self._is_heavy

    @property
    def _is_heavy(self) -> bool:
        return self.limit_bytes is not None and self._bytes >= self.limit_bytes

    def _update(self) -> None:
        (self._room.clear if self._holds or self._is_full else self._room.set)()
        (self._idle.set if self.in_flight == 0 else self._idle.clear)()
