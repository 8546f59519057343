"""Hints through arq: a queue in Redis, or in this process where there is no Redis; Redis may go and come back."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable, Collection, Coroutine, Sequence
from contextlib import suppress
from datetime import timedelta
from typing import Any, Final, TypeVar
from uuid import uuid4

from arq.connections import ArqRedis
from redis.exceptions import RedisError

from pipeline.errors import Unavailable, UserError
from pipeline.jobs.arq_worker import FUNCTION, ArqWorker, Stopped
from pipeline.jobs.ending import end_all
from pipeline.jobs.hints import Backlog, Consumer
from pipeline.jobs.redis_url import connection_pool, embedded_pool, refusal, to_json
from pipeline.policies.backoff import backoff

__all__ = ["ArqHints"]

_KEPT: Final = timedelta(days=30)
"""How long a hint lives that nobody takes. One that is gone is put again: this only spares arq's complaint of it."""
_AT_ONCE: Final = 16
"""Hints that are put at once: each takes a connection."""
_FIRST_WAIT: Final = 0.1
_LONGEST_WAIT: Final = 5.0
_LAST_WAIT: Final = 2.0
_FAILURES: Final = (RedisError, OSError, TimeoutError, RuntimeError)
"""The last is what uvloop raises for writing to a connection that the other side has just closed."""
_log = logging.getLogger("pipeline.jobs")

ResultT = TypeVar("ResultT")


