"""Pending jobs: what all hints of a queue name, in one line, so that small hints do not mean small batches."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence

__all__ = ["Pending"]


class _Hint:
    """One hint: over when none of its jobs is pending or running any more."""

    __slots__ = ("left", "over")

    def __init__(self, left: int) -> None:
        self.left = left
        self.over = asyncio.Event()


class Pending:
    """The jobs of one queue that wait for permits, in the order of their hints."""

    def __init__(self) -> None:
        self._line: deque[str] = deque()
        self._hints: dict[str, _Hint] = {}
        self.feeder: asyncio.Task[None] | None = None
        """The task that hands them out; None, or done, where there is none."""

    def __len__(self) -> int:
        return len(self._line)

    def __contains__(self, job: str) -> bool:
        return job in self._hints

    def add(self, ids: Sequence[str]) -> asyncio.Event:
        """Append the jobs of a hint, none of which is pending. Returns what is set when the hint is over."""
        hint = _Hint(len(ids))
        self._line.extend(ids)
        self._hints.update(dict.fromkeys(ids, hint))
        return hint.over

    def take(self, count: int) -> dict[str, _Hint]:
        """Take the first jobs out, to be run and then given to `end`."""
        ids = [self._line.popleft() for _ in range(count)]
        return {job: self._hints.pop(job) for job in ids}

    @staticmethod
    def end(taken: dict[str, _Hint]) -> None:
        """Take note that these are dealt with."""
        for hint in taken.values():
            hint.left -= 1
            if not hint.left:
                hint.over.set()
