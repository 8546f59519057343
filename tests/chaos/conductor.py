"""The conductor: carries out the schedule of faults, and writes down what happened when."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from tests.chaos.faults import Fault, FaultKind, befall
from tests.chaos.parts import Part

__all__ = ["Conductor"]


class Conductor:
    """Lets faults happen at their times; those on one part one after the other, those on different parts may overlap.

    Args:
        parts: By name.
        say: Gets a line for each fault.

    Attributes:
        happened: How often each kind of fault was carried out, and undone.
        log: When each began and ended, in seconds since the first event.
        problems: What could not be carried out, or undone.
    """

    def __init__(self, parts: Mapping[str, Part], say: Callable[[str], None]) -> None:
        self._parts = parts
        self._say = say
        self.happened: Counter[FaultKind] = Counter()
        self.log: list[str] = []
        self.problems: list[str] = []

    async def carry_out(self, faults: Sequence[Fault]) -> None:
        """Return when the last one is undone."""
        began = time.monotonic()
        async with asyncio.TaskGroup() as tasks:
            for fault in faults:
                await asyncio.sleep(max(0.0, began + fault.at - time.monotonic()))
                tasks.create_task(self._one(fault, began))

    async def _one(self, fault: Fault, began: float) -> None:
        since = time.monotonic() - began
        self._say(f"{since:7.1f} s  {fault}")
        try:
            await befall(fault, self._parts[fault.part])
        except Exception as error:  # the others shall happen all the same; the run has failed
            self.problems.append(f"the fault could not be carried out or undone: {fault}: {error!r}")
        else:
            self.happened[fault.kind] += 1
        until = time.monotonic() - began
        self.log.append(f"{since:7.1f} to {until:7.1f} s  {fault}")
