"""One key is stuck: the others pass it, and a restart repeats none of them and loses none."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path

import pytest

from tests.integration.rig.events import keyed_event
from tests.integration.rig.runner import until
from tests.integration.rig.site import Site, effect_pipeline

BEFORE = 100
"""How many come before the first event of the stuck key."""
LATER = 100
"""How many are published after the restart: whoever handles them has passed all that came before."""


def effects(file: Path) -> list[str]:
    return file.read_text().split() if file.exists() else []


@pytest.mark.slow
@pytest.mark.parametrize("count", [4_000, pytest.param(20_000, marks=pytest.mark.chaos)])
@pytest.mark.parametrize("restart", ["graceful stop", "kill -9"])
async def test_others_pass_a_stuck_key_and_a_restart_repeats_nothing(site: Site, restart: str, count: int) -> None:
    file, loose = site.folder / "effects", site.folder / "loose"
    stuck = [keyed_event(f"stuck-{number}", "stuck") for number in range(3)]
    others = [keyed_event(f"other-{number}", f"key-{number % 500}") for number in range(count)]
    later = [keyed_event(f"later-{number}", f"key-{number}") for number in range(LATER)]
    options = f'blocked_key = "stuck"\nuntil = "{loose}"'
    await site.lay_out(effect_pipeline(site.stream, file, grace="1s", options=options))
    async with site.by_amqp() as amqp, site.natively() as native, site.books() as books:
        runner = site.run()
        await native.publish([*others[:BEFORE], *stuck])
        half = (count + BEFORE) // 2
        await asyncio.gather(native.publish(others[BEFORE:half]), amqp.publish(others[half:]))
        await site.until_processed(books, count, 60, runner)

        async def is_told_running() -> bool:
            return set((await books.states("jobs")).values()) == {"running"}

        await until(is_told_running, 10, "a heartbeat that says that it runs", runner)
        [progress] = await books.rows("SELECT prefix FROM progress")
        assert progress["prefix"] == BEFORE - 1
        if restart == "kill -9":
            await runner.kill()
        else:
            assert await runner.stop() < 5

        runner = site.run()
        await native.publish(later)
        await site.until_processed(books, count + LATER, 30, runner)
        assert Counter(effects(file)) == Counter(event.id for event in [*others, *later])

        loose.touch()
        everything = [*others, *later, *stuck]
        await site.until_processed(books, len(everything), 10, runner)
        await runner.stop()
        assert Counter(effects(file)) == Counter(event.id for event in everything)
        assert effects(file)[-len(stuck) :] == [event.id for event in stuck]
        assert await books.audited() == Counter(event.id for event in everything)
        assert await books.outcomes() == {"handled": len(everything)}
        [progress] = await books.rows("SELECT ahead FROM progress")
        assert progress["ahead"] == "[]"
