"""The right to read a source: one runner holds it, the others stand by."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Protocol

from pipeline.ledger.owner import is_gone
from pipeline.ledger.units import Progress, SourceKey

__all__ = ["Lease", "Leases", "Standing", "acquire"]


@dataclass(frozen=True, slots=True)
class Standing:
    """Who holds a source now.

    Attributes:
        owner: The holder's identity, from `owner_id`.
        epoch: Counts the holders.
        beat: Changes as long as the holder lives.
    """

    owner: str
    epoch: int
    beat: int


@dataclass(slots=True)
class Lease:
    """The right to read a source, and where it stood when the lease was taken or last committed to.

    Attributes:
        key: The source.
        owner: Who holds it.
        epoch: Every write is conditional on it: when another runner has taken over, it has grown.
        incarnation: Which life of the stream the progress belongs to.
        progress: How far the source has come.
        started: False where this group never committed anything on this stream.
        renewed_at: On `time.monotonic`, when the last successful acquire, renew or commit began.
    """

    key: SourceKey
    owner: str
    epoch: int
    incarnation: int
    progress: Progress
    started: bool
    renewed_at: float = field(default_factory=time.monotonic)

    def age(self) -> float:
        """Seconds since this lease was certainly ours; renew it before new effects when it nears the lease's time."""
        return time.monotonic() - self.renewed_at


class Leases(Protocol):
    """What `acquire` needs of the ledger."""

    def try_acquire(self, key: SourceKey, owner: str, seen: Standing | None = None) -> Awaitable[Lease | Standing]:
        """Take the lease where nobody holds it, or the holder still stands as `seen`."""


async def acquire(
    ledger: Leases,
    key: SourceKey,
    owner: str,
    *,
    ttl: float = 10.0,
    poll: float = 1.0,
    on_standby: Callable[[Standing], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
) -> Lease:
    """Wait until this runner may read the source.

    The holder counts as lost when its beat has not changed for `ttl` seconds of this process's own clock, so that no
    two hosts' clocks are ever compared; or at once, where it was a process of this machine that is gone.

    Args:
        ledger: Where the leases are.
        key: The source.
        owner: This runner's identity, from `owner_id`.
        ttl: Seconds without a beat after which the holder is replaced.
        poll: Seconds between two looks.
        on_standby: Called with each new holder that this runner stands by for.
        clock: Rising seconds.
        sleep: Waits for some seconds.

    Raises:
        Unavailable: The database can't be reached.
    """
    watch = _Watch(ttl, 2 * poll)
    standby: tuple[str, int] | None = None
    seen: Standing | None = None
    while True:
        result = await ledger.try_acquire(key, owner, seen)
        if isinstance(result, Lease):
            return result
        if on_standby is not None and (result.owner, result.epoch) != standby:
            on_standby(result)
        standby = (result.owner, result.epoch)
        if result != seen and (watch.is_stale(result, clock()) or is_gone(result.owner)):
            seen = result
        else:
            seen = None
            await sleep(poll)


class _Watch:
    """Adds up how long a holder's beat has stood still while this process looked on.

    One step counts for a poll or two at most: time in which this process was frozen, or the database gave no answer,
    says nothing about the holder.
    """

    def __init__(self, ttl: float, longest_step: float) -> None:
        self._ttl = ttl
        self._longest_step = longest_step
        self._last: Standing | None = None
        self._looked_at = 0.0
        self._still = 0.0

    def is_stale(self, standing: Standing, now: float) -> bool:
        step = min(now - self._looked_at, self._longest_step)
        self._still = self._still + step if standing == self._last else 0.0
        self._last, self._looked_at = standing, now
        return self._still >= self._ttl
