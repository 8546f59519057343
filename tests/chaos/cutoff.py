"""Temporal cut off for minutes while signals go on: they wait in the stream, and memory does not grow with them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from tests.chaos.entries import Kind
from tests.chaos.report import Report
from tests.chaos.storm import Plan, Storm, storm
from tests.chaos.system import started_system

__all__ = ["cut_temporal_off"]

_WORKFLOWS = 1_200
_MIB = 1024 * 1024
_GROWTH = 100.0
"""MiB that the runner may grow by during the outage."""
_DRAINED_WITHIN = 600.0


async def cut_temporal_off(
    seed: int, folder: Path, say: Callable[[str], None], *, rate: float = 300.0, seconds: float = 180.0
) -> Report:
    """Run it on private servers.

    Args:
        seed: Of the events.
        folder: For files and logs.
        say: Gets progress, a line at a time.
        rate: Events a second; all but a few are signals.
        seconds: How long Temporal is cut off, silently.
    """
    before = after = 20.0
    grown = 0.0

    async def deed(run: Storm) -> None:
        nonlocal grown
        await asyncio.sleep(before)
        calm, temporal = run.memory(), run.system.servers["temporal"].proxy
        temporal.fall_silent()
        say(f"{before:7.1f} s  temporal   cut off: silent, for {seconds:g} s; the runner takes {calm:.0f} MiB")
        until = time.monotonic() + seconds
        try:
            while time.monotonic() < until:
                await asyncio.sleep(1)
                grown = max(grown, run.memory() - calm)
        finally:
            temporal.go_on()
        say(f"{before + seconds:7.1f} s  temporal   is there again; the runner grew by {grown:.0f} MiB at most")

    async with started_system(folder, disks=(), durable=False) as system:
        system.run()
        events = int(rate * (before + seconds + after))
        weights = {Kind.SIGNAL: 97, Kind.AUDIT: 3}
        plan = Plan(seed, events, rate, _WORKFLOWS, patience=_DRAINED_WITHIN, weights=weights, deed=deed)
        report = await storm(system, plan, folder, say)
    report.figures["grown while Temporal was away"] = f"{grown:.0f} MiB"
    if grown > _GROWTH:
        report.problems = [*report.problems, f"the runner grew by {grown:.0f} MiB; {_GROWTH:.0f} MiB are allowed"]
    return report
