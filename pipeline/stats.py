"""The figures of a running process, with the names of `reference/workflow-control-consumer.md`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any, Final, Literal

from pipeline.events import Outcome

__all__ = ["ConnectionStats", "InstanceStats", "SourceStats"]

_LONGEST_ERROR: Final = 1_000


@dataclass(slots=True)
class ConnectionStats:
    """How a connection to another system stands.

    Attributes:
        state: ``connecting`` until it has answered or failed for the first time, then ``up`` or ``down``.
        since: Since when.
        reason: Why it is down, for people.
    """

    state: Literal["connecting", "up", "down"]
    since: datetime
    reason: str = ""


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
        lost_to_retention: How many offsets the stream's retention removed before they were read: so many messages, or a
            few less, as offsets have gaps.
    """

    source: str = ""
    state: str = "starting"
    reason: str = ""
    outcomes: dict[Outcome, int] = field(default_factory=lambda: dict.fromkeys(Outcome, 0))
    last_message_time: datetime | None = None
    last_error: str | None = None
    prefix: int = -1
    in_flight: int = 0
    lost_to_retention: int = 0

    def failed_with(self, error: str) -> None:
        """Remember a message's failure; not all of a long one, as each sign of life tells it."""
        self.last_error = error[:_LONGEST_ERROR]

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
        """Whether it takes messages in, stands by for another runner, or was told to stop."""
        return self.state in ("running", "standby", "draining", "stopped")


@dataclass(slots=True)
class InstanceStats:
    """What one process did since it started; in flight retries count as nothing yet.

    Attributes:
        running: Whether it is started and not stopped.
        messages_processed: Messages with an outcome.
        messages_succeeded: All of them but the dead.
        messages_failed: The dead.
        is_healthy: Whether every source takes messages in, stands by, or was told to stop, and every connection is up.
        last_message_time: When the last batch was taken in.
        last_error: The last failure of a message or a dependency.
        sources: The same by source.
        kind: ``runner`` or ``worker``.
        reason: Why it is not healthy, for people; empty where it is.
        connections: Its connections, by the dependency's name: ``broker``, ``database``, ``queue``, and resources'.
        jobs_in_flight: How many jobs it is at.
        longest_block: For how many seconds its event loop did nothing else, at most: a handler called what blocks.
    """

    running: bool
    messages_processed: int
    messages_succeeded: int
    messages_failed: int
    is_healthy: bool
    last_message_time: datetime | None
    last_error: str | None
    sources: dict[str, SourceStats]
    kind: Literal["runner", "worker"] = "runner"
    reason: str = ""
    connections: dict[str, ConnectionStats] = field(default_factory=dict)
    jobs_in_flight: int = 0
    longest_block: float = 0.0

    @classmethod
    def of(
        cls,
        sources: dict[str, SourceStats],
        *,
        running: bool,
        kind: Literal["runner", "worker"] = "runner",
        connections: Mapping[str, ConnectionStats] | None = None,
        jobs_in_flight: int = 0,
        longest_block: float = 0.0,
    ) -> InstanceStats:
        """The sum over the sources, and the health that follows from all of it."""
        connections = dict(connections or {})
        processed = sum(source.processed for source in sources.values())
        failed = sum(source.failed for source in sources.values())
        times = [source.last_message_time for source in sources.values() if source.last_message_time]
        errors = [source.last_error for source in sources.values() if source.last_error]
        reason = _why_unhealthy(sources, connections) if running else f"the {kind} does not run"
        return cls(
            running, processed, processed - failed, failed, not reason, max(times, default=None),
            errors[-1] if errors else None, sources, kind, reason, connections, jobs_in_flight, longest_block,
        )  # fmt: skip

    def as_json(self) -> dict[str, Any]:
        """As JSON values; times in ISO 8601, UTC."""
        values = asdict(self)
        values["last_message_time"] = _iso(self.last_message_time)
        for name, source in self.sources.items():
            entry = values["sources"][name]
            entry["last_message_time"] = _iso(source.last_message_time)
            entry["outcomes"] = {str(outcome): count for outcome, count in source.outcomes.items()}
        for name, connection in self.connections.items():
            values["connections"][name]["since"] = _iso(connection.since)
        values["longest_block"] = round(self.longest_block, 3)
        return values


def _why_unhealthy(sources: Mapping[str, SourceStats], connections: Mapping[str, ConnectionStats]) -> str:
    """Every reason, in one line; empty where all is well."""
    reasons = [f"{name} is down: {each.reason}" for name, each in connections.items() if each.state == "down"]
    reasons += [
        f"source {name} is {source.state}" + (f": {source.reason}" if source.reason else "")
        for name, source in sources.items()
        if not source.is_healthy
    ]
    return "; ".join(reasons)


def _iso(moment: datetime | None) -> str | None:
    return moment.astimezone(UTC).isoformat(timespec="seconds").replace("+00:00", "Z") if moment else None
