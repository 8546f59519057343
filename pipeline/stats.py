"""The counters of a source and of a running instance, with the names of `reference/workflow-control-consumer.md`."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

from pipeline.events import Outcome

__all__ = ["InstanceStats", "SourceStats"]


@dataclass(slots=True)
class SourceStats:
    """What one source did since this runner started.

    Attributes:
        state: ``starting``, ``standby``, ``running``, ``paused``, ``draining``, ``stopped`` or ``failed``.
        reason: Why it is in that state, for people.
        outcomes: Committed messages by outcome.
        last_message_time: When the last batch was taken in.
        last_error: The last failure of a message or a dependency.
        prefix: Every message up to this offset is finished; -1 before the first.
        in_flight: How many messages are in flight.
    """

    source: str = ""
    state: str = "starting"
    reason: str = ""
    outcomes: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    last_message_time: datetime | None = None
    last_error: str | None = None
    prefix: int = -1
    in_flight: int = 0

    def failed_with(self, error: str) -> None:
        """Remember a message's failure."""
        self.last_error = error

    @property
    def processed(self) -> int:
        """Messages with an outcome."""
        return sum(self.outcomes.values())

    @property
    def failed(self) -> int:
        """Messages that are dead."""
        return self.outcomes[Outcome.DEAD]

    @property
    def is_healthy(self) -> bool:
        """Whether it takes messages in, or stands by for another runner."""
        return self.state in ("running", "standby", "draining")


@dataclass(slots=True)
class InstanceStats:
    """What one runner did since it started; in flight retries count as nothing yet.

    Attributes:
        running: Whether it is started and not stopped.
        messages_processed: Messages with an outcome.
        messages_succeeded: All of them but the dead.
        messages_failed: The dead.
        is_healthy: Whether every source takes messages in, or stands by.
        last_message_time: When the last batch was taken in.
        last_error: The last failure of a message or a dependency.
        sources: The same by source.
    """

    running: bool
    messages_processed: int
    messages_succeeded: int
    messages_failed: int
    is_healthy: bool
    last_message_time: datetime | None
    last_error: str | None
    sources: dict[str, SourceStats]

    @classmethod
    def of(cls, sources: dict[str, SourceStats], *, running: bool) -> InstanceStats:
        """The sum over the sources."""
        processed = sum(source.processed for source in sources.values())
        failed = sum(source.failed for source in sources.values())
        times = [source.last_message_time for source in sources.values() if source.last_message_time]
        errors = [source.last_error for source in sources.values() if source.last_error]
        healthy = running and all(source.is_healthy for source in sources.values())
        return cls(
            running,
            processed,
            processed - failed,
            failed,
            healthy,
            max(times, default=None),
            errors[-1] if errors else None,
            sources,
        )

    def as_json(self) -> dict[str, Any]:
        """As JSON values; times in ISO 8601, UTC."""
        values = asdict(self)
        values["last_message_time"] = _iso(self.last_message_time)
        for name, source in self.sources.items():
            entry = values["sources"][name]
            entry["last_message_time"] = _iso(source.last_message_time)
            entry["outcomes"] = {str(outcome): count for outcome, count in source.outcomes.items()}
        return values


def _iso(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z") if moment else None
