"""The alarm: tells a webhook that a process has been unhealthy for a while, and that it is well again."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import secrets
import socket
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from time import monotonic
from typing import Any, Final, Protocol

from pipeline.config.alarm import AlarmTable
from pipeline.errors import PipelineError
from pipeline.policies.backoff import backoff
from pipeline.stats import InstanceStats
from pipeline.webhook import Webhook, WebhookRefused

__all__ = ["Alarm", "Post"]

_LOOK_SECONDS: Final = 1.0
_AROUND_SECONDS: Final = 10.0
_UNSTEADY: Final = 3.0
"""So many times the hold-off a process may come and go, never well for the hold-off, before that is an episode."""
_FIRST_WAIT: Final = 1.0
_LONGEST_WAIT: Final = 60.0
_KEPT: Final = 10
"""Episodes that wait for a receiver that is away and has heard nothing of them; the oldest give way."""
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

    An episode begins when the process has been unhealthy for the hold-off, or has come and gone for three times that;
    it ends when it has been healthy for the hold-off in one piece. Its messages have one `alert` in common, which is
    kept with the heartbeat: where the process ends before the episode does, another one tells the end.

    Args:
        table: Where to, and how.
        pipeline: The pipeline's name.
        stats: What the process did so far.
        post: Posts a message; by default to the table's webhook.
        left: Takes over the alerts that processes of this kind left open which have stopped, or gave no sign of life
            for so many seconds: when each began, by its name.
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
        left: Callable[[str, float], Awaitable[dict[str, str]]] | None = None,
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
        self._left = left
        self._open: dict[str, str] = {}  # the alerts that were told, and when each began
        self._told_at = 0.0
        self._trouble: tuple[float, str] | None = None  # since when it was not well for the hold-off in one piece
        self._started = self._changed = clock()
        self._was_healthy = True
        self._waiting: dict[tuple[str, str], _Message] = {}  # by alert and status: a repeat replaces the one before
        self._unheard: dict[str, None] = {}  # this process's alerts that no receiver can know of yet, oldest first
        self._more = asyncio.Event()

    def start(self) -> list[asyncio.Task[None]]:
        """Begin; the tasks go on until they are cancelled."""
        tasks = [
            asyncio.create_task(self._watch(), name="look at the health"),
            asyncio.create_task(self._deliver(), name="tell of the health"),
        ]
        if self._left is not None:
            tasks.append(asyncio.create_task(self._look_around(self._left), name="look for open alerts"))
        return tasks

    @property
    def alerts(self) -> dict[str, str]:
        """The alerts of which a receiver does not know the end yet: when each began, by its name."""
        ends = [message.payload for message in self._waiting.values() if message.payload["status"] == "healthy"]
        return {end["alert"]: end["unhealthy_since"] for end in ends} | self._open

    async def _watch(self) -> None:
        while True:
            self.look()
            await asyncio.sleep(self._look)

    def look(self) -> None:
        """Look at the health now."""
        stats, now = self._stats(), self._clock()
        if stats.is_healthy != self._was_healthy:
            self._was_healthy, self._changed = stats.is_healthy, now
        steady = now - self._changed >= self._table.hold_off
        if stats.is_healthy:
            if steady:
                self._trouble = None
                self._tell("healthy", stats)
                self._open = {}
            return
        if self._trouble is None:
            self._trouble = now, _iso(datetime.now(UTC))
        began, date = self._trouble
        if self._open:
            if not self._table.repeat or now - self._told_at < self._table.repeat:
                return
        elif steady or now - began >= _UNSTEADY * self._table.hold_off:
            self._open = {(alert := f"alert_{secrets.token_hex(16)}"): date}
            self._unheard[alert] = None
        else:
            return
        self._told_at = now
        self._tell("unhealthy", stats)

    async def _look_around(self, left: Callable[[str, float], Awaitable[dict[str, str]]]) -> None:
        """Take over what others left open.

        Those that were silent since this process started are gone, but not where the database has just come back:
        they could not give a sign of life either, and have the time until the next look for one.
        """
        answered = False
        while True:
            await asyncio.sleep(_AROUND_SECONDS)
            silent = self._clock() - self._started if answered else math.inf
            try:
                self._take_over(await left(self._stats().kind, silent))
                answered = True
            except PipelineError as error:
                answered = False
                _log.debug("no look for open alerts: %s", error)

    def _take_over(self, alerts: dict[str, str]) -> None:
        """Have these among the open alerts; they end when this process has been well for the hold-off from now on.

        However long it was well before: what made the other one unwell may be about to show here too.
        """
        if not alerts:
            return
        now = self._clock()
        if not self._open:
            self._told_at = now
        self._changed = now
        self._open |= alerts

    def _tell(self, status: str, stats: InstanceStats) -> None:
        for alert, began in self._open.items():
            message = _Message(f"msg_{secrets.token_hex(16)}", self._payload(status, stats, alert, began))
            self._waiting[alert, status] = message
            self._more.set()
        self._forget_unheard()

    def _forget_unheard(self) -> None:
        """Drop the oldest episodes as a whole where too many wait, but no end of an alert that a receiver may know.

        While a receiver is away it gets to know no others, so that what waits has a bound.
        """
        while len(self._unheard) > _KEPT:
            alert = next(iter(self._unheard))  # it has ended: the open one is the latest
            del self._unheard[alert]
            for status in ("unhealthy", "healthy"):
                self._waiting.pop((alert, status), None)

    def _payload(self, status: str, stats: InstanceStats, alert: str, began: str) -> dict[str, Any]:
        return {
            "type": f"pipeline.{status}",
            "alert": alert,
            "pipeline": self._pipeline,
            "kind": stats.kind,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "status": status,
            "reason": stats.reason,
            "unhealthy_since": began,
            "at": _iso(datetime.now(UTC)),
            "sources": {name: {"state": each.state, "reason": each.reason} for name, each in stats.sources.items()},
            "connections": {
                name: {"state": each.state, "reason": each.reason} for name, each in stats.connections.items()
            },
        }

    async def _deliver(self) -> None:
        """Post what waits, in order, for as long as it takes."""
        failures = 0
        while True:
            if not self._waiting:
                self._more.clear()
                await self._more.wait()
            key, message = next(iter(self._waiting.items()))
            self._unheard.pop(message.payload["alert"], None)  # it may arrive although no answer comes back
            problem = await self._try(message)
            if problem is None:
                if self._waiting.get(key) is message:  # and was not replaced by a repeat
                    del self._waiting[key]
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
