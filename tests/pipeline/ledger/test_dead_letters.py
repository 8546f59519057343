"""Dead letters can be listed newest first, chosen by what they are about, and counted."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pipeline.errors import UserError
from pipeline.events import Outcome
from pipeline.ledger.database import Database
from pipeline.ledger.dead_letters import DeadLetters
from pipeline.ledger.lease import Lease
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.replay_table import ReplayRow
from pipeline.ledger.replays import Replays
from tests.pipeline.ledger.samples import KEY, commit_of, dead, unit


@pytest.fixture
async def letters(ledger: Ledger, lease: Lease, db: Database) -> DeadLetters:
    """Five of them: offsets 0 to 4, of the routes a, b, a, b, a."""
    await ledger.commit(lease, commit_of(*(unit(n, outcome=Outcome.DEAD, dead=[dead("ab"[n % 2])]) for n in range(5))))
    return DeadLetters(db)


async def test_the_newest_come_first_and_pages_follow(letters: DeadLetters) -> None:
    first = await letters.list(2)
    second = await letters.list(2, before=first[-1].id)

    assert [letter.offset for letter in first + second] == [4, 3, 2, 1]


async def test_filters_narrow_the_list_and_the_count(letters: DeadLetters) -> None:
    assert [letter.offset for letter in await letters.list(route="b")] == [3, 1]
    assert [letter.offset for letter in await letters.list(route="a", event_id="e2", kind=None)] == [2]
    assert await letters.count() == 5
    assert await letters.count(route="a", state="open", source="admin") == 3
    assert await letters.count(stage="no such stage") == 0


async def test_one_is_found_by_its_id(letters: DeadLetters) -> None:
    (newest,) = await letters.list(1)
    assert newest.id is not None

    assert await letters.get(newest.id) == newest
    assert await letters.get(10**9) is None


async def test_a_replays_name_chooses_what_it_left_and_no_other_names(letters: DeadLetters, ledger: Ledger) -> None:
    for name in ("fix_1", "fixx1", "FIX_1"):
        lease = await ledger.try_acquire(replace(KEY, group=f"{KEY.group}.replay.{name}"), "runner-1")
        assert isinstance(lease, Lease)
        await ledger.commit(lease, commit_of(unit(7, outcome=Outcome.DEAD, dead=[dead()])))

    assert [letter.group for letter in await letters.list(replay="fix_1")] == ["group-1.replay.fix_1"]


async def test_a_replay_knows_what_in_its_range_could_not_be_read(db: Database, ledger: Ledger, lease: Lease) -> None:
    unread = (0, 2, 3, 9)
    await ledger.commit(
        lease,
        commit_of(*(unit(n, outcome=Outcome.DEAD, dead=[dead("" if n in unread else "a")]) for n in range(10))),
    )
    replay = ReplayRow(
        group="group-1.replay.x", stream=KEY.stream, pipeline="p", name="x", source="admin", first=1, last=8
    )
    replays = Replays(db)

    assert await replays.unreadable("group-1", replay) == {2, 3}
    assert await replays.unreadable("group-2", replay) == set()
    assert await replays.unreadable("group-1", replay.model_copy(update={"incarnation": 1})) == set()


async def test_an_unknown_filter_is_named(letters: DeadLetters) -> None:
    with pytest.raises(UserError, match="'colour'"):
        await letters.list(colour="red")


async def test_the_names_in_a_field_are_those_of_all_dead_letters(letters: DeadLetters) -> None:
    assert await letters.names("route") == {"a", "b"}
    assert await letters.names("source") == {"admin"}


async def test_as_many_can_be_named_as_a_command_line_holds(letters: DeadLetters) -> None:
    asked = await letters.discard(by="me", reason="sent by a test", ids=range(1, 40_001))
    assert asked.count == 5
    assert set(asked.refused) == set(range(6, 40_001))
