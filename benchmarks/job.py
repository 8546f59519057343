"""What one measured process is told, and what it tells: two records that travel as JSON."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import orjson

__all__ = ["Job", "Result"]


@dataclass(frozen=True, slots=True)
class Job:
    """What one measured process is to do.

    Attributes:
        program: Module and function in `benchmarks.variants`, as in ``rstream_loop:run``.
        events: How many events to take, the warm-up included.
        warmup: How many of them come before the clock starts.
        folder: An empty folder of the job's own.
        stream_url: RabbitMQ's stream protocol; empty where the program needs none.
        amqp_url: RabbitMQ's AMQP 0.9.1.
        stream: The stream to read or to write.
        database_url: A database of the job's own, empty.
        redis_url: Redis.
        redis_prefix: What the names of the job's keys there begin with; they are deleted afterwards.
        options: What else the program takes.
    """

    program: str
    events: int
    warmup: int
    folder: str
    stream_url: str = ""
    amqp_url: str = ""
    stream: str = ""
    database_url: str = ""
    redis_url: str = ""
    redis_prefix: str = ""
    options: dict[str, Any] = field(default_factory=dict)

    def path(self, name: str) -> Path:
        """A file of the job's own."""
        return Path(self.folder) / name

    def as_json(self) -> bytes:
        """The job as JSON."""
        return orjson.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Job:
        """The job that JSON describes."""
        return cls(**orjson.loads(text))


@dataclass(frozen=True, slots=True)
class Result:
    """What one measured process saw.

    Attributes:
        counted: Events counted in all, those before and after the clock ran included.
        events: Events between the clock's start and its end.
        seconds: Wall time between the two.
        cpu: CPU time of the process between the two, in seconds, all its threads together.
        latencies: Milliseconds by name (``p50``), where latency was measured.
    """

    counted: int
    events: int
    seconds: float
    cpu: float
    latencies: dict[str, float] = field(default_factory=dict)

    @property
    def rate(self) -> float:
        """Events per second."""
        return self.events / self.seconds if self.seconds > 0 else 0.0

    @property
    def cpu_each(self) -> float:
        """Microseconds of CPU time per event."""
        return self.cpu / self.events * 1e6 if self.events else 0.0

    def as_json(self) -> bytes:
        """The result as JSON."""
        return orjson.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str | bytes) -> Result:
        """The result that JSON describes."""
        return cls(**orjson.loads(text))
