"""What one run of a replay counts: how its routes ended, and what can't be read and leaves no dead letter."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

from pipeline.connectors import Message
from pipeline.events import Outcome

__all__ = ["Tally"]


class Tally:
    """Counts, and decides whether a message that can't be decoded leaves a dead letter.

    It leaves none where the source, or another replay of it, has left one for it already; nor where only some routes
    or stages run again, as it reaches none of them.

    Args:
        known: Offsets of messages that have such a dead letter.
        is_part: Whether only some routes or stages run again.

    Attributes:
        unreadable: Messages that could not be decoded and left no dead letter.
        unreadable_known: How many of them have one already.
    """

    def __init__(self, known: Collection[int], *, is_part: bool) -> None:
        self._known = known
        self._is_part = is_part
        self._routes: Counter[tuple[str, Outcome]] = Counter()
        self.unreadable = 0
        self.unreadable_known = 0

    def route_ended(self, route: str, outcome: Outcome) -> None:
        """A message's route has ended."""
        self._routes[route, outcome] += 1

    def leaves_no_letter(self, message: Message) -> bool:
        """Whether a message that can't be decoded leaves no dead letter; then it is counted."""
        known = message.offset in self._known
        if not known and not self._is_part:
            return False
        self.unreadable += 1
        self.unreadable_known += known
        return True

    def routes(self) -> dict[str, dict[str, int]]:
        """For each route that ended how often it ended how."""
        told: dict[str, dict[str, int]] = {}
        for (route, outcome), count in sorted(self._routes.items()):
            told.setdefault(route, {})[outcome.value] = count
        return told
