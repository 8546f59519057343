"""How a process has its jobs run: which queues there are, what they are like, and which of them it serves."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from pipeline.config.models import QueueTable
from pipeline.jobs.hints import HintQueue

__all__ = ["JobSettings", "QueueTables", "hint_queue"]


@dataclass(frozen=True, slots=True)
class JobSettings:
    """How a process has its jobs run.

    Attributes:
        pipeline: Whose jobs.
        queues: The queues by name; one that is not among them is as `default` says.
        default: What such a queue is like.
        use_queue: Whether jobs have a queue; else this process runs all of them itself.
        url: Where Redis is; None for a queue in this process.
        prefix: What the keys in Redis begin with.
        inline: Whether this process runs the jobs of the queue `INLINE`: runners do, workers don't.
        serve: The queues that it serves besides; None for all, also those that turn up later; empty for none.
        create_streams: Whether streams that messages are left for are created where they are missing.
    """

    pipeline: str
    queues: Mapping[str, QueueTable] = field(default_factory=dict)
    default: QueueTable = field(default_factory=QueueTable)
    use_queue: bool = False
    url: str | None = None
    prefix: str = "pipeline"
    inline: bool = True
    serve: Sequence[str] | None = None
    create_streams: bool = False

    def table(self, queue: str) -> QueueTable:
        """The settings of a queue."""
        return self.queues.get(queue, self.default)


class QueueTables(dict[str, QueueTable]):
    """The queues' settings by name, with those of a queue that nobody declared."""

    def __init__(self, settings: JobSettings) -> None:
        super().__init__(settings.queues)
        self._default = settings.default

    def get(self, name: str, default: Any = None) -> Any:
        """The settings of any queue."""
        return super().get(name, self._default)


def hint_queue(url: str | None, prefix: str) -> HintQueue:
    """The queue of hints in Redis, or in this process where there is no URL. Raises `UserError` for a wrong URL."""
    from pipeline.jobs.arq_queue import ArqHints

    return ArqHints(url, prefix)
