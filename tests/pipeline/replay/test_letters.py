"""Dead letters of replays: copied and redriven as all others are, with the replay's own routes, stages and group."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import orjson
import pytest

from pipeline import Pipeline
from pipeline.handlers import Context
from pipeline.ledger.dead_letters import Asked, DeadLetters
from pipeline.ledger.tables import DeadLetter
from pipeline.replay.book import forget_replay
from tests.pipeline.dispatch.harness import eventually
from tests.pipeline.replay.site import PIPELINE, Site

UNLUCKY = ("order.paid", {"n": 666, "key": "k"})
SOURCES = [("g", "st")]


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for redrives at once, and not every second."""
    monkeypatch.setattr("pipeline.dispatch.redrive._LOOK_SECONDS", 0.01)
    monkeypatch.setattr("pipeline.replay.letters._LOOK_SECONDS", 0.01)


async def redrive(site: Site, **options: bool) -> Asked:
    """Ask for all dead letters to be run again, as the command does."""
    return await DeadLetters(site.database).redrive(by="ann", reason="mended", sources=SOURCES, **options)


async def settled(site: Site, condition: Callable[[list[DeadLetter]], bool]) -> list[DeadLetter]:
    """The dead letters, once the condition holds for them."""
    async with asyncio.timeout(10):
        while not condition(letters := await DeadLetters(site.database).list()):
            await asyncio.sleep(0.01)
    return letters


async def test_a_runner_runs_them_again_with_the_stages_that_the_replay_runs(site: Site) -> None:
    site.publish(("order.paid", {"n": 1}), UNLUCKY)
    summary = await site.run(routes=["orders"], only=["strict", "note"])
    assert (summary.dead, site.seen) == (1, [("note", "e0")])
    site.mend()

    asked = await redrive(site)

    assert (asked.count, asked.refused) == (1, {})
    async with Pipeline(*site.loaded) as pipeline:
        await eventually(lambda: pipeline.stats().messages_processed == 2)
        (letter,) = await settled(site, lambda letters: letters[0].state == "redriven")
        assert await DeadLetters(site.database).outcomes(asked.request) == {"waiting": 0, "handled": 1}
        await eventually(lambda: not pipeline._redrives._running)  # type: ignore[union-attr]
        assert (await site.rows("SELECT owner FROM progress WHERE consumer_group <> 'g'")) == [(None,)]

    assert (letter.source, letter.offset, letter.group) == ("s", 1, summary.group)
    again = Context("note", "orders", summary.group, "e1", 1).request_id
    assert [call for call in site.calls if call[2] == again] == [["note", "e1", again]]
    assert await site.audited() == {"e0": 1, "e1": 1}  # by the runner's own group, and by no replay


async def test_what_a_replay_does_itself_while_it_runs(site: Site) -> None:
    site.publish(UNLUCKY, *[("order.paid", {"n": number, "sleep": 0.05}) for number in range(30)])
    async with site.replay(routes=["orders"]) as replay:
        await settled(site, lambda letters: len(letters) == 1)
        site.mend()
        assert (await redrive(site)).count == 1
        await settled(site, lambda letters: letters[0].state == "redriven")
        assert not replay.summary().finished
        await replay.wait()
    assert replay.summary().outcomes["handled"] == 30


async def test_what_fails_again_is_open_again(site: Site) -> None:
    site.publish(UNLUCKY)
    await site.run(routes=["orders"])
    async with Pipeline(*site.loaded) as pipeline:
        await eventually(lambda: pipeline.stats().messages_processed == 1)
        assert (await redrive(site)).count == 2  # the live one, too
        letters = await settled(site, lambda letters: {letter.state for letter in letters} == {"open"})
    assert {(letter.group.count(".replay."), letter.redrives) for letter in letters} == {(0, 1), (1, 1)}


async def test_one_of_a_forgotten_replay_is_refused_with_what_to_do_instead(site: Site) -> None:
    site.publish(UNLUCKY)
    replay = site.replay(name="x", routes=["orders"])
    await replay.complete()
    assert (await redrive(site)).count == 1
    await forget_replay(replay.loaded, "x")
    (letter,) = await DeadLetters(site.database).list()
    assert letter.state == "open"  # nobody would run it

    assert list((await redrive(site, force=True)).refused.values()) == [
        "no source reads the stream 'st' as the group 'g.replay.x', nor is such a replay known: "
        "replay it anew, from 0 to 0, under another name"
    ]


async def test_they_are_copied_to_the_stream_of_dead_letters(site: Site) -> None:
    site.write(PIPELINE.replace("window = 20", "window = 20\ndead_letters = true"))
    site.publish(UNLUCKY)
    summary = await site.run(routes=["orders"])
    (copy,) = await site.rows("SELECT stream, headers FROM outbox")
    assert copy.stream == "st.dead-letters"
    assert orjson.loads(copy.headers)["x-dead-letter-group"] == summary.group
