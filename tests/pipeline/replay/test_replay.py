"""A replay: what runs again, what does not, and how it ends."""

from __future__ import annotations

import asyncio
from collections import Counter
from typing import Any

import pytest

from pipeline import Pipeline
from pipeline.connectors import Outgoing
from pipeline.errors import UserError
from pipeline.ledger.dead_letters import DeadLetters
from pipeline.ledger.lease import Lease
from pipeline.ledger.ledger import Ledger
from pipeline.ledger.owner import owner_id
from pipeline.ledger.units import SourceKey
from pipeline.replay import Replay, ReplayRequest, plan_replay
from pipeline.replay.book import forget_replay, known_replays, state_of
from tests.pipeline.dispatch.harness import eventually
from tests.pipeline.replay.site import PIPELINE, Site


def orders(count: int, **data: Any) -> list[tuple[str, dict[str, Any]]]:
    return [("order.paid", {"n": number, "key": str(number % 3)} | data) for number in range(count)]


async def live(site: Site, count: int) -> None:
    """Let a runner handle what there is."""
    async with Pipeline(*site.loaded) as pipeline:
        await eventually(lambda: pipeline.stats().messages_processed == count)


async def test_a_range_runs_again_beside_what_the_source_did_itself(site: Site) -> None:
    site.publish(*orders(10))
    await live(site, 10)
    before = await site.rows("SELECT * FROM progress")
    first, again = Counter(site.seen), Counter()  # type: ignore[var-annotated]
    summary = await site.run(2, 5, routes=["orders"])
    again = Counter(site.seen) - first
    assert again == Counter({("note", f"e{number}"): 1 for number in range(2, 6)})
    assert (summary.finished, summary.processed, summary.outcomes["handled"]) == (True, 4, 4)
    assert summary.routes == {"orders": {"handled": 4}}
    assert [row for row in await site.rows("SELECT * FROM progress") if row[0] == "g"] == before
    assert await site.audited() == Counter({f"e{number}": 2 if 2 <= number <= 5 else 1 for number in range(10)})


async def test_stages_see_the_same_event_with_a_request_id_of_the_replay(site: Site) -> None:
    site.publish(*orders(1), id_=False)
    await live(site, 1)
    await site.run(routes=["orders"], name="a")
    await site.run(routes=["orders"], name="b")
    calls = [call for call in site.calls if call[0] == "note"]
    assert {event for _, event, _ in calls} == {"st/0/0"}
    assert len({request for _, _, request in calls}) == len(calls) == 3


async def test_a_message_without_an_id_keeps_the_one_that_it_was_given_live(site: Site) -> None:
    site.publish(*orders(1), id_=False)
    await live(site, 1)
    async with site.database.write() as connection:
        await connection.exec_driver_sql("UPDATE progress SET incarnation = 2")
    await site.run(routes=["orders"])
    assert site.seen[-1] == ("note", "st/2/0")


async def test_only_the_chosen_stages_run(site: Site) -> None:
    site.publish(*orders(3))
    summary = await site.run(only=["audit"])
    assert site.seen == []
    assert await site.audited() == Counter(["e0", "e1", "e2"])
    assert summary.routes == {"orders": {"handled": 3}}


async def test_an_async_stage_leaves_a_job_that_is_not_the_live_one(site: Site) -> None:
    site.publish(*orders(2))
    first = await site.run(only=["later"], name="a")
    second = await site.run(only=["later"], name="b")
    assert first.left_jobs
    assert second.left_jobs
    assert len(await site.rows("SELECT id FROM jobs WHERE stage = 'later'")) == 4


async def test_it_pauses_when_a_queue_is_half_full_and_leaves_the_rest_to_live_events(site: Site) -> None:
    site.write(f"{PIPELINE}[jobs]\nmax_waiting = 4\n")
    site.publish(*orders(30))
    async with site.replay(rate=10, only=["later"]) as replay:
        await eventually(lambda: "2 of max_waiting = 4 jobs wait" in replay.progress().reason)
        assert replay.progress().state == "paused"


