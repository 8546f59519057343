"""The mix of events that is published: signals, audits, entities, bad ones and repeats, all from one seed."""

from __future__ import annotations

import json
import random
from collections import Counter, deque
from collections.abc import Mapping, Sequence

from tests.chaos.entries import Entry, Kind
from tests.integration.rig.events import KINDS, Sent, admin_event
from tests.integration.rig.governance import entity_event

__all__ = ["ADMIN", "GOVERNANCE", "Mix"]

ADMIN = "admin"
GOVERNANCE = "governance"

_WEIGHTS = {Kind.SIGNAL: 35, Kind.AUDIT: 28, Kind.EXECUTION: 20, Kind.CHANGE: 14, Kind.REFUSED: 2, Kind.UNREADABLE: 1}
_REPEATED = 0.03
_REPEATED_WITHIN = 300


class Mix:
    """An endless series of entries; the same seed gives the same one.

    Args:
        seed: Of the dice.
        workflows: The ids of the workflows that may be signalled.
        weights: How often each kind comes.
        repeated: The part of the events that is published a second time, a while later.
    """

    def __init__(
        self,
        seed: int,
        workflows: Sequence[str],
        weights: Mapping[Kind, int] | None = None,
        repeated: float = _REPEATED,
    ) -> None:
        self._dice = random.Random(seed)
        self._workflows = workflows
        self._kinds, self._weights = zip(*(weights or _WEIGHTS).items(), strict=True)
        self._repeated = repeated
        self._entities: list[str] = []
        self._sequences: Counter[str] = Counter()
        self._repeats: deque[tuple[int, Entry]] = deque()
        self._number = 0

    def take(self, count: int) -> list[Entry]:
        """The next so many new entries, with the repeats that are due among them."""
        taken = []
        for _ in range(count):
            self._number += 1
            entry = self._make(self._dice.choices(self._kinds, self._weights)[0])
            taken.append(entry)
            if self._dice.random() < self._repeated and not entry.event.raw:
                self._repeats.append((self._number + self._dice.randint(1, _REPEATED_WITHIN), entry))
            while self._repeats and self._repeats[0][0] <= self._number:
                taken.append(self._repeats.popleft()[1])
        return taken

    def _make(self, kind: Kind) -> Entry:
        id_ = f"event-{self._number}"
        if kind is Kind.CHANGE and not self._entities:
            kind = Kind.EXECUTION
        match kind:
            case Kind.SIGNAL:
                return self._signal(id_)
            case Kind.AUDIT:
                return Entry(Sent(id_, "admin.audit.seen", _json(number=self._number)), kind, ADMIN)
            case Kind.EXECUTION | Kind.CHANGE:
                return self._entity(id_, kind)
            case Kind.REFUSED:
                return Entry(self._refused(id_), kind, ADMIN)
            case _:
                return Entry(self._unreadable(id_), kind, self._dice.choice([ADMIN, GOVERNANCE]))

    def _signal(self, id_: str) -> Entry:
        workflow = self._dice.choice(self._workflows)
        self._sequences[workflow] += 1
        event = admin_event(id_, workflow, self._dice.choice(KINDS))
        return Entry(event, Kind.SIGNAL, ADMIN, workflow, self._sequences[workflow])

    def _entity(self, id_: str, kind: Kind) -> Entry:
        if kind is Kind.EXECUTION:
            entity, change = f"policy-{self._number}", "created"
            self._entities.append(entity)
        else:
            entity, change = self._dice.choice(self._entities[-500:]), "updated"
        self._sequences[entity] += 1
        sequence = self._sequences[entity]
        event = entity_event(id_, change, entity, new={"sequence": sequence})
        return Entry(event, kind, GOVERNANCE, entity, sequence)

    def _refused(self, id_: str) -> Sent:
        match self._dice.randrange(3):
            case 0:
                return admin_event(id_, None)
            case 1:
                return admin_event(id_, self._dice.choice(self._workflows), "exploded")
            case _:
                return admin_event(id_, f"nowhere-{id_}")

    def _unreadable(self, id_: str) -> Sent:
        if self._dice.random() < 0.5:
            return Sent(id_, "admin.workflow.paused", f'{{"broken": "{id_}"'.encode())
        return Sent(id_, "", f"no AMQP message, but {id_}.".encode(), raw=True)


def _json(**data: object) -> bytes:
    return json.dumps(data).encode()
