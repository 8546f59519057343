"""Kill -9 of replays and of redrives, at exact points: each dead letter is made once, and redriven once."""

from __future__ import annotations

import json
import os
import random
from collections import Counter

import pytest

from tests.integration.rig.database import Books
from tests.integration.rig.events import keyed_event
from tests.integration.rig.runner import Runner, until
from tests.integration.rig.site import CRASH_POINT, HANDLERS, Site

SEED = int(os.environ.get("TEST_SEED", "20260131"))
POINTS = ("handled", "statement", "commit", "committing", "committed")
GATE = """
from pathlib import Path
from pipeline import Reject, handler

@handler("gate")
async def gate(event):
    if not Path(__file__).with_name("open").exists():
        raise Reject("the gate is closed")
"""
PIPELINE = """
[pipeline]
name = "proof"
handlers = ["{handlers}", "gate.py"]
[source.jobs]
stream = "{stream}"
group = "proof"
batch = 20
window = 60
journal = true
[[route]]
match = "job.*"
key = "data.key"
stages = ["gate", "effect"]
finally = ["audit", "crash-point"]
[stage.effect]
file = "{folder}/effects"
[[stage.audit.row]]
match = "#"
action = "routing_key"
"""


async def killed(runner: Runner, point: str) -> None:
    """Wait until it has killed itself there."""
    assert await runner.ended(30) == -9, runner.last_words()
    assert f"crash-point: point='{point}'" in runner.last_words()


def crash(dice: random.Random, point: str, events: int) -> dict[str, str]:
    return {
        "CRASH_POINT": point, "CRASH_EVENTS": str(dice.randint(1, events)),
        "CRASH_STATEMENTS": str(dice.randint(1, 3)), "CRASH_MICROSECONDS": str(dice.randint(0, 3_000)),
    }  # fmt: skip


def replay(site: Site, number: int, **env: str) -> Runner:
    arguments = ("replay", "--from", "first", "--yes")
    made = Runner(site.file, {**site.env, **env}, site.folder / f"replay-{number}.log", arguments)
    site.runners.append(made)
    return made


@pytest.mark.chaos
@pytest.mark.timeout(600)
async def test_kills_double_no_dead_letter_and_no_redrive(site: Site) -> None:
    print(f"TEST_SEED={SEED}")
    dice, count = random.Random(SEED), 600
    replays, redrives = POINTS * 2, POINTS * 3
    (site.folder / "gate.py").write_text(GATE)
    await site.lay_out(PIPELINE.format(handlers=HANDLERS, stream=site.stream, folder=site.folder) + CRASH_POINT)
    ids = [f"e{number}" for number in range(count)]
    async with site.by_amqp() as publisher, site.books() as books:
        await publisher.publish([keyed_event(id_, f"key-{number % 7}") for number, id_ in enumerate(ids)])
        runner = site.run()
        await site.until_processed(books, count, 30, runner)
        await runner.stop()

        for number, point in enumerate(replays):
            await killed(replay(site, number, **crash(dice, point, count // (2 * len(replays)))), point)
        last = replay(site, len(replays))
        assert await last.ended(60) == 1  # there are dead letters
        assert await letters(books, "open") == dict.fromkeys(ids, 2)

        (site.folder / "open").touch()
        for number, point in enumerate(redrives):
            await redrive(site, await chosen(books, number, len(redrives)))
            await killed(site.run(**crash(dice, point, count // len(redrives))), point)
        runner = site.run()
        await until(lambda: all_redriven(books), 60, "all redrives to be done", runner)
        await runner.stop()

        assert await letters(books, "redriven") == dict.fromkeys(ids, 2)
        assert await counted(books, "SELECT count(*) FROM dead_letters WHERE redrives <> 1") == 0
        actions = Counter(row["action"] for row in await books.rows("SELECT action FROM operator_actions"))
        assert actions == {"redrive": 2 * count, "redriven": 2 * count}
        outcomes = await books.rows("SELECT event_id, outcome FROM outcomes")
        assert Counter(map(tuple, outcomes)) == {(id_, one): 2 for id_ in ids for one in ("dead", "handled")}
        assert await books.audited() == dict.fromkeys(ids, 4)  # dead and handled, live and in the replay
        effects = Counter((site.folder / "effects").read_text().split())
        assert all(effects[id_] >= 2 for id_ in ids)


async def chosen(books: Books, number: int, of: int) -> list[int]:
    """The ids of one part of the dead letters, of the source and of the replay, in the order of their messages."""
    rows = await books.rows("SELECT id, message_offset FROM dead_letters ORDER BY message_offset")
    size = len(rows) // of
    return [row["id"] for row in rows[number * size : (number + 1) * size]]


async def redrive(site: Site, ids: list[int]) -> None:
    code, output = await site.command("dead-letters", "redrive", *map(str, ids), "--reason", "open", "--json")
    told = json.loads(output)
    assert (code, told["count"], told["refused"]) == (0, len(ids), [])


async def letters(books: Books, state: str) -> dict[str, int]:
    """How many dead letters in this state each event has."""
    return dict(Counter(row["event_id"] for row in await books.dead_letters() if row["state"] == state))


async def counted(books: Books, query: str) -> int:
    [[number]] = await books.rows(query)
    return int(number)


async def all_redriven(books: Books) -> bool:
    return await counted(books, "SELECT count(*) FROM dead_letters WHERE state <> 'redriven'") == 0
