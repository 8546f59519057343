"""Damaged chunks: whether the bytes went wrong on their way, which another reading mends, or where they lie."""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from typing import Final

__all__ = ["Damage"]

_READINGS: Final = 3
"""How often the very same wrong bytes must come before they are taken for what the broker has."""
_BEFORE: Final = 5
"""The bytes of a frame that are not the chunk's: its key and version, and the subscription's id."""


_REMEMBERED: Final = 1_000
"""How many chunks: a bad place on a disk may hold many."""


class Damage:
    """What a connector remembers of damaged chunks, over all its connections: how often each came, of the latest."""

    def __init__(self) -> None:
        self._times: OrderedDict[tuple[str, bytes], int] = OrderedDict()

    def lasts(self, stream: str, frame: bytes) -> bool:
        """Note that this frame of the stream came damaged; whether its damage is there to stay."""
        key = (stream, hashlib.sha256(memoryview(frame)[_BEFORE:]).digest())
        times = self._times[key] = self._times.pop(key, 0) + 1
        if len(self._times) > _REMEMBERED:
            self._times.popitem(last=False)
        return times >= _READINGS
