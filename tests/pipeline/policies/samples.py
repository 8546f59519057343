"""Calls as policies wrap them, and a clock that tests turn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pipeline.events import Event
from pipeline.handlers import Context, Delivery

__all__ = ["Calls", "Clock", "delivery", "ids"]


class Clock:
    """The time, as a test says it."""

    def __init__(self) -> None:
        self.at = 1_000.0

    def __call__(self) -> float:
        return self.at


def delivery(id: str, attempt: int = 1, *, key: str = "a.b", **data: Any) -> Delivery:  # noqa: A002
    event: Event[Any] = Event(id, key, data, {}, "application/json", b"{}", 1, "s", "st", 1)
    return Delivery(event, Context("x", "r", "g", id, attempt))


def ids(batch: Sequence[Delivery]) -> list[str]:
    return [each.event.id for each in batch]


class Calls:
    """A handler: what it was given, and what it says to each event."""

    def __init__(self, says: Mapping[str, BaseException] | Callable[[Sequence[Delivery]], None] | None = None) -> None:
        self.batches: list[list[str]] = []
        self.says = says or {}

    async def __call__(self, batch: Sequence[Delivery]) -> Sequence[BaseException | None] | None:
        self.batches.append(ids(batch))
        if callable(self.says):
            self.says(batch)
            return None
        found = [self.says.get(each.event.id) for each in batch]
        return found if any(found) else None