async def test_the_end_is_fixed_when_it_begins(site: Site) -> None:
    site.publish(*orders(5, sleep=0.05))
    async with site.replay(routes=["orders"]) as replay:
        site.publish(*orders(5))
        await asyncio.wait_for(replay.wait(), 10)
    assert replay.summary().processed == 5
    assert (await site.run(routes=["orders"])).last == 4


async def test_a_range_of_events_that_nobody_takes_comes_to_its_end(site: Site) -> None:
    site.publish(*[("nobody", {})] * 30, *orders(2, draft=True))
    summary = await asyncio.wait_for(site.run(routes=["orders"]), 10)
    assert (summary.finished, summary.outcomes["filtered"], summary.routes) == (True, 32, {"orders": {"filtered": 2}})


async def test_an_empty_range_ends_at_once_and_leaves_nothing(site: Site) -> None:
    before = await site.everything()
    summary = await asyncio.wait_for(site.run(), 10)
    assert (summary.finished, summary.processed) == (True, 0)
    assert await site.everything() == before


async def test_a_range_whose_rest_is_removed_meanwhile_comes_to_its_end(site: Site) -> None:
    site.publish(*orders(30))
    async with site.replay(0, 25, rate=20.0, routes=["orders"]) as replay:
        await eventually(lambda: replay.progress().processed > 0)
        site.connector.store.trim("st", 28)
        site.connector.store.cut()
        await site.connector.connect()
        await asyncio.wait_for(replay.wait(), 10)
    summary = replay.summary()
    assert (summary.finished, summary.processed + summary.lost) == (True, 26)
    assert summary.lost > 0


async def test_what_is_removed_while_a_replay_is_stopped_is_counted_when_it_goes_on(site: Site) -> None:
    site.publish(*orders(30))
    plan = await plan_replay(*site.loaded, ReplayRequest(0, 25, routes=["orders"]))
    site.connector.store.trim("st", 10)
    summary = await Replay(*site.loaded, ReplayRequest(0, 25, routes=["orders"]), plan=plan).complete()
    assert (summary.finished, summary.processed, summary.lost) == (True, 16, 10)


async def test_dead_letters_are_the_replays_own(site: Site) -> None:
    site.publish(*orders(1), ("order.paid", {"n": 666}), ("order.paid", {"n": "many"}), b"no json")
    summary = await site.run()
    assert (summary.dead, summary.routes["orders"]) == (3, {"handled": 1, "dead": 2})
    letters = await DeadLetters(site.database).list(group=summary.group)
    assert [letter.kind for letter in sorted(letters, key=lambda one: one.offset)][:2] == ["rejected", "invalid_data"]
    assert {letter.source for letter in letters} == {"s"}


async def test_what_cant_be_read_leaves_no_dead_letter_where_only_some_routes_or_stages_run(site: Site) -> None:
    site.publish(*orders(1), b"no json", b"[]")
    for part in ({"routes": ["orders"]}, {"only": ["audit"]}):
        summary = await site.run(**part)
        assert (summary.dead, summary.unreadable, summary.unreadable_known) == (0, 2, 0)
        assert summary.this_run == {"duplicate": 0, "filtered": 2, "handled": 1, "dead": 0}
    assert await DeadLetters(site.database).count() == 0


async def test_what_cant_be_read_leaves_one_dead_letter_however_often_it_is_replayed(site: Site) -> None:
    site.publish(b"no json")
    await live(site, 1)
    site.publish(b"[]")
    told = [await site.run(name=name) for name in ("a", "b")]
    told.append(await site.run(name="c", routes=["orders"]))
    assert [(each.dead, each.unreadable, each.unreadable_known) for each in told] == [(1, 1, 1), (0, 2, 2), (0, 2, 2)]
    letters = await DeadLetters(site.database).list()
    assert [(each.group, each.offset) for each in letters] == [("g.replay.a", 1), ("g", 0)]


async def test_a_dead_letter_of_the_streams_former_life_is_of_another_message(site: Site) -> None:
    site.publish(b"no json")
    await live(site, 1)
    async with site.database.write() as connection:
        await connection.exec_driver_sql("UPDATE progress SET incarnation = 2")
    assert (await site.run()).dead == 1


