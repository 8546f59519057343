"""One queue's worker: arq's own, which takes only as many hints as there is room for."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, Final

import arq.worker
from arq.connections import ArqRedis
from arq.constants import in_progress_key_prefix
from arq.worker import Worker, func
from redis.exceptions import RedisError

from pipeline.jobs.ending import end_all
from pipeline.jobs.hints import Consumer
from pipeline.jobs.redis_url import from_json, to_json

__all__ = ["FUNCTION", "ArqWorker", "Stopped"]

FUNCTION: Final = "run_jobs"
"""The name of the one function, in arq's sense."""

_POLL: Final = 0.07
"""Seconds between two looks: what a job waits at most on an idle system. Ten idle queues take 3% of a core."""
_HELD: Final = 10.0
"""Seconds that a hint is held while its jobs run; later they run without it, for their claims are in the database.
While some of them wait for others it is held on: the queue would else be told of them again, and again."""
_TIMEOUT: Final = 86_400.0 * 365
"""Seconds after which arq would cancel it, so never."""
_SILENT: Final = 25
"""Seconds after which a hint is offered anew whose worker died; one that lives says so whenever `_HELD` has passed."""
_AHEAD: Final = 2_000
_AHEAD_OF_EACH: Final = 20
"""Jobs that may wait in this process for others to be done, at most and for each that may run at once: between two
looks there must be enough to do, and no more, for what waits here no other worker takes."""
_READ: Final = 2_000
"""Hints that one look reads; there are hardly ever more, as the relay stops at a thousand."""
_log = logging.getLogger("pipeline.jobs")


class Stopped(Exception):
    """Ends a worker's loop between two looks: a cancellation amid a command may be swallowed by the client."""


class ArqWorker(Worker):
    """arq's worker of one queue.

    Args:
        redis: The connections, which it does not close.
        key: The queue's key in Redis.
        queue: The queue.
        consumer: Who runs the jobs.
        concurrency: How many of the queue's jobs the consumer runs at once.
    """

    def __init__(self, redis: ArqRedis, key: str, queue: str, consumer: Consumer, concurrency: int) -> None:
        # It only logs what INFO says, and would not start where Redis does not allow it, or the embedded one lacks it.
        arq.worker.log_redis_info = _say_nothing  # type: ignore[attr-defined, assignment]
        super().__init__(
            # A hint is tried again only when it was given back or its worker died, and that does no harm.
            functions=[func(self._run, name=FUNCTION, timeout=_TIMEOUT, max_tries=2**31)],  # type: ignore[arg-type]
            queue_name=key,
            redis_pool=redis,
            handle_signals=False,
            keep_result=0,
            log_results=False,
            poll_delay=_POLL,
            max_jobs=concurrency + _AHEAD,
            queue_read_limit=_READ,
            job_serializer=to_json,
            job_deserializer=from_json,
        )
        self.in_progress_timeout_s = _SILENT
        self._ahead = min(_AHEAD, concurrency * _AHEAD_OF_EACH)
        self._queue = queue
        self._consumer = consumer
        self._starting: set[str] = set()
        self._picking = asyncio.Lock()
        self._stopped = False
        self._runs: set[asyncio.Task[None]] = set()

    @property
    def is_busy(self) -> bool:
        """Whether it has hints in its hands."""
        return any(not task.done() for task in self.tasks.values())

    async def start_jobs(self, job_ids: list[bytes]) -> None:
        """Start those hints that nobody is at, in random order, as long as there is room for their jobs.

        arq would ask for each hint, again with each look, whether somebody is at it; and workers side by side would all
        reach for the same one.

        Raises:
            Stopped: No more hints are to be taken; this ends the worker's loop.
        """
        if self._stopped:
            raise Stopped
        if not job_ids or (room := self._room()) <= 0:
            return
        async with self._picking:
            taken = await self.pool.mget([in_progress_key_prefix + hint.decode() for hint in job_ids])
            # One that this worker is at may look free: on a busy machine its key runs out before it is renewed.
            free = [
                hint
                for hint, holder in zip(job_ids, taken, strict=True)
                if holder is None and hint.decode() not in self.tasks
            ]
            chosen = list(_fitting(free, room))
            random.shuffle(chosen)
            self._starting.update(hint.decode() for hint in chosen)
            try:
                if not self._stopped:
                    await super().start_jobs(chosen)
            finally:
                self._starting.intersection_update(self.tasks)
                for hint in chosen:
                    if (task := self.tasks.get(hint.decode())) is not None:
                        task.add_done_callback(_see)

    def _room(self) -> int:
        """For how many jobs there is room, besides those of hints that were started and not read yet."""
        self._starting = {hint for hint in self._starting if hint in self.tasks and not self.tasks[hint].done()}
        return self._ahead - self._consumer.waiting(self._queue) - sum(map(_size, self._starting))

    async def _run(self, context: dict[str, Any], ids: list[str]) -> None:
        """What arq calls for a hint."""
        self._starting.discard(context["job_id"])
        run = asyncio.create_task(self._consume(ids), name=f"hint of {self._queue}")
        self._runs.add(run)
        run.add_done_callback(self._runs.discard)
        await asyncio.wait([run], timeout=_HELD)
        while not run.done() and self._consumer.waits(self._queue, ids):
            with suppress(RedisError, OSError, TimeoutError):  # whoever serves the queue notices that, too
                await self.pool.pexpire(in_progress_key_prefix + context["job_id"], _SILENT * 1000)
            await asyncio.wait([run], timeout=_HELD)

    async def _consume(self, ids: list[str]) -> None:
        try:
            await self._consumer.run(self._queue, ids)
        except Exception:  # noqa: BLE001 - a hint that fails must not end the worker
            _log.exception("queue %s: %d jobs could not be run; they will be tried again", self._queue, len(ids))

    async def stop_taking(self) -> None:
        """Take no more hints; returns when none is being taken."""
        self._stopped = True
        with suppress(TimeoutError):
            async with asyncio.timeout(1.0):
                async with self._picking:
                    pass

    async def end(self, wait: float) -> None:
        """Let hints be finished for some seconds; those that are not go back to the queue."""
        tasks = list(self.tasks.values())
        if tasks:
            await asyncio.wait(tasks, timeout=wait)
        await end_all([*tasks, *self._runs])


def _size(hint: str) -> int:
    """How many jobs a hint holds, by its id; 1 for one of which it can't be told."""
    number = hint.rpartition(".")[2]
    return int(number) if number.isdecimal() else 1


def _fitting(hints: Iterable[bytes], room: int) -> Iterable[bytes]:
    """The first hints that there is room for; the last of them may be too big."""
    for hint in hints:
        if room <= 0:
            return
        yield hint
        room -= _size(hint.decode())


def _see(task: asyncio.Task[Any]) -> None:
    """Redis may be away when a hint is to be finished; whoever serves the queue notices that by other means, too."""
    if not task.cancelled():
        task.exception()


async def _say_nothing(*_: Any) -> None:
    """In place of arq's own `log_redis_info`."""
