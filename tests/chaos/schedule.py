"""The schedule of faults: which happens when, all from the seed."""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Sequence

from tests.chaos.faults import Fault, FaultKind, can_befall
from tests.chaos.parts import Part

__all__ = ["LEAST", "possible", "schedule"]

LEAST = 5
"""How often each kind happens at least, where there are enough faults."""

_SECONDS: dict[FaultKind, tuple[float, float]] = {
    FaultKind.KILL: (0.2, 4.0),
    FaultKind.PAUSE: (2.0, 14.0),  # a runner's lease lasts 10 s: another one takes over, or does not
    FaultKind.STUTTER: (4.0, 10.0),
    FaultKind.RESTART: (0.0, 2.0),
    FaultKind.DROP: (0.5, 8.0),
    FaultKind.BLACKHOLE: (3.0, 30.0),
    FaultKind.DISK: (3.0, 8.0),
    FaultKind.AMNESIA: (0.2, 2.0),
}


def possible(parts: Iterable[Part]) -> set[tuple[FaultKind, str]]:
    """Which kind of fault may befall which part."""
    return {(kind, part.name) for kind in FaultKind for part in parts if can_befall(kind, part)}


def schedule(seed: int, pairs: Collection[tuple[FaultKind, str]], count: int, seconds: float) -> list[Fault]:
    """Faults for a run that publishes for so many seconds, in their order.

    Every kind befalls every part that it can, and at least `LEAST` times in all, as far as the count allows.

    Args:
        seed: Of the dice.
        pairs: Which kind may befall which part.
        count: How many there are.
        seconds: How long events are published.
    """
    dice = random.Random(seed)
    deck = _deck(dice, sorted(pairs), count)
    apart = 0.85 * seconds / max(1, len(deck))
    return [
        Fault(round(2 + apart * (number + dice.random() / 2), 1), kind, part, round(dice.uniform(*_SECONDS[kind]), 1))
        for number, (kind, part) in enumerate(deck)
    ]


def _deck(dice: random.Random, pairs: Sequence[tuple[FaultKind, str]], count: int) -> list[tuple[FaultKind, str]]:
    deck = list(pairs)
    for kind in sorted({kind for kind, _ in pairs}):
        ours = [pair for pair in pairs if pair[0] is kind]
        deck += [dice.choice(ours) for _ in range(LEAST - len(ours))]
    deck += [dice.choice(pairs) for _ in range(count - len(deck))]
    dice.shuffle(deck)
    return deck[:count]
