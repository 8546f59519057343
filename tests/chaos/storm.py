"""The storm: events at a steady rate while faults befall every part; then quiet, and the verdict."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from temporalio.client import Client

from tests.chaos.conductor import Conductor
from tests.chaos.entries import Kind, Ledger
from tests.chaos.facts import Facts, Quiet, gather_facts
from tests.chaos.faults import Fault
from tests.chaos.mix import ADMIN, GOVERNANCE, Mix
from tests.chaos.parts import ProcessPart
from tests.chaos.producer import Producer, publish_steadily
from tests.chaos.report import Report
from tests.chaos.system import System
from tests.chaos.verdict import judge
from tests.integration.rig.database import Books, books
from tests.integration.rig.runner import until
from tests.integration.rig.workflows import Workflows

__all__ = ["Plan", "Storm", "storm"]

_MIB = 1024 * 1024
_START_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run does.

    Attributes:
        seed: Of the events; the faults are made already.
        events: How many are published, repeats left out.
        rate: Events a second.
        workflows: How many there are to signal.
        faults: In the order of their times.
        patience: Seconds after the last fault within which all must be done.
        stillness: Seconds after which a system in which nothing moves any more is taken to be at its end.
        weights: How often each kind of event comes; None for the usual mix.
        deed: What happens meanwhile, in place of the faults.
    """

    seed: int
    events: int
    rate: float
    workflows: int
    faults: Sequence[Fault] = ()
    patience: float = 300.0
    stillness: float = math.inf
    weights: Mapping[Kind, int] | None = None
    deed: Callable[[Storm], Coroutine[None, None, None]] | None = None


class Storm:
    """One run.

    Attributes:
        system: What it runs on.
        plan: What it does.
        books: The database, past every proxy.
        ledger: What was published.
        conductor: Carries out the plan's faults.
    """

    def __init__(self, system: System, plan: Plan, books: Books, say: Callable[[str], None]) -> None:
        self.system = system
        self.plan = plan
        self.books = books
        self.say = say
        self.ledger = Ledger()
        self.conductor = Conductor(system.parts, say)

    async def blow(self, workflows: Workflows) -> tuple[float, float]:
        """Publish, and let the faults happen; the seconds until the end of both, and from there until all was done."""
        await self.until_read()
        plan, began = self.plan, time.monotonic()
        producers = {
            source: Producer(self.system.direct.stream_url, f"{self.system.site.stream}.{source}", self.ledger)
            for source in (ADMIN, GOVERNANCE)
        }
        mix = Mix(plan.seed, workflows.ids, plan.weights)
        faults = asyncio.create_task(plan.deed(self) if plan.deed else self.conductor.carry_out(plan.faults))
        try:
            await publish_steadily(mix, producers, plan.rate, plan.events)
            await faults
        finally:
            faults.cancel()
            await asyncio.gather(faults, return_exceptions=True)
            await asyncio.gather(*(producer.close() for producer in producers.values()))
        ended = time.monotonic()
        self.say(f"{ended - began:7.1f} s  all is published, and the last fault undone")
        await self.until_quiet()
        return ended - began, time.monotonic() - ended

    async def until_read(self) -> None:
        """Wait until a runner reads each source, so that faults don't befall processes that have yet to start."""

        async def read() -> bool:
            rows = await self.books.rows("SELECT source FROM progress WHERE owner IS NOT NULL")
            return {row["source"] for row in rows} == {ADMIN, GOVERNANCE}

        await until(read, _START_SECONDS, "a runner to own each source")

    async def until_quiet(self) -> None:
        """Wait until all is done, or nothing moves any more, or the plan's patience is at its end."""
        published, events = self.ledger.confirmed.total(), len(self.ledger)
        executions = len(self.ledger.of(Kind.EXECUTION))
        moved = time.monotonic()
        deadline, last = moved + self.plan.patience, None
        while time.monotonic() < min(deadline, moved + self.plan.stillness):
            with suppress(Exception):  # the database may still come up
                now = await Quiet.of(self.books)
                if now != last:
                    moved, last = time.monotonic(), now
                all_done = now.processed >= published and now.done >= events
                if all_done and now.completed >= executions and not now.jobs and await self.nothing_missing():
                    return
            await asyncio.sleep(0.2)

    async def nothing_missing(self) -> bool:
        """Whether every event that can be read has an outcome; messages without an id may count more than once."""
        rows = await self.books.rows("SELECT DISTINCT event_id FROM outcomes WHERE outcome <> 'duplicate'")
        return {entry.id for entry in self.ledger if entry.kind is not Kind.UNREADABLE} <= {row[0] for row in rows}

    async def tell(self) -> None:
        """Say from time to time how far it is, until cancelled."""
        while True:
            await asyncio.sleep(10)
            with suppress(Exception):
                now = await Quiet.of(self.books)
                self.say(
                    f"           published {self.ledger.confirmed.total()}, processed {now.processed}, executions "
                    f"{now.completed} of {now.executions}, memory {self.peak():.0f} MiB"
                )

    def peak(self) -> float:
        """The most memory that a runner took, in MiB."""
        return max(runner.peak for runner in self._runners()) / _MIB

    def memory(self) -> float:
        """What the runner that takes most takes now, in MiB."""
        return max(runner.memory for runner in self._runners()) / _MIB

    def _runners(self) -> list[ProcessPart]:
        return [part for name, part in self.system.processes.items() if name.startswith("runner")]


async def storm(system: System, plan: Plan, folder: Path, say: Callable[[str], None] = print) -> Report:
    """Run the plan on a started system whose processes run.

    Args:
        system: It is stopped in the end.
        plan: What to do.
        folder: Where the ledger is written.
        say: Gets progress, a line at a time.
    """
    async with AsyncExitStack() as stack:
        found = await stack.enter_async_context(books(system.direct.database_url))
        client = await Client.connect(system.direct.temporal_address)
        workflows = Workflows(client, [f"{system.site.stream}.{number}" for number in range(plan.workflows)])
        await workflows.start()
        stack.push_async_callback(workflows.terminate)
        run = Storm(system, plan, found, say)
        aside = [asyncio.create_task(system.keep()), asyncio.create_task(run.tell())]
        try:
            stormy, quiet = await run.blow(workflows)
        finally:
            for task in aside:
                task.cancel()
            await asyncio.gather(*aside, return_exceptions=True)
        await system.stop()
        run.ledger.write(folder / "ledger.jsonl")
        return _report(run, await gather_facts(found, workflows), stormy, quiet)


def _report(run: Storm, facts: Facts, stormy: float, quiet: float) -> Report:
    ledger, system = run.ledger, run.system
    report = Report(run.plan.seed, faults=run.conductor.log, happened=run.conductor.happened)
    report.findings = judge(ledger, facts)
    ended = [problem for process in system.processes.values() for problem in process.problems]
    report.problems = [*run.conductor.problems, *ended]
    report.not_tried = f"full disks: {system.no_disks}" if system.no_disks else ""
    published = ledger.confirmed.total()
    report.figures = {
        "events": f"{len(ledger)}",
        "published again on purpose": f"{published - len(ledger)}",
        "published again for want of a confirm": f"{ledger.uncertain}",
        "published for": f"{stormy:.0f} s ({published / stormy:.0f} events/s)",
        "all done after the last fault and event": f"{quiet:.1f} s",
        "the most memory that a runner took": f"{run.peak():.0f} MiB",
        "signals that workflows recognised as repeats": f"{sum(facts.repeated.values())}",
    }
    return report
