"""The ledger: what was published, how often the broker confirmed it, and what must come of it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from tests.integration.rig.events import Sent

__all__ = ["Entry", "Kind", "Ledger"]


class Kind(StrEnum):
    """What is expected of an event."""

    SIGNAL = "signal"
    """It is sent to its workflow, once and in order, and audited."""
    AUDIT = "audit"
    """It is audited, and nothing more."""
    EXECUTION = "execution"
    """It creates an entity, and starts an execution that leaves a task and a notification."""
    CHANGE = "change"
    """It changes an entity that is there."""
    REFUSED = "refused"
    """It is a dead letter, and audited as dead."""
    UNREADABLE = "unreadable"
    """It is a dead letter; no stage ever sees it."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One event of the ledger.

    Attributes:
        event: As it is published.
        kind: What is expected of it.
        source: The source that reads it: ``admin`` or ``governance``.
        key: Its ordering key; empty where it has none.
        sequence: Its place among the events of its key, from 1.
    """

    event: Sent
    kind: Kind
    source: str
    key: str = ""
    sequence: int = 0

    @property
    def id(self) -> str:
        """The event's id."""
        return self.event.id


class Ledger:
    """Everything that the broker has confirmed, in the order of publishing.

    Attributes:
        confirmed: How often each event was confirmed, by its id; more than once where it was repeated on purpose.
        uncertain: How many confirms never came, so that their events were published again.
    """

    def __init__(self) -> None:
        self._entries: dict[str, Entry] = {}
        self.confirmed: Counter[str] = Counter()
        self.uncertain = 0

    def __len__(self) -> int:
        return len(self._entries)

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __getitem__(self, event_id: str) -> Entry:
        return self._entries[event_id]

    def confirm(self, entries: Iterable[Entry]) -> None:
        """Enter what the broker has confirmed."""
        for entry in entries:
            self._entries.setdefault(entry.id, entry)
            self.confirmed[entry.id] += 1

    def of(self, *kinds: Kind) -> list[Entry]:
        """The entries of these kinds."""
        return [entry for entry in self if entry.kind in kinds]

    def by_key(self, *kinds: Kind) -> dict[str, list[str]]:
        """The ids of each ordering key, in the order of publishing."""
        found: dict[str, list[str]] = {}
        for entry in self.of(*kinds):
            found.setdefault(entry.key, []).append(entry.id)
        return found

    def write(self, file: Path) -> None:
        """Write it down, a JSON object a line, for whoever looks into a failure."""
        with file.open("w") as lines:
            for entry in self:
                said = {"id": entry.id, "kind": entry.kind, "routing_key": entry.event.routing_key, "key": entry.key,
                        "sequence": entry.sequence, "confirmed": self.confirmed[entry.id]}  # fmt: skip
                lines.write(json.dumps(said) + "\n")
