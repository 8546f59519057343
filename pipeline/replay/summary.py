"""What is told of a replay: how far it is while it runs, and at its end what it did."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from pipeline.events import Outcome

__all__ = ["ReplayProgress", "ReplaySummary"]


@dataclass(frozen=True, slots=True)
class ReplayProgress:
    """How far a replay is now.

    Attributes:
        done: How many offsets of the range are finished, by earlier runs of it too.
        total: How many it has: at most so many messages.
        processed: Messages that this run has finished.
        handled: How many of them routes have handled, well or not: all but those that were filtered.
        dead: How many of them are dead.
        in_flight: Messages in flight.
        state: As in `pipeline.stats.SourceStats`.
        reason: Why it is in that state, for people.
    """

    done: int
    total: int
    processed: int
    handled: int
    dead: int
    in_flight: int
    state: str
    reason: str


@dataclass(slots=True)
class ReplaySummary:
    """What a replay did.

    Attributes:
        name: The replay's name.
        group: Its consumer group: of its progress, its dead letters and its request ids.
        source: The source.
        stream: The stream.
        first: The first offset of the range.
        last: The last offset of the range.
        finished: Whether everything in the range has an outcome.
        done: How many offsets of the range are finished.
        outcomes: Messages by outcome, those of earlier runs of this replay included.
        this_run: The same of this run alone.
        routes: For each route that ended in this run how often it ended how.
        unreadable: Messages that this run could not decode and that left no dead letter; they count as filtered.
        unreadable_known: How many of them have a dead letter of the source or of another replay.
        seconds: How long this run took.
        left_jobs: Whether this run left jobs, which runners and workers run.
        lost: How many offsets of the range the stream's retention removed before this run could read them.
    """

    name: str
    group: str
    source: str
    stream: str
    first: int
    last: int
    finished: bool
    done: int
    outcomes: dict[str, int] = field(default_factory=dict)
    this_run: dict[str, int] = field(default_factory=dict)
    routes: dict[str, dict[str, int]] = field(default_factory=dict)
    unreadable: int = 0
    unreadable_known: int = 0
    seconds: float = 0.0
    left_jobs: bool = False
    lost: int = 0

    @property
    def processed(self) -> int:
        """Messages that this run has finished."""
        return sum(self.this_run.values())

    @property
    def dead(self) -> int:
        """Messages that are dead, those of earlier runs of this replay included."""
        return self.outcomes.get(Outcome.DEAD.value, 0)

    @property
    def events_per_second(self) -> float:
        """Messages that this run's routes handled, well or not, per second."""
        handled = self.processed - self.this_run.get(Outcome.FILTERED.value, 0)
        return handled / self.seconds if self.seconds else 0.0

    def as_json(self) -> dict[str, Any]:
        """As JSON values."""
        told = {"processed": self.processed, "dead": self.dead}
        return asdict(self) | told | {"events_per_second": round(self.events_per_second, 1)}