async def test_the_journal_says_why_what_cant_be_read_was_passed_by(site: Site) -> None:
    site.write(PIPELINE.replace('group = "g"', 'group = "g"\njournal = true'))
    site.publish(b"no json")
    await site.run(routes=["orders"])
    ((outcome, reason),) = await site.rows("SELECT outcome, reason FROM outcomes")
    assert (outcome, "JSON" in reason) == ("filtered", True)


async def test_the_rate_that_is_told_is_that_of_messages_that_routes_handled(site: Site) -> None:
    site.publish(*[("nobody", {})] * 50, *orders(5), b"no json")
    async with site.replay(routes=["orders"]) as replay:
        await replay.wait()
    progress, summary = replay.progress(), replay.summary()
    assert (progress.processed, progress.handled) == (56, 5)
    assert summary.events_per_second == pytest.approx(5 / summary.seconds)


async def test_ids_are_not_remembered(site: Site) -> None:
    site.publish(*orders(2))
    await site.run(name="a")
    assert await site.rows("SELECT * FROM seen_events") == []


async def test_an_id_that_the_range_holds_twice_is_handled_twice_with_one_request_id(site: Site) -> None:
    await site.connector.publish("st", [Outgoing(b'{"n": 1}', "order.paid", "same")] * 2)
    await live(site, 2)
    before = [call for call in site.calls if call[0] == "note"]
    assert len(before) == 1
    await site.run(routes=["orders"])
    again = site.calls[-2:]
    assert again[0] == again[1]
    assert again[0][:2] == before[0][:2]
    assert again[0][2] != before[0][2]


async def test_the_broker_is_not_told_of_it(site: Site) -> None:
    site.publish(*orders(2))
    await site.run()
    assert site.connector.store.log("st").groups == {}


async def test_a_finished_replay_is_not_run_again(site: Site) -> None:
    site.publish(*orders(3))
    await site.run(routes=["orders"])
    seen = site.seen
    summary = await site.run(routes=["orders"])
    assert (summary.finished, summary.processed, summary.outcomes["handled"], summary.done) == (True, 0, 3, 3)
    assert site.seen == seen


async def test_a_rate_holds_it_back(site: Site) -> None:
    site.publish(*[("nobody", {})] * 50, *orders(10))
    summary = await site.run(routes=["orders"], rate=20)
    assert summary.processed == 60
    assert summary.seconds > 0.35


async def test_its_progress_is_told_while_it_runs(site: Site) -> None:
    site.publish(*orders(20, sleep=0.02))
    async with site.replay(5, routes=["orders"]) as replay:
        await eventually(lambda: 0 < replay.progress().done < replay.progress().total)
        progress = replay.progress()
        assert (progress.total, progress.state) == (15, "running")
        await replay.wait()
    assert replay.progress().done == 15


# Stopping and going on


async def kill(replay: Replay) -> None:
    """End it as kill -9 would: nothing is brought to an end, and nobody says goodbye."""
    for task in replay._tasks:
        task.cancel()
    await asyncio.gather(*replay._tasks, return_exceptions=True)
    replay._supervisor = None
    await replay.stop()


def dead_owner() -> str:
    host, _, machine, _, salt = owner_id().rsplit(":", 4)
    return ":".join((host, "1", machine, "0", salt))


