"""A shortened rig on the shared servers: one or two runners, one fault at a chosen moment, and the same verdict."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from tests.chaos.entries import Kind
from tests.chaos.facts import Quiet
from tests.chaos.parts import TELLING, ProcessPart
from tests.chaos.pipeline import chaos_pipeline
from tests.chaos.report import Report
from tests.chaos.storm import Plan, Storm, storm
from tests.chaos.system import Direct, System
from tests.integration.proxy import Proxy
from tests.integration.rig.database import Books
from tests.integration.rig.runner import Runner, until
from tests.integration.rig.site import Site

__all__ = ["BUGS", "Aim", "hit"]

_PLANTED = Path(__file__).with_name("planted")
_SECONDS = 20.0
_TAKE_OVER_SECONDS = 45.0
"""PostgreSQL ends the transaction of a frozen runner after ten seconds, and then its lease runs out."""


@dataclass
class Aim:
    """Where to run, and the proxy before Temporal.

    Attributes:
        system: On the shared servers.
        temporal: The way to Temporal.
    """

    system: System
    temporal: Proxy

    @classmethod
    @asynccontextmanager
    async def taken(cls, site: Site) -> AsyncIterator[Aim]:
        """On the servers of this site, which are the shared ones."""
        host, _, port = site.temporal_address.rpartition(":")
        async with Proxy(host, int(port)) as proxy:
            behind = replace(site, temporal_address=f"127.0.0.1:{proxy.port}")
            system = System(behind, Direct(site.stream_url, site.database_url, site.temporal_address))
            try:
                await system.prepare(chaos_pipeline(site.stream))
                yield cls(system, proxy)
            finally:
                behind.close()

    def start(self, runners: int, bug: str = "") -> None:
        """Start so many runners, with a planted bug or without."""
        site = self.system.site

        def run() -> Runner:
            if not bug:
                return site.run(**TELLING)
            script = _PLANTED / f"{bug}.py"
            output = site.folder / f"{bug}-{len(site.runners)}.log"
            runner = Runner(site.file, {**site.env, **TELLING}, output, ("run",), (sys.executable, script))
            site.runners.append(runner)
            return runner

        self.system.run({f"runner-{number}": run for number in range(1, runners + 1)})

    async def owner(self, books: Books) -> ProcessPart:
        """The runner that owns the source ``admin``, once one does."""
        found: list[ProcessPart] = []

        async def owned() -> bool:
            rows = await books.rows("SELECT owner FROM progress WHERE source = 'admin' AND owner IS NOT NULL")
            pids = [int(row["owner"].rsplit(":", 4)[1]) for row in rows]
            found[:] = [part for part in self.system.processes.values() if part.runner.pid in pids]
            return bool(found)

        await until(owned, _SECONDS, "a runner to own the source")
        return found[0]


async def until_processed(books: Books, count: int) -> None:
    """Wait until so many messages have an outcome."""

    async def enough() -> bool:
        return (await Quiet.of(books)).processed >= count

    await until(enough, _SECONDS, f"{count} messages to have an outcome")


async def kill_amid_the_load(aim: Aim, run: Storm) -> None:
    """Kill -9 the owner while much is in flight, and start it again."""
    await until_processed(run.books, 100)
    owner = await aim.owner(run.books)
    async with owner.lock:
        await owner.kill()
        await owner.start()


async def cut_temporal_off(aim: Aim, run: Storm) -> None:
    """Refuse connections to Temporal for a while."""
    await until_processed(run.books, 100)
    aim.temporal.drop()
    await asyncio.sleep(1.0)
    await aim.temporal.accept_again()


async def nothing(aim: Aim, run: Storm) -> None:
    """Let it run: events that are published twice are enough."""


async def freeze_the_owner(aim: Aim, run: Storm) -> None:
    """Stop the owner while much is in flight, until the other one has taken over and done it all."""
    await until_processed(run.books, 100)
    first = await aim.owner(run.books)
    first.signal(signal.SIGSTOP)

    async def taken_over() -> bool:
        return await aim.owner(run.books) is not first

    await until(taken_over, _TAKE_OVER_SECONDS, "the other runner to take over")
    await until_processed(run.books, run.plan.events - 100)
    first.signal(signal.SIGCONT)


Deed = Callable[[Aim, Storm], Awaitable[None]]

BUGS: dict[str, tuple[int, Deed]] = {
    "progress_first": (1, kill_amid_the_load),
    "exceptions_acknowledged": (1, cut_temporal_off),
    "dedupe_skipped": (1, nothing),
    "epoch_ignored": (2, freeze_the_owner),
}
"""Each planted bug, how many runners it takes, and what reveals it."""


async def hit(site: Site, bug: str, folder: Path, *, planted: bool = True) -> Report:
    """Do to a runner with this bug what reveals it; without the bug planted, the same must do no harm."""
    runners, deed = BUGS[bug]
    async with Aim.taken(site) as aim:
        aim.start(runners, bug if planted else "")

        async def do(run: Storm) -> None:
            await deed(aim, run)

        weights = {Kind.SIGNAL: 70, Kind.AUDIT: 25, Kind.REFUSED: 5}
        plan = Plan(1, 500, 500.0, 50, patience=60.0, stillness=4.0 if planted else 60.0, weights=weights, deed=do)
        return await storm(aim.system, plan, folder, lambda line: None)
