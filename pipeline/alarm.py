"""The alarm: tells a webhook that a process has been unhealthy for a while, and that it is well again."""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final, Protocol

from pipeline.config.alarm import AlarmTable
from pipeline.policies.backoff import backoff
from pipeline.stats import InstanceStats
from pipeline.webhook import Webhook, WebhookRefused

__all__ = ["Alarm", "Post"]

_LOOK_SECONDS: Final = 1.0
_FIRST_WAIT: Final = 1.0
_LONGEST_WAIT: Final = 60.0
_KEPT: Final = 20
"""Messages that wait for a receiver that is away; the oldest give way."""
_log = logging.getLogger("pipeline.alarm")


class Post(Protocol):
    """Posts messages."""

    async def __call__(self, id_: str, payload: dict[str, Any], /) -> None:
        """Post one: see `Webhook.post`."""


@dataclass(slots=True)
class _Message:
    id: str
    payload: dict[str, Any]


class Alarm:
    """Looks at a process's health from `start` on; its messages go out beside everything else, and delay nothing.

    An episode begins when the process has been unhealthy for the hold-off, and ends when it has been healthy for as
    long: a state that changes faster than that is told once.

    Args:
        table: Where to, and how.
        pipeline: The pipeline's name.
        stats: What the process did so far.
        post: Posts a message; by default to the table's webhook.
        clock: Rising seconds.
        look: Seconds between two looks.
        first_wait: The wait after a message could not be posted; doubled for each further time.
    """

    def __init__(
        self,
        table: AlarmTable,
        pipeline: str,
        stats: Callable[[], InstanceStats],
        *,
        post: Post | None = None,
        clock: Callable[[], float] = monotonic,
        look: float = _LOOK_SECONDS,
        first_wait: float = _FIRST_WAIT,
    ) -> None:
        self._table = table
        self._pipeline = pipeline
        self._stats = stats
        self._post = post or _webhook(table).post
        self._clock = clock
        self._look = look
        self._first_wait = first_wait
        self._told_at: float | None = None  # the episode's last message; None while there is no episode
        self._began = ""
        self._changed = clock()
        self._was_healthy = True
        self._waiting: deque[_Message] = deque(maxlen=_KEPT)
        self._more = asyncio.Event()

    def start(self) -> list[asyncio.Task[None]]:
        """Begin; the tasks go on until they are cancelled."""
        return [
            asyncio.create_task(self._watch(), name="look at the health"),
            asyncio.create_task(self._deliver(), name="tell of the health"),
        ]

    async def _watch(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(self._look)

    def look(self) -> None:
        """Look at the health now."""
        stats, now = self._stats(), self._clock()
        if stats.is_healthy != self._was_healthy:
            self._was_healthy, self._changed = stats.is_healthy, now
            if not stats.is_healthy and self._told_at is None:
                self._began = _iso(datetime.now(UTC))
        if now - self._changed < self._table.hold_off:
            return
        if stats.is_healthy:
            if self._told_at is not None:
                self._told_at = None
                self._tell("healthy", stats)
        elif self._told_at is None or (self._table.repeat and now - self._told_at >= self._table.repeat):
            self._told_at = now
            self._tell("unhealthy", stats)

    def _tell(self, status: str, stats: InstanceStats) -> None:
        payload = {
            "type": f"pipeline.{status}",
            "pipeline": self._pipeline,
            "kind": stats.kind,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "status": status,
            "reason": stats.reason,
            "unhealthy_since": self._began,
            "at": _iso(datetime.now(UTC)),
            "sources": {name: {"state": each.state, "reason": each.reason} for name, each in stats.sources.items()},
            "connections": {
                name: {"state": each.state, "reason": each.reason} for name, each in stats.connections.items()
            },
        }
        self._waiting.append(_Message(f"msg_{secrets.token_hex(16)}", payload))
        self._more.set()

    async def _deliver(self) -> None:
        """Post what waits, in order, for as long as it takes."""
        failures = 0
        while True:
            if not self._waiting:
                self._more.clear()
                await self._more.wait()
            message = self._waiting[0]
            problem = await self._try(message)
            if problem is None:
                if self._waiting and self._waiting[0] is message:
                    self._waiting.popleft()
                failures = 0
                continue
            failures += 1
            if failures == 1:
                _log.warning("the webhook of on_unhealthy: %s; it will be tried again", problem)
            await asyncio.sleep(backoff(failures, self._first_wait, _LONGEST_WAIT, jitter=0.2))

    async def _try(self, message: _Message) -> str | None:
        """Post a message; why that is to be tried again, None where there is nothing more to do."""
        try:
            await self._post(message.id, message.payload)
        except TimeoutError:
            return f"no answer within {self._table.timeout:g} s"
        except WebhookRefused as error:
            _log.error("the webhook of on_unhealthy refuses the message that the pipeline is %s: %s",
                       message.payload["status"], error)  # fmt: skip
        except Exception as error:  # noqa: BLE001 - an alarm must not end what it watches
            return str(error) or type(error).__name__
        else:
            _log.info("the webhook of on_unhealthy was told that the pipeline is %s", message.payload["status"])
        return None


def _webhook(table: AlarmTable) -> Webhook:
    secret = table.secret.get_secret_value() if table.secret else None
    return Webhook(table.webhook.get_secret_value(), secret, table.timeout)


def _iso(moment: datetime) -> str:
    return moment.isoformat(timespec="seconds").replace("+00:00", "Z")