@pytest.mark.parametrize("at", [1, 17, 43])
async def test_a_replay_that_was_killed_goes_on_and_doubles_nothing(
    site: Site, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.publish(*orders(60, sleep=0.001))
    monkeypatch.setattr("pipeline.replay.replay.owner_id", dead_owner)
    replay = site.replay(routes=["orders"])
    await replay.start()
    await eventually(lambda: len(site.calls) >= at)
    await kill(replay)
    monkeypatch.undo()
    assert len(await site.audited()) < 60
    site.publish(*orders(5))
    summary = await site.run(routes=["orders"])
    assert (summary.finished, summary.last, summary.outcomes["handled"]) == (True, 59, 60)
    assert await site.audited() == Counter(f"e{number}" for number in range(60))
    requests = {event: set[str]() for _, event in site.seen}
    for _, event, request in site.calls:
        requests[event].add(request)
    assert all(len(found) == 1 for found in requests.values())


async def test_a_replay_that_is_stopped_finishes_what_is_in_flight_and_goes_on_later(site: Site) -> None:
    site.publish(*orders(30, sleep=0.02))
    async with site.replay(routes=["orders"]) as replay:
        await eventually(lambda: replay.progress().in_flight > 0)
    summary = replay.summary()
    assert not summary.finished
    assert 0 < summary.done < 30
    assert (await site.run(routes=["orders"])).processed == 30 - summary.processed
    assert Counter(site.seen) == Counter({("note", f"e{number}"): 1 for number in range(30)})


async def test_one_process_at_a_time_runs_a_replay(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.publish(*orders(3, sleep=60))
    monkeypatch.setattr("pipeline.upkeep._RENEW_SECONDS", 0.05)
    monkeypatch.setattr("pipeline.replay.supervising._POLL_SECONDS", 0.1)
    replay = site.replay(name="x", routes=["orders"])
    async with replay:
        await eventually(lambda: replay.progress().in_flight > 0)
        with pytest.raises(UserError, match="is being run by process"):
            await site.run(name="x", routes=["orders"])
        with pytest.raises(UserError, match="is being run by process"):
            await forget_replay(replay.loaded, "x")
        await kill(replay)


async def test_a_name_stands_for_one_request(site: Site) -> None:
    site.publish(*orders(3))
    await site.run(1, name="x", only=["audit"])
    with pytest.raises(UserError, match="was begun with --from 1 --to now --only audit"):
        await site.run(2, name="x", only=["audit"])


async def test_a_stream_that_was_created_anew_ends_a_replay(site: Site) -> None:
    site.publish(*orders(200, sleep=0.01))
    async with site.replay(name="x", routes=["orders"]) as replay:
        await eventually(lambda: replay.progress().processed > 0)
        site.connector.store.delete("st")
        with pytest.raises(UserError, match="the replay can't go on"):
            await asyncio.wait_for(replay.wait(), 10)
    site.began += 1
    site.publish(*orders(250))
    with pytest.raises(UserError, match="deleted and created anew"):
        await site.run(name="x", routes=["orders"])


async def test_a_replay_whose_stream_has_lost_the_rest_of_the_range_is_over(site: Site) -> None:
    site.publish(*orders(40, sleep=0.01))
    async with site.replay(name="x", routes=["orders"]) as replay:
        await eventually(lambda: replay.progress().processed > 3)
        await replay.stop()
    before = len(site.seen)
    log = site.connector.store.log("st")
    del log.messages[1:]
    log.next = 1
    site.began += 90 * 60_000
    site.publish(*orders(40))
    with pytest.raises(UserError, match="has lost its end: what is left of the replay's range is gone"):
        await site.run(name="x", routes=["orders"])
    assert len(site.seen) == before


async def test_what_is_forgotten_begins_anew(site: Site) -> None:
    site.publish(*orders(2), ("order.paid", {"n": 666}))
    replay = site.replay(name="x", routes=["orders"])
    await replay.complete()
    (record,) = await known_replays(replay.loaded)
    assert (record.row.name, state_of(record)) == ("x", "finished")
    await forget_replay(replay.loaded, "x")
    assert await known_replays(replay.loaded) == []
    assert await DeadLetters(site.database).count(group="g.replay.x") == 1
    assert (await site.run(name="x", routes=["orders"])).processed == 3
    assert await site.audited() == Counter({"e0": 2, "e1": 2, "e2": 2})


async def test_forgetting_what_there_is_not_says_what_there_is(site: Site) -> None:
    site.publish(*orders(1))
    replay = site.replay(name="fix", only=["audit"])
    await replay.complete()
    with pytest.raises(UserError, match=r"no replay 'fux'.*'fix'"):
        await forget_replay(replay.loaded, "fux")


async def test_a_live_runner_keeps_its_lease_while_a_replay_runs(site: Site) -> None:
    site.publish(*orders(3))
    ledger = Ledger(site.database)
    lease = await ledger.try_acquire(SourceKey("s", "g", "st"), "the runner")
    assert isinstance(lease, Lease)
    await site.run(only=["audit"])
    await ledger.renew(lease)
