"""The faults, each with its undo: kill, pause, stutter, restart, cut off, full disk, lost data."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from tests.chaos.parts import Part, ServerPart

__all__ = ["Fault", "FaultKind", "befall", "can_befall"]

_STOPPED = 0.8
"""The part of each second that a stuttering process is stopped."""


class FaultKind(StrEnum):
    """What may happen to a part."""

    KILL = "kill -9"
    PAUSE = "paused"
    STUTTER = "stopped 80%"
    RESTART = "restart"
    DROP = "cut off: reset"
    BLACKHOLE = "cut off: silent"
    DISK = "disk full"
    AMNESIA = "data lost"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault of the schedule.

    Attributes:
        at: Seconds since the first event.
        kind: What happens.
        part: To which part, by its name.
        seconds: How long it lasts, until it is undone.
    """

    at: float
    kind: FaultKind
    part: str
    seconds: float

    def __str__(self) -> str:
        return f"{self.part:<10} {self.kind:<16} {self.seconds:5.1f} s"


def can_befall(kind: FaultKind, part: Part) -> bool:
    """Whether this kind of fault is possible there."""
    if isinstance(part, ServerPart):
        return {FaultKind.DISK: part.disk is not None, FaultKind.AMNESIA: part.forgets}.get(kind, True)
    return kind in (FaultKind.KILL, FaultKind.PAUSE, FaultKind.STUTTER, FaultKind.RESTART)


async def befall(fault: Fault, part: Part) -> None:
    """Let it happen, and undo it."""
    async with part.lock:
        await _DEEDS[fault.kind](part, fault.seconds)


async def _kill(part: Part, seconds: float) -> None:
    await part.kill()
    await asyncio.sleep(seconds)
    await part.start()


async def _restart(part: Part, seconds: float) -> None:
    await part.stop()
    await asyncio.sleep(seconds)
    await part.start()


async def _pause(part: Part, seconds: float) -> None:
    try:
        part.signal(signal.SIGSTOP)
        await asyncio.sleep(seconds)
    finally:
        part.signal(signal.SIGCONT)


async def _stutter(part: Part, seconds: float) -> None:
    for _ in range(max(1, round(seconds))):
        await _pause(part, _STOPPED)
        await asyncio.sleep(1 - _STOPPED)


async def _drop(part: Part, seconds: float) -> None:
    assert isinstance(part, ServerPart)
    part.proxy.drop()
    try:
        await asyncio.sleep(seconds)
    finally:
        await part.proxy.accept_again()


async def _blackhole(part: Part, seconds: float) -> None:
    assert isinstance(part, ServerPart)
    part.proxy.fall_silent()
    try:
        await asyncio.sleep(seconds)
    finally:
        part.proxy.go_on()


async def _fill(part: Part, seconds: float) -> None:
    assert isinstance(part, ServerPart)
    assert part.disk is not None
    await asyncio.to_thread(part.disk.fill)
    try:
        await asyncio.sleep(seconds)
    finally:
        await asyncio.to_thread(part.disk.free)
    await part.revive()


async def _forget(part: Part, seconds: float) -> None:
    assert isinstance(part, ServerPart)
    await part.kill()
    part.forget()
    await asyncio.sleep(seconds)
    await part.start()


_DEEDS: dict[FaultKind, Callable[[Part, float], Awaitable[None]]] = {
    FaultKind.KILL: _kill,
    FaultKind.PAUSE: _pause,
    FaultKind.STUTTER: _stutter,
    FaultKind.RESTART: _restart,
    FaultKind.DROP: _drop,
    FaultKind.BLACKHOLE: _blackhole,
    FaultKind.DISK: _fill,
    FaultKind.AMNESIA: _forget,
}