class ArqHints:
    """A `HintQueue` on arq: each hint is one of its jobs, each served queue has one of its workers.

    Args:
        url: ``redis://``, ``rediss://`` or ``unix://``, with redis-py's parameters; None for a queue in this process.
        prefix: What the names of the queues' keys begin with.

    Raises:
        UserError: The URL is wrong.
    """

    def __init__(self, url: str | None, prefix: str = "pipeline") -> None:
        _quieten()
        self.is_local = url is None
        self.on_up: Callable[[], None] | None = None
        self._prefix = prefix
        pool = embedded_pool() if url is None else connection_pool(url)
        self._redis = ArqRedis(
            pool_or_conn=pool,
            job_serializer=to_json,
            expires_extra_ms=int(_KEPT.total_seconds() * 1000),
        )
        self._turns = asyncio.Semaphore(_AT_ONCE)
        self._up = asyncio.Event()
        self._up.set()
        self._recovery: asyncio.Task[None] | None = None
        self._servers: dict[str, asyncio.Task[None]] = {}
        self._workers: list[ArqWorker] = []
        self._stopped = False

    @property
    def is_up(self) -> bool:
        """See `HintQueue.is_up`."""
        return self._up.is_set()

    async def put(self, queue: str, batches: Sequence[Sequence[str]]) -> None:
        """See `HintQueue.put`."""
        await self._answer(self._redis.sadd(self._key("queues"), queue))  # type: ignore[arg-type]
        await self._answer(self._put_all(queue, batches))

    async def _put_all(self, queue: str, batches: Sequence[Sequence[str]]) -> None:
        await _all([self._put(queue, ids) for ids in batches])

    async def _put(self, queue: str, ids: Sequence[str]) -> None:
        async with self._turns:
            # The id tells how many jobs a hint holds, to those who have not read it yet.
            hint = f"{uuid4().hex}.{len(ids)}"
            await self._redis.enqueue_job(FUNCTION, list(ids), _job_id=hint, _queue_name=self._key("queue", queue))

    async def backlogs(self, queues: Collection[str]) -> dict[str, Backlog]:
        """See `HintQueue.backlogs`."""
        if not queues:
            return {}
        async with self._redis.pipeline(transaction=False) as pipe:
            for queue in queues:
                pipe.zcard(self._key("queue", queue))
                pipe.zrange(self._key("queue", queue), 0, 0, withscores=True)
            found = await self._answer(pipe.execute())
        now = time.time()
        return {
            queue: Backlog(hints, max(0.0, now - oldest[0][1] / 1000) if oldest else None)
            for queue, hints, oldest in zip(queues, found[::2], found[1::2], strict=True)
        }

    async def names(self) -> set[str]:
        """See `HintQueue.names`."""
        found: set[bytes] = await self._answer(self._redis.smembers(self._key("queues")))  # type: ignore[arg-type]
        return {name.decode() for name in found}

    def serve(self, queue: str, consumer: Consumer, concurrency: int) -> None:
        """See `HintQueue.serve`; goes on for ever, through every outage."""
        if queue not in self._servers and not self._stopped:
            self._servers[queue] = asyncio.create_task(
                self._serve(queue, consumer, concurrency), name=f"hints of {queue}"
            )

    async def probe(self) -> None:
        """See `HintQueue.probe`; writes, as a Redis that is full or a replica answers, too."""
        try:
            await self._redis.psetex(self._key("probe"), 1000, b"1")
        except _FAILURES as error:
            if said := refusal(error):
                raise UserError(said) from error
            raise Unavailable("queue", _reason(error)) from error

    async def stop(self) -> None:
        """See `HintQueue.stop`."""
        self._stopped = True
        await asyncio.gather(*(worker.stop_taking() for worker in self._workers))
        await end_all(self._servers.values(), within=_LAST_WAIT if self.is_up else 0.0)

    async def close(self) -> None:
        """See `HintQueue.close`; hints that are still being dealt with go back to the queue."""
        await self.stop()
        if self._recovery is not None:
            await end_all([self._recovery])
        await asyncio.gather(*(worker.end(_LAST_WAIT) for worker in self._workers))
        with suppress(*_FAILURES):
            await self._redis.aclose(close_connection_pool=True)

    # Serving

    async def _serve(self, queue: str, consumer: Consumer, concurrency: int) -> None:
        failures = 0
        while not self._stopped:
            await self._up.wait()
            began = time.monotonic()
            worker = ArqWorker(self._redis, self._key("queue", queue), queue, consumer, concurrency)
            self._workers = [*(old for old in self._workers if old.is_busy), worker]
            try:
                await worker.async_run()
            except Stopped:
                return
            except _FAILURES as error:
                self._fail(error)
            except Exception:  # noqa: BLE001 - whatever it is, the queue must be served on
                _log.exception("queue %s: its worker failed, and starts again", queue)
            failures = failures + 1 if time.monotonic() - began < _LONGEST_WAIT else 1
            await asyncio.sleep(backoff(failures, _FIRST_WAIT, _LONGEST_WAIT, jitter=0.2))

    # Outages

    async def _answer(self, call: Coroutine[Any, Any, ResultT]) -> ResultT:
        """What Redis answers."""
        if not self.is_up:
            call.close()
            raise Unavailable("queue", "Redis is away")
        try:
            return await call
        except _FAILURES as error:
            raise self._fail(error) from error

    def _fail(self, error: Exception) -> Unavailable:
        """Take note that Redis is away, and begin to wait for it."""
        unavailable = Unavailable("queue", _reason(error))
        if self.is_up and not self._stopped:
            _log.warning("%s; jobs wait in the database until Redis is back", unavailable)
            self._up.clear()
            self._recovery = asyncio.create_task(self._recover(), name="wait for Redis")
        return unavailable

    async def _recover(self) -> None:
        failures = 0
        while True:
            failures += 1
            await asyncio.sleep(backoff(failures, _FIRST_WAIT, _LONGEST_WAIT, jitter=0.2))
            try:
                await self.probe()
            except (Unavailable, UserError) as error:
                _log.debug("%s", error)
            except Exception:  # noqa: BLE001 - whatever it is, the queue must not stay away for ever because of it
                _log.exception("queue: whether Redis is back could not be found out; it is looked at again")
            else:
                break
        _log.info("queue: Redis is back")
        self._up.set()
        if self.on_up is not None:
            self.on_up()

    def _key(self, *parts: str) -> str:
        return ":".join((self._prefix, *parts))


def _quieten() -> None:
    """Of each hint arq tells twice; who wants to hear that sets its logger's level."""
    for name in ("arq.worker", "arq.connections"):
        log = logging.getLogger(name)
        if log.level == logging.NOTSET:
            log.setLevel(logging.WARNING)


async def _all(calls: Sequence[Coroutine[Any, Any, None]]) -> None:
    """Wait for all of them; raise the first failure when none is under way any more."""
    for result in await asyncio.gather(*calls, return_exceptions=True):
        if isinstance(result, BaseException):
            raise result


def _reason(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0] or type(error).__name__
