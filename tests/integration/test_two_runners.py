"""Two runners of one group: one works, the other stands by, and a frozen one does no harm when it comes back."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from pipeline.upkeep import LEASE_SECONDS
from tests.integration.rig.database import Books
from tests.integration.rig.events import admin_event
from tests.integration.rig.flow import published_all_the_time
from tests.integration.rig.runner import Runner, until
from tests.integration.rig.site import CRASH_POINT, Site, admin_pipeline
from tests.integration.rig.verdict import every_event_was_done_once
from tests.integration.rig.workflows import Workflows

FREEZES_WITHIN_A_COMMIT = {
    "CRASH_POINT": "statement",
    "CRASH_EVENTS": "200",
    "CRASH_STATEMENTS": "2",
    "CRASH_FREEZE": "true",
}

EFFECT = """
[stage.effect]
policy = { concurrency = 1 }
seconds = 0.002
file = "${EFFECTS:-effects}"
"""


async def until_states(books: Books, wanted: dict[int, str], seconds: float, *runners: Runner) -> None:
    async def reached() -> bool:
        return await books.states("admin") == wanted

    await until(reached, seconds, f"the states {wanted}", *runners)


async def start_two(site: Site, books: Books, effects: Path, **env: str) -> tuple[Runner, Runner]:
    """The first, which works and leaves its effects in that file, and the second, which stands by."""
    first = site.run(EFFECTS=str(effects), **env)
    await until_states(books, {first.pid: "running"}, 20, first)
    second = site.run()
    await until_states(books, {first.pid: "running", second.pid: "standby"}, 20, first, second)
    return first, second


async def until_more(site: Site, books: Books, *runners: Runner) -> None:
    await site.until_processed(books, await books.processed() + 50, 20, *runners)


def is_frozen(runner: Runner) -> bool:
    return Path(f"/proc/{runner.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


async def freeze(first: Runner, second: Runner, moment: str) -> None:
    if moment == "at any time":
        first.signal(signal.SIGSTOP)
    await until(lambda: is_frozen(first), 20, "the first to freeze", first, second)


async def until_taken_over(books: Books, second: Runner, moment: str) -> None:
    began = time.monotonic()
    # A transaction that lies idle holds the progress row until PostgreSQL ends it, after ten seconds.
    leases = 3 if moment == "within a commit" else 2
    await until_states(books, {second.pid: "running"}, leases * LEASE_SECONDS, second)
    print(f"taken over after {time.monotonic() - began:.1f} s")
    assert await books.owner() == second.pid


@pytest.mark.slow
@pytest.mark.parametrize("moment", [pytest.param("at any time", marks=pytest.mark.chaos), "within a commit"])
async def test_a_frozen_runner_is_replaced_and_stands_by_when_it_comes_back(
    site: Site, workflows: Callable[[int], Awaitable[Workflows]], moment: str
) -> None:
    dice, effects = random.Random(1), site.folder / "effects of the first"
    running = await workflows(50)
    backlog = [admin_event(f"backlog-{number}", dice.choice(running.ids)) for number in range(400)]
    stages = ("workflow-control", "crash-point", "effect")
    await site.lay_out(admin_pipeline(site.stream, stages=stages, more=CRASH_POINT + EFFECT))
    async with site.by_amqp() as amqp, site.natively() as native, site.books() as books:
        freezes = FREEZES_WITHIN_A_COMMIT if moment == "within a commit" else {}
        first, second = await start_two(site, books, effects, **freezes)
        async with published_all_the_time(running.ids, amqp, native, pause=0.25) as sent:
            await until_more(site, books, first, second)
            await native.publish(backlog)  # so that it is in the midst of much
            await freeze(first, second, moment)
            await until_taken_over(books, second, moment)
            await until_more(site, books, second)
            before = len(effects.read_text().split())
            first.signal(signal.SIGCONT)
            await until_states(books, {first.pid: "standby", second.pid: "running"}, 20, first, second)
            assert len(effects.read_text().split()) - before <= 1  # what it was at, and nothing new
            await until_more(site, books, first, second)
            await second.stop()
            await until_states(books, {first.pid: "running"}, 5, first)
            await until_more(site, books, first)
        everything = [*sent, *backlog]
        await site.until_processed(books, len(everything), 20, first)
        await first.stop()
        await every_event_was_done_once(books, running, everything)


async def test_stats_tell_which_runner_works_and_which_stands_by(site: Site) -> None:
    await site.lay_out(admin_pipeline(site.stream))
    async with site.by_amqp(), site.books() as books:
        first, second = await start_two(site, books, site.folder / "effects")
        code, said = await site.command("stats", "--json")
        assert code == 0
        states = {one["pid"]: one["sources"]["admin"]["state"] for one in json.loads(said)["instances"]}
        assert states == {first.pid: "running", second.pid: "standby"}
        await first.kill()

        async def taken_over() -> bool:
            return await books.owner() == second.pid

        # On the same machine it is seen that the process is gone: no lease has to run out.
        await until(taken_over, LEASE_SECONDS / 2, "the second to take over", second)
        await second.stop()
