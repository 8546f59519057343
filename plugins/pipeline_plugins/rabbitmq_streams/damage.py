"""Damage: whether bytes went wrong on their way, which another reading mends, or where they lie."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Final

from pipeline.connectors import Start

__all__ = ["Damage"]

_READINGS: Final = 3
"""How often the very same wrong bytes must come before they are taken for what the broker has."""
_BEFORE: Final = 5
"""The bytes of a frame that are not the chunk's: its key and version, and the subscription's id."""
_DEAD_ENDS: Final = 5
"""How often in a row a read must end before anything came until the place where it began is taken for unreadable."""
_REMEMBERED: Final = 1_000
"""How many chunks, and places: a bad place on a disk may hold many."""


class Damage:
    """What a connector remembers of damage, over all its connections.

    How often each damaged chunk came, of the latest; and how often a stream could not be read from the same place.
    """

    def __init__(self) -> None:
        self._times: OrderedDict[tuple[str, bytes], int] = OrderedDict()
        self._dead_ends: OrderedDict[tuple[str, Start], int] = OrderedDict()

    def lasts(self, stream: str, frame: bytes) -> bool:
        """Note that this frame of the stream came damaged; whether its damage is there to stay."""
        key = (stream, hashlib.sha256(memoryview(frame)[_BEFORE:]).digest())
        times = self._times[key] = self._times.pop(key, 0) + 1
        if len(self._times) > _REMEMBERED:
            self._times.popitem(last=False)
        return times >= _READINGS

    def came(self, stream: str, start: Start) -> None:
        """Note that the stream could be read from this place."""
        self._dead_ends.pop((stream, start), None)

    def is_dead_end(self, stream: str, start: Start) -> bool:
        """Note that a read from this place ended before anything came; whether it does so again and again."""
        times = self._dead_ends[stream, start] = self._dead_ends.pop((stream, start), 0) + 1
        if len(self._dead_ends) > _REMEMBERED:
            self._dead_ends.popitem(last=False)
        return times >= _DEAD_ENDS
