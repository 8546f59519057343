"""Two runners of one group: one works, the other stands by, and a frozen one does no harm when it comes back."""

from __future__ import annotations

import json
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from pipeline.supervisor import LEASE_SECONDS
from tests.integration.rig.database import Books
from tests.integration.rig.flow import published_all_the_time
from tests.integration.rig.runner import Runner, until
from tests.integration.rig.site import CRASH_POINT, Site, admin_pipeline
from tests.integration.rig.workflows import Workflows

async def until_states(books: Books, wanted: dict[int, str], seconds: float, *runners: Runner) -> None:
    async def reached() -> bool:
        return await books.states("admin") == wanted

    await until(reached, seconds, f"the states {wanted}", *runners)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["at any time", "within a commit"])
async def test_a_frozen_runner_is_replaced_and_stands_by_when_it_comes_back(
    site: Site, workflows: Callable[[int], Awaitable[Workflows]], moment: str
) -> None:
    running = await workflows(50)
    stages = ("workflow-control", "crash-point")
    await site.lay_out(admin_pipeline(site.stream, stages=stages, more=CRASH_POINT))
    async with site.by_amqp() as amqp, site.natively() as native, site.books() as books:
        freezes = {"CRASH_POINT": "statement", "CRASH_EVENTS": "400", "CRASH_STATEMENTS": "2", "CRASH_FREEZE": "true"}
        first = site.run(**(freezes if moment == "within a commit" else {}))
        await until_states(books, {first.pid: "running"}, 20, first)
        second = site.run()
        await until_states(books, {first.pid: "running", second.pid: "standby"}, 20, first, second)
        code, said = await site.command("stats", "--json")
        assert code == 0
        assert {one["pid"]: one["sources"]["admin"]["state"] for one in json.loads(said)["instances"]} == {
            first.pid: "running",
            second.pid: "standby",
        }
        async with published_all_the_time(list(running.ids), amqp, native) as sent:
            await site.until_processed(books, 200, 20, first, second)
            if moment == "at any time":
                first.signal(signal.SIGSTOP)
            await until(lambda: is_frozen(first), 20, "the first to freeze", first, second)
            began = time.monotonic()
            # PostgreSQL ends a transaction that lies idle for ten seconds; until then it holds the progress row.
            await until_states(books, {second.pid: "running"}, (2 if moment == "at any time" else 3) * LEASE_SECONDS, second)
            print(f"taken over after {time.monotonic() - began:.1f} s")
            assert await books.owner() == second.pid
            handled = await books.processed()
            await site.until_processed(books, handled + 100, 20, second)
            first.signal(signal.SIGCONT)
            await until_states(books, {first.pid: "standby", second.pid: "running"}, 20, first, second)
            await site.until_processed(books, await books.processed() + 100, 20, first, second)
            await second.stop()
            await until_states(books, {first.pid: "running"}, 5, first)
            await site.until_processed(books, await books.processed() + 100, 20, first)
        await site.until_processed(books, len(sent), 20, first)
        await first.stop()

        assert await books.outcomes() == {"handled": len(sent)}
        assert await books.audited() == Counter(event.id for event in sent)
        seen = Counter(signal.event_id for found in (await running.histories()).values() for signal in found)
        assert seen == Counter(event.id for event in sent)
        assert await books.dead_letters() == []


def is_frozen(runner: Runner) -> bool:
    with open(f"/proc/{runner.pid}/stat") as file:
        return file.read().rpartition(")")[2].split()[0] == "T"
