"""Two runners of one group: one works, the other stands by, and a frozen one does no harm when it comes back."""

from __future__ import annotations

import json
import random
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from pipeline.supervisor import LEASE_SECONDS
from tests.integration.rig.database import Books
from tests.integration.rig.events import admin_event
from tests.integration.rig.flow import published_all_the_time
from tests.integration.rig.runner import Runner, until
from tests.integration.rig.site import CRASH_POINT, Site, admin_pipeline
from tests.integration.rig.workflows import Workflows

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


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["at any time", "within a commit"])
async def test_a_frozen_runner_is_replaced_and_stands_by_when_it_comes_back(
    site: Site, workflows: Callable[[int], Awaitable[Workflows]], moment: str
) -> None:
    dice = random.Random(1)
    running = await workflows(50)
    stages = ("workflow-control", "crash-point", "effect")
    await site.lay_out(admin_pipeline(site.stream, stages=stages, more=CRASH_POINT + EFFECT))
    effects = site.folder / "effects of the first"
    async with site.by_amqp() as amqp, site.natively() as native, site.books() as books:
        freezes = {"CRASH_POINT": "statement", "CRASH_EVENTS": "200", "CRASH_STATEMENTS": "2", "CRASH_FREEZE": "true"}
        first = site.run(EFFECTS=str(effects), **(freezes if moment == "within a commit" else {}))
        await until_states(books, {first.pid: "running"}, 20, first)
        second = site.run(EFFECTS=str(site.folder / "effects of the second"))
        await until_states(books, {first.pid: "running", second.pid: "standby"}, 20, first, second)
        code, said = await site.command("stats", "--json")
        assert code == 0
        assert {one["pid"]: one["sources"]["admin"]["state"] for one in json.loads(said)["instances"]} == {
            first.pid: "running",
            second.pid: "standby",
        }
        async with published_all_the_time(list(running.ids), amqp, native, pause=0.25) as sent:
            await site.until_processed(books, 50, 20, first, second)
            backlog = [admin_event(f"backlog-{number}", dice.choice(running.ids)) for number in range(400)]
            await native.publish(backlog)
            if moment == "at any time":
                await site.until_processed(books, 100, 20, first, second)
                first.signal(signal.SIGSTOP)
            await until(lambda: is_frozen(first), 20, "the first to freeze", first, second)
            began = time.monotonic()
            # PostgreSQL ends a transaction that lies idle for ten seconds; until then it holds the progress row.
            await until_states(
                books, {second.pid: "running"}, (2 if moment == "at any time" else 3) * LEASE_SECONDS, second
            )
            print(f"taken over after {time.monotonic() - began:.1f} s")
            assert await books.owner() == second.pid
            handled = await books.processed()
            await site.until_processed(books, handled + 50, 20, second)
            before = len(effects.read_text().split())
            first.signal(signal.SIGCONT)
            await until_states(books, {first.pid: "standby", second.pid: "running"}, 20, first, second)
            assert len(effects.read_text().split()) - before <= 1  # what it was at, and nothing new
            await site.until_processed(books, await books.processed() + 50, 20, first, second)
            await second.stop()
            await until_states(books, {first.pid: "running"}, 5, first)
            await site.until_processed(books, await books.processed() + 50, 20, first)
        sent += backlog
        await site.until_processed(books, len(sent), 20, first)
        await first.stop()

        assert await books.outcomes() == {"handled": len(sent)}
        assert await books.audited() == Counter(event.id for event in sent)
        seen = Counter(signal.event_id for found in (await running.histories()).values() for signal in found)
        assert seen == Counter(event.id for event in sent)
        assert await books.dead_letters() == []


def is_frozen(runner: Runner) -> bool:
    return Path(f"/proc/{runner.pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"
