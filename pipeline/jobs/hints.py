"""Hints: a queue that tells workers which jobs to look at; losing one delays its jobs, and loses nothing."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

from pipeline.jobs.ending import end_all

__all__ = ["Backlog", "Consumer", "HintQueue", "InlineHints"]

_log = logging.getLogger("pipeline.jobs")


class Consumer(Protocol):
    """Who runs the jobs that hints name: `Executor`."""

    async def run(self, queue: str, ids: Sequence[str]) -> None:
        """Run those of these jobs that can be claimed; returns when they are settled."""

    def waiting(self, queue: str) -> int:
        """How many jobs of a queue were handed over, and wait until others are done."""

    def waits(self, queue: str, ids: Sequence[str]) -> bool:
        """Whether any of these jobs is one of those that wait."""


@dataclass(frozen=True, slots=True)
class Backlog:
    """The hints of one queue that no worker has dealt with yet; those that are being dealt with count, too.

    Attributes:
        hints: How many there are.
        oldest: How many seconds ago the oldest was put; None where there is none.
    """

    hints: int
    oldest: float | None


class HintQueue(Protocol):
    """Carries hints from whoever leaves jobs to the workers: at least once, mostly in order, possibly never.

    Every method but `close` raises `Unavailable("queue", …)` where the queue can't be reached.

    Attributes:
        is_local: Whether only this process takes the hints that it puts.
        is_up: False while the queue is known to be out of reach; then nothing else need be tried.
        on_up: Called when it can be reached again.
    """

    is_local: bool
    on_up: Callable[[], None] | None

    @property
    def is_up(self) -> bool:
        """False while the queue is known to be out of reach."""

    async def put(self, queue: str, batches: Sequence[Sequence[str]]) -> None:
        """Leave a hint for each batch of job ids."""

    async def backlogs(self, queues: Collection[str]) -> dict[str, Backlog]:
        """What waits in each of these queues."""

    async def names(self) -> set[str]:
        """The queues that hints were put into, as far as it is known."""

    def serve(self, queue: str, consumer: Consumer, concurrency: int) -> None:
        """Hand the hints of a queue to a consumer from now on, until `stop`.

        Args:
            queue: The queue.
            consumer: Who runs the jobs.
            concurrency: How many of the queue's jobs it runs at once.
        """

    async def probe(self) -> None:
        """Return when the queue can be used now.

        Raises:
            Unavailable: It can't be reached.
            UserError: It refuses the login, or can't be used as it is configured.
        """

    async def stop(self) -> None:
        """Hand out no more hints; those that were handed out are dealt with on."""

    async def close(self) -> None:
        """Let go of everything, once the consumer has stopped."""


class InlineHints:
    """Hands each hint to this process's own consumer at once; there is no queue, and nothing to be reached."""

    is_local = True
    is_up = True

    def __init__(self) -> None:
        self.on_up: Callable[[], None] | None = None
        self._consumers: dict[str, Consumer] = {}
        self._running: dict[asyncio.Task[None], tuple[str, float]] = {}
        self._names: set[str] = set()
        self._stopped = False

    async def put(self, queue: str, batches: Sequence[Sequence[str]]) -> None:
        """See `HintQueue.put`; where nobody serves the queue, or not any more, the hint is lost."""
        self._names.add(queue)
        consumer = self._consumers.get(queue)
        if consumer is None or self._stopped:
            return
        for ids in batches:
            task = asyncio.create_task(_run(consumer, queue, ids), name=f"hint of {queue}")
            self._running[task] = (queue, time.monotonic())
            task.add_done_callback(self._running.pop)

    async def backlogs(self, queues: Collection[str]) -> dict[str, Backlog]:
        """See `HintQueue.backlogs`."""
        now = time.monotonic()
        ages: dict[str, list[float]] = {queue: [] for queue in queues}
        for queue, began in self._running.values():
            if queue in ages:
                ages[queue].append(now - began)
        return {queue: Backlog(len(found), max(found, default=None)) for queue, found in ages.items()}

    async def names(self) -> set[str]:
        """See `HintQueue.names`."""
        return set(self._names)

    def serve(self, queue: str, consumer: Consumer, concurrency: int) -> None:
        """See `HintQueue.serve`; the consumer alone limits how many run at once."""
        self._consumers[queue] = consumer

    async def probe(self) -> None:
        """There is nothing that could be away."""

    async def stop(self) -> None:
        """See `HintQueue.stop`."""
        self._stopped = True

    async def close(self) -> None:
        """See `HintQueue.close`."""
        self._stopped = True
        await end_all(self._running)


async def _run(consumer: Consumer, queue: str, ids: Sequence[str]) -> None:
    try:
        await consumer.run(queue, ids)
    except Exception:  # noqa: BLE001 - a hint that fails must not end the process
        _log.exception("queue %s: %d jobs could not be run; they will be tried again", queue, len(ids))
