"""Kill -9 of the runner, again and again, at seeded moments: nothing is lost, nothing is done twice."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import pytest

from tests.integration.rig.database import Books
from tests.integration.rig.events import KINDS, Sent, admin_event, ordered_by_workflow
from tests.integration.rig.publishers import Publisher
from tests.integration.rig.site import CRASH_POINT, Site, admin_pipeline
from tests.integration.rig.verdict import every_event_was_done_once
from tests.integration.rig.workflows import Workflows

SEED = int(os.environ.get("TEST_SEED", "20260131"))
WORKFLOWS = 200
AHEAD = 2_000
"""How far publishing runs ahead of the runner."""

POINTS = (
    ["handled"] * 5  # between the signal and the commit
    + ["statement"] * 3  # within the transaction
    + ["commit"] * 2  # before its COMMIT
    + ["committing"] * 3  # while its COMMIT is under way
    + ["committed"] * 2  # behind it, before the runner has taken note
    + ["outside"] * 3  # whenever the killer finds time
    + ["starting"] * 2  # before or as the first event comes
)


@dataclass(frozen=True)
class Kill:
    """One kill -9.

    Attributes:
        point: Where.
        moment: When so many events are done in all.
        statements: Of the transaction, for ``statement``.
        delay: In microseconds, for ``committing``; in milliseconds since its start, for ``starting``.
    """

    point: str
    moment: int
    statements: int
    delay: int

    def env(self, done: int) -> dict[str, str]:
        """What tells the runner to do it to itself, where so many events are done already."""
        if self.point in ("outside", "starting"):
            return {}
        return {
            "CRASH_POINT": self.point,
            "CRASH_EVENTS": str(max(1, self.moment - done)),
            "CRASH_STATEMENTS": str(self.statements),
            "CRASH_MICROSECONDS": str(self.delay),
        }


def seeded_kills(dice: random.Random, points: Sequence[str], events: int) -> list[Kill]:
    points = dice.sample(points, len(points))
    moments = sorted(dice.sample(range(50, events - 500), len(points)))
    delays = {"committing": (0, 3_000), "starting": (200, 2_000)}
    return [
        Kill(point, moment, dice.randint(1, 3), dice.randint(*delays.get(point, (0, 0))))
        for point, moment in zip(points, moments, strict=True)
    ]


async def publish_ahead(books: Books, *publications: tuple[Publisher, Sequence[Sent]]) -> None:
    """Publish all the time, never further ahead of the runner than `AHEAD`."""
    piece = 250
    for begin in range(0, max(len(events) for _, events in publications), piece):
        while begin * len(publications) - await books.processed() > AHEAD:
            await asyncio.sleep(0.05)
        await asyncio.gather(*(publisher.publish(events[begin : begin + piece]) for publisher, events in publications))


async def carry_out(kill: Kill, site: Site, books: Books) -> None:
    """Run the runner until it is killed."""
    before = await books.processed()
    runner = site.run(**kill.env(before))
    if kill.point == "starting":
        await asyncio.sleep(kill.delay / 1000)
        await runner.kill()
    elif kill.point == "outside":
        await site.until_processed(books, kill.moment, 30, runner)
        await runner.kill()
    else:
        assert await runner.ended(30) == -9
        assert f"crash-point: point='{kill.point}'" in runner.last_words(1)
    print(f"{kill}: {before} -> {await books.processed()}")


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("points", "count"),
    [
        pytest.param(list(dict.fromkeys(POINTS)), 1_500, id="one at each point, 1,500 events"),
        pytest.param(POINTS, 10_000, id="twenty, 10,000 events", marks=pytest.mark.chaos),
    ],
)
async def test_kills_lose_nothing_and_repeat_nothing(
    site: Site, workflows: Callable[[int], Awaitable[Workflows]], points: Sequence[str], count: int
) -> None:
    print(f"TEST_SEED={SEED}")
    dice = random.Random(SEED)
    kills = seeded_kills(dice, points, count)
    running = await workflows(WORKFLOWS)
    events = [admin_event(f"event-{number}", dice.choice(running.ids), dice.choice(KINDS)) for number in range(count)]
    by_amqp, natively = events[::2], events[1::2]
    stages = ("workflow-control", "crash-point")
    # A small window, so that each life commits often and a kill leaves little to be done again.
    small = "batch = 100\nwindow = 400"
    await site.lay_out(admin_pipeline(site.stream, source=small, stages=stages, more=CRASH_POINT))
    async with site.by_amqp() as amqp, site.natively() as native, site.books() as books:
        publishing = asyncio.create_task(publish_ahead(books, (amqp, by_amqp), (native, natively)))
        for kill in kills:
            await carry_out(kill, site, books)
        runner = site.run()
        await publishing
        await site.until_processed(books, count, 60, runner)
        await runner.stop()
        await every_event_was_done_once(books, running, events)
        await in_order_and_never_repeated(running, by_amqp, natively)


async def in_order_and_never_repeated(running: Workflows, *published: Sequence[Sent]) -> None:
    """Each workflow saw each publisher's events in their order, and recognised none as a repeat."""
    histories = await running.histories()
    for events in published:  # between two publishers there is no order
        ours = {event.id for event in events}
        seen = {name: [one.event_id for one in found if one.event_id in ours] for name, found in histories.items()}
        assert seen == {name: [] for name in running.ids} | ordered_by_workflow(events)
    memories = (await running.memories()).values()
    assert sum(memory.applied for memory in memories) == sum(map(len, published))
    assert sum(memory.repeated for memory in memories) == 0
