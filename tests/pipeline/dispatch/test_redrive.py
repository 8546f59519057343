"""A redrive: a dead letter runs again in its event's own lane, and what comes of it is written once."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from pipeline.config.policies import CoalescePolicy
from pipeline.errors import Reject, Skip
from pipeline.events import Event, Outcome
from pipeline.handlers import Context
from pipeline.jobs.outbox import withdraw
from pipeline.ledger.columns import utcnow
from pipeline.ledger.dead_letters import Asked, DeadLetters
from pipeline.ledger.seen import SeenIds
from pipeline.ledger.tables import DeadLetter, OutcomeRow, ProgressRow
from pipeline.ledger.units import Dead, Scope, Unit
from pipeline.ledger.writing import UnitWriter
from tests.pipeline.dispatch.harness import QUICK, Bench, async_stage, bench, message, route, stage
from tests.pipeline.ledger.samples import Note, SampleModel


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for redrives at once, and not every second."""
    monkeypatch.setattr("pipeline.dispatch.redrive._LOOK_SECONDS", 0.01)


class Switch:
    """A handler that fails until it is mended; it notes what it was called with, and leaves a row."""

    def __init__(self, *dying: int) -> None:
        self.dying = set(dying)
        self.calls: list[tuple[int, str]] = []

    async def __call__(self, event: Event[Any], context: Context) -> None:
        self.calls.append((event.offset, context.request_id))
        if event.offset in self.dying:
            raise Reject(f"workflow 'w{event.offset}' not found", kind="not_found")
        context.add(Note(text=f"{context.stage} {event.offset} {context.outcome}"))

    @property
    def offsets(self) -> list[int]:
        return [offset for offset, _ in self.calls]


async def settled(pipe: Bench, condition: Callable[[list[DeadLetter]], bool]) -> list[DeadLetter]:
    """The dead letters, once the condition holds for them."""
    async with asyncio.timeout(10):
        while not condition(letters := await pipe.dead()):
            await asyncio.sleep(0.005)
    return letters


async def redrive(pipe: Bench, **options: Any) -> Asked:
    """Ask for it, and wait until everything that was asked for has come to its end, or is left as a job."""
    asked = await DeadLetters(pipe.database).redrive(by="ann", reason="mended", **options)
    await settled(pipe, lambda letters: all(letter.state != "redriving" or letter.outcome for letter in letters))
    return asked


async def notes(pipe: Bench) -> list[str | None]:
    return [note.text for note in await pipe.database.fetch(Note, select(Note).order_by(Note.id))]  # type: ignore[arg-type]


async def prepare(pipe: Bench) -> None:
    async with pipe.database.write() as connection:
        await connection.run_sync(SampleModel.metadata.create_all)


async def test_a_redrive_begins_at_the_stage_that_failed_with_the_same_request_id(tmp_path: Path) -> None:
    first, second, last = Switch(), Switch(7), Switch()
    stages = [stage("a", first), stage("b", second), stage("c", last)]
    async with bench(tmp_path, stages, [route(["a", "b"], ["c"], key=("data.k",))]) as pipe:
        await prepare(pipe)
        await pipe.feed(message(7, {"k": 1}, id="e7", headers={"tenant": "x"}), message(8, {"k": 1}))
        await pipe.settle(2)
        second.dying.clear()

        asked = await redrive(pipe, force=True)

        assert (asked.count, asked.refused) == (1, {})
        (letter,) = await pipe.dead()
        assert (letter.state, letter.outcome, letter.redrives, letter.attempts) == ("redriven", "handled", 1, 1)
        assert first.offsets == [7, 8]
        assert second.offsets == [7, 8, 7]
        assert second.calls[0] == second.calls[2]
        assert await notes(pipe) == [
            "a 7 None", "c 7 dead", "a 8 None", "b 8 None", "c 8 handled", "b 7 None", "c 7 handled",
        ]  # fmt: skip
        (progress,) = await pipe.database.fetch(ProgressRow, select(ProgressRow))
        assert (progress.prefix, progress.handled, progress.dead) == (8, 1, 1)
        assert await DeadLetters(pipe.database).outcomes(asked.request) == {"waiting": 0, "handled": 1}
        history = await DeadLetters(pipe.database).history(letter.id or 0)
        assert [(act.action, act.actor) for act in history] == [("redrive", "ann"), ("redriven", "runner one")]
        assert history[0].reason == "mended"


async def test_a_redrive_from_the_start_runs_the_whole_route(tmp_path: Path) -> None:
    first, second = Switch(), Switch(7)
    async with bench(tmp_path, [stage("a", first), stage("b", second)]) as pipe:
        await prepare(pipe)
        await pipe.feed(message(7, {"k": 1}))
        await pipe.settle(1)
        second.dying.clear()

        await redrive(pipe, from_start=True)

        assert (first.offsets, second.offsets) == ([7, 7], [7, 7])


async def test_what_dies_again_is_open_again_with_all_its_attempts(tmp_path: Path) -> None:
    async def fails(event: Event[Any], context: Context) -> None:
        raise OSError(f"try {context.attempt}")

    async with bench(tmp_path, [stage("a", fails)]) as pipe:
        await pipe.feed(message(7, {"k": 1}))
        await pipe.settle(1)
        (before,) = await pipe.dead()

        asked = await redrive(pipe)

        (letter,) = await pipe.dead()
        assert (letter.state, letter.redrives, letter.attempts, letter.kind) == ("open", 1, 6, "OSError")
        assert (letter.first_at, letter.last_at > before.last_at) == (before.first_at, True)
        assert pipe.outcomes == {"dead": 1}
        assert await DeadLetters(pipe.database).outcomes(asked.request) == {"waiting": 0, "failed": 1}


async def test_what_is_skipped_at_last_is_redriven_as_filtered(tmp_path: Path) -> None:
    dying = True

    async def handle(event: Event[Any], context: Context) -> None:
        raise Reject("no") if dying else Skip("not for me")

    async with bench(tmp_path, [stage("a", handle)], journal=True) as pipe:
        await pipe.feed(message(7, {"k": 1}))
        await pipe.settle(1)
        dying = False
        await redrive(pipe)

        (letter,) = await pipe.dead()
        assert (letter.state, letter.outcome) == ("redriven", "filtered")
        entries = await pipe.database.fetch(OutcomeRow, select(OutcomeRow).order_by(OutcomeRow.id))  # type: ignore[arg-type]
        assert [(entry.outcome, entry.offset) for entry in entries] == [("dead", 7), ("filtered", 7)]


async def test_a_later_event_of_the_key_overtakes_a_dead_one(tmp_path: Path) -> None:
    handle = Switch(1, 2)
    async with bench(tmp_path, [stage("a", handle)]) as pipe:
        await prepare(pipe)
        await pipe.feed(message(1, {"k": "x"}), message(2, {"k": "y"}), message(3, {"k": "x"}, id="e3"))
        await pipe.settle(3)
        handle.dying.clear()

        asked = await redrive(pipe)

        overtaken, free = await pipe.dead()
        assert (overtaken.state, overtaken.overtaken_by, free.state) == ("open", "e3", "redriven")
        assert asked.count == 1
        assert asked.refused == {overtaken.id: "a later event of its key was handled after it: e3"}
        assert (await redrive(pipe, ids=[overtaken.id], force=True)).count == 1
        assert handle.offsets == [1, 2, 3, 2, 1]


async def test_an_event_of_before_the_last_start_is_overtaken_too(tmp_path: Path) -> None:
    handle = Switch(1)
    async with bench(tmp_path, [stage("a", handle)]) as pipe:
        await prepare(pipe)
        await pipe.feed(message(1, {"k": "x"}))
        await pipe.settle(1)
    async with bench(tmp_path, [stage("a", handle)]) as pipe:
        await pipe.feed(message(2, {"k": "x"}, id="e2"))
        await pipe.settle(1)
        (letter,) = await pipe.dead()
        assert letter.overtaken_by == "e2"


async def test_an_event_that_is_written_before_the_dead_one_overtakes_it_too(tmp_path: Path) -> None:
    held = asyncio.Event()

    async def slow(event: Event[Any], context: Context) -> None:
        if event.offset == 1:
            await held.wait()

    stages = [stage("a", Switch(1)), stage("b", slow)]
    routes = [route(["a"], name="one", key=("data.k",)), route(["b"], name="two")]
    async with bench(tmp_path, stages, routes) as pipe:
        await prepare(pipe)
        await pipe.feed(message(1, {"k": "x"}), message(2, {"k": "x"}, id="e2"))
        await pipe.settle(1)  # the second has ended both routes, and the first has one to go
        assert await pipe.dead() == []
        held.set()
        await pipe.settle(2)
        assert [letter.overtaken_by for letter in await pipe.dead()] == ["e2"]
        assert not pipe.source._overtaken._unwritten


async def test_with_more_keys_than_are_told_apart_none_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.dispatch.overtaken._MOST", 1)
    handle = Switch(1, 2, 3)
    async with bench(tmp_path, [stage("a", handle)]) as pipe:
        await prepare(pipe)
        await pipe.feed(*(message(offset, {"k": offset}) for offset in (1, 2, 3)))
        await pipe.feed(*(message(offset, {"k": offset - 10}, id=f"e{offset}") for offset in (11, 12, 13)))
        await pipe.settle(6)
        assert [letter.overtaken_by for letter in await pipe.dead()] == ["e11", "e12", "e13"]


async def test_events_that_are_filtered_or_dead_overtake_nothing(tmp_path: Path) -> None:
    async def handle(event: Event[Any], context: Context) -> None:
        raise Skip("no") if event.offset == 2 else Reject("no")

    async with bench(tmp_path, [stage("a", handle)]) as pipe:
        await pipe.feed(*(message(offset, {"k": "x"}) for offset in (1, 2, 3)))
        await pipe.settle(3)
        assert [letter.overtaken_by for letter in await pipe.dead()] == [None, None]


async def test_a_redrive_that_is_overtaken_while_it_waits_in_its_lane_is_refused(tmp_path: Path) -> None:
    held = asyncio.Event()
    calls: list[int] = []
    dying = {1}

    async def handle(event: Event[Any], context: Context) -> None:
        calls.append(event.offset)
        if event.offset in dying:
            raise Reject("no")
        if event.offset == 2:
            await held.wait()

    async with bench(tmp_path, [stage("a", handle)]) as pipe:
        await pipe.feed(message(1, {"k": "x"}))
        await pipe.settle(1)
        dying.clear()
        await pipe.feed(message(2, {"k": "x"}, id="e2"))
        asked = await DeadLetters(pipe.database).redrive(by="ann", reason="")
        assert asked.count == 1
        async with asyncio.timeout(10):
            while not pipe.source._redriver._on_their_way:  # it stands behind the live event now
                await asyncio.sleep(0.005)
        held.set()

        (letter,) = await settled(pipe, lambda letters: letters[0].state == "open")
        assert calls == [1, 2]
        assert (letter.overtaken_by, letter.redrives) == ("e2", 0)
        (*_, refusal) = await DeadLetters(pipe.database).history(letter.id or 0)
        assert (refusal.action, refusal.reason) == (
            "refused", "a later event of its key, e2, was handled in the meantime",
        )  # fmt: skip


async def test_several_of_one_key_are_redriven_in_their_order_and_overtake_each_other_forwards_only(
    tmp_path: Path,
) -> None:
    handle = Switch(1, 2, 3)
    async with bench(tmp_path, [stage("a", handle)]) as pipe:
        await prepare(pipe)
        await pipe.feed(*(message(offset, {"k": "x"}, id=f"e{offset}") for offset in (1, 2, 3)))
        await pipe.settle(3)
        handle.dying = {1, 3}

        assert (await redrive(pipe)).count == 3

        assert handle.offsets == [1, 2, 3, 1, 2, 3]
        told = [(letter.state, letter.overtaken_by) for letter in await pipe.dead()]
        assert told == [("open", "e2"), ("redriven", None), ("open", None)]
        handle.dying.clear()
        await pipe.feed(message(4, {"k": "x"}, id="e4"))
        await settled(pipe, lambda letters: letters[2].overtaken_by == "e4")


async def test_an_asynchronous_stage_leaves_its_job_anew_and_nothing_else_runs(tmp_path: Path) -> None:
    other = Switch()
    async with bench(tmp_path, [async_stage("a"), stage("b", other)]) as pipe:
        await prepare(pipe)
        await pipe.feed(message(7, {"k": 1}, id="e7"))
        await pipe.settle(1)
        (job,) = await pipe.jobs()
        await die_on_a_worker(pipe, job.id)

        refused = await redrive(pipe)
        assert list(refused.refused.values()) == [
            "a later event of its key may have been handled after it: an asynchronous stage keeps no order"
        ]
        asked = await redrive(pipe, force=True)

        (letter,) = await pipe.dead()
        assert (letter.state, letter.outcome, letter.stage, letter.job) == ("redriving", "left", "a", "a")
        (again,) = await pipe.jobs()
        told = {**job.payload, "event": {**job.payload["event"], "redrive": 1}}
        assert (again.id, again.payload) == (f"{job.id}:redrive:1", told)
        assert await DeadLetters(pipe.database).outcomes(asked.request) == {"waiting": 0, "left": 1}
        assert other.offsets == [7]


async def test_of_an_asynchronous_stage_only_that_stage_runs_again_also_from_the_start(tmp_path: Path) -> None:
    second = Switch()
    async with bench(tmp_path, [async_stage("a"), stage("b", second)]) as pipe:
        await prepare(pipe)
        await pipe.feed(message(7, {"k": 1}, id="e7"))
        await pipe.settle(1)
        await die_on_a_worker(pipe, (await pipe.jobs())[0].id)

        await redrive(pipe, force=True, from_start=True)

        assert second.offsets == [7]
        assert len(await pipe.jobs()) == 1


async def die_on_a_worker(pipe: Bench, job: str) -> None:
    """What a worker leaves when the handler rejects the job's event."""
    now = utcnow()
    dead = Dead("#", "a", "rejected", "no", 1, now, now, "1", order_known=False, job="a")
    unit = Unit(message(7, {"k": 1}, id="e7"), None, "a.b", Outcome.DEAD, dead=[dead])
    async with pipe.database.write() as connection:
        await withdraw(connection, [job])
        writer = UnitWriter(pipe.database, SeenIds(pipe.database))
        await writer.write(connection, Scope(pipe.lease.key, 0, now), [unit])


async def test_a_failed_stage_of_finally_runs_alone_and_is_told_what_it_was_told(tmp_path: Path) -> None:
    work, report, other = Switch(), Switch(7), Switch()
    stages = [stage("work", work), stage("report", report), stage("other", other)]
    async with bench(tmp_path, stages, [route(["work"], ["report", "other"])]) as pipe:
        await prepare(pipe)
        await pipe.feed(message(7))
        await pipe.settle(1)
        report.dying.clear()
        await redrive(pipe)

        (letter,) = await pipe.dead()
        assert (letter.state, letter.outcome) == ("redriven", "handled")
        assert await notes(pipe) == ["work 7 None", "other 7 dead", "report 7 handled"]


async def test_what_could_not_be_decoded_takes_all_its_routes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    handle = Switch(7)
    routes = [route(["a"], name="one"), route(["b"], name="two")]
    async with bench(tmp_path, [stage("a", handle), stage("b", Switch())], routes) as pipe:
        await prepare(pipe)
        await pipe.feed(message(7, b"{"))
        await pipe.settle(1)
        await redrive(pipe, force=True)
        (letter,) = await pipe.dead()
        assert (letter.state, letter.redrives, letter.kind) == ("open", 1, "undecodable")

        monkeypatch.setattr("pipeline.dispatch.decode.orjson.loads", lambda body: {})
        assert list((await redrive(pipe)).refused.values()) == [
            "a later event of its key may have been handled after it: it reached no route"
        ]
        await redrive(pipe, force=True)

        told = {(letter.route, letter.stage, letter.state, letter.outcome) for letter in await pipe.dead()}
        assert told == {("", "", "redriven", "dead"), ("one", "a", "open", None)}
        assert await notes(pipe) == ["b 7 None"]


async def test_a_redrive_whose_rows_are_refused_is_dead_again_and_stops_no_other(tmp_path: Path) -> None:
    dying = True

    async def handle(event: Event[Any], context: Context) -> None:
        if dying:
            raise Reject("no")
        context.add(Note(number=2**70 if event.offset == 1 else event.offset))

    async with bench(tmp_path, [stage("a", handle)]) as pipe:
        await prepare(pipe)
        await pipe.feed(message(1, {"k": 1}), message(2, {"k": 2}))
        await pipe.settle(2)
        dying = False
        await redrive(pipe)

        first, second = await pipe.dead()
        assert (first.state, first.kind, first.route, first.stage) == ("open", "unwritable", "#", "a")
        assert second.state == "redriven"
        dying = True
        await redrive(pipe)
        assert (await pipe.dead())[0].kind == "rejected"


async def test_a_stage_or_route_that_is_gone_is_a_refusal(tmp_path: Path) -> None:
    failing = Switch(7)
    routes = [route(["a"], name="one"), route(["b"], name="two")]
    async with bench(tmp_path, [stage("a", failing), stage("b", failing)], routes) as pipe:
        await prepare(pipe)
        await pipe.feed(message(7))
        await pipe.settle(1)
    async with bench(tmp_path, [stage("c", Switch())], [route(["c"], name="one")]) as pipe:
        await redrive(pipe)
        letters = DeadLetters(pipe.database)
        reasons = {(await letters.history(letter.id or 0))[-1].reason for letter in await pipe.dead()}
        assert reasons == {
            "the stage 'a' is no longer there in the route 'one': run it from the start",
            "there is no route 'two' any more",
        }
        (one, two) = sorted(await pipe.dead(), key=lambda letter: letter.route)
        assert (one.state, two.state) == ("open", "open")
        await redrive(pipe, ids=[one.id], from_start=True)
        assert {letter.route: letter.state for letter in await pipe.dead()} == {"one": "redriven", "two": "open"}


async def test_what_was_asked_for_before_a_crash_is_done_by_the_next_owner(tmp_path: Path) -> None:
    entered, for_ever = asyncio.Event(), asyncio.Event()
    requests: list[str] = []

    async def handle(event: Event[Any], context: Context) -> None:
        requests.append(context.request_id)
        if len(requests) == 1:
            raise Reject("no")
        if len(requests) == 2:
            entered.set()
            await for_ever.wait()

    async with bench(tmp_path, [stage("a", handle)]) as pipe:
        await pipe.feed(message(7, {"k": 1}))
        await pipe.settle(1)
        await DeadLetters(pipe.database).redrive(by="ann", reason="")
        await asyncio.wait_for(entered.wait(), 10)
        (letter,) = await pipe.dead()
        assert letter.state == "redriving"
    async with bench(tmp_path, [stage("a", handle)], owner="two") as pipe:
        (letter,) = await settled(pipe, lambda letters: letters[0].state == "redriven")
        assert len(requests) == 3
        assert len(set(requests)) == 1
        assert letter.redrives == 1


async def test_a_runner_that_lost_its_source_writes_nothing(tmp_path: Path) -> None:
    go_on, entered = asyncio.Event(), asyncio.Event()
    calls: list[int] = []

    async def handle(event: Event[Any], context: Context) -> None:
        calls.append(event.offset)
        if len(calls) == 1:
            raise Reject("no")
        entered.set()
        await go_on.wait()

    async with bench(tmp_path, [stage("a", handle)]) as pipe:
        await pipe.feed(message(7, {"k": 1}))
        await pipe.settle(1)
        await DeadLetters(pipe.database).redrive(by="ann", reason="")
        await asyncio.wait_for(entered.wait(), 10)
        await pipe.ledger.release(pipe.lease)
        await pipe.ledger.try_acquire(pipe.lease.key, "another")
        go_on.set()
        async with asyncio.timeout(10):
            while not pipe.ended:
                await asyncio.sleep(0.005)
        assert pipe.ended[0] is None
        assert [letter.state for letter in await pipe.dead()] == ["redriving"]


async def test_nothing_is_redriven_while_the_source_is_held(tmp_path: Path) -> None:
    handle = Switch(7)
    async with bench(tmp_path, [stage("a", handle)]) as pipe:
        await prepare(pipe)
        await pipe.feed(message(7, {"k": 1}))
        await pipe.settle(1)
        handle.dying.clear()
        pipe.source.window.hold("temporal", "it is down")
        await DeadLetters(pipe.database).redrive(by="ann", reason="")
        await asyncio.sleep(0.1)  # ten looks
        assert handle.offsets == [7]
        pipe.source.window.release("temporal")
        await settled(pipe, lambda letters: letters[0].state == "redriven")


async def test_all_failed_stages_of_finally_run_again_and_no_other(tmp_path: Path) -> None:
    a, b, c, d = Switch(), Switch(7), Switch(), Switch(7)
    stages = [stage("a", a), stage("b", b), stage("c", c), stage("d", d)]
    async with bench(tmp_path, stages, [route(["a"], ["b", "c", "d"])]) as pipe:
        await prepare(pipe)
        await pipe.feed(message(7, {"k": 1}))
        await pipe.settle(1)
        b.dying.clear()

        await redrive(pipe)

        (letter,) = await pipe.dead()
        assert (letter.state, letter.stage) == ("open", "d")
        d.dying.clear()

        await redrive(pipe)

        (letter,) = await pipe.dead()
        assert (letter.state, letter.outcome) == ("redriven", "handled")
        assert [switch.offsets for switch in (a, b, c, d)] == [[7], [7, 7], [7], [7, 7, 7]]


async def test_a_redriven_stage_of_finally_is_told_what_the_first_try_was_told(tmp_path: Path) -> None:
    told: list[tuple[str, str]] = []

    async def reject(event: Event[Any], context: Context) -> None:
        raise Skip("not for me")

    async def audit(event: Event[Any], context: Context) -> None:
        told.append((str(context.outcome), str(context.error)))
        if len(told) < 3:
            raise Reject("no table")

    policy = QUICK.model_copy(update={"coalesce": CoalescePolicy(window=0.2, match=("#",))})
    stages = [stage("a", reject, policy), stage("audit", audit)]
    async with bench(tmp_path, stages, [route(["a"], ["audit"], key=("data.k",))]) as pipe:
        await pipe.feed(message(1, {"k": 1}), message(2, {"k": 1}))
        await pipe.settle(2)

        await redrive(pipe, force=True)

        assert told[0][0] == "filtered"
        assert "coalesced" in told[0][1]
        assert told[2] == told[0]


async def test_an_event_without_the_key_of_its_route_is_redriven_only_by_force(tmp_path: Path) -> None:
    handler = Switch(1)
    async with bench(tmp_path, [stage("a", handler)]) as pipe:
        await prepare(pipe)
        await pipe.feed(message(1, {"ids": ["w1"]}), message(2, {"k": "w1"}))
        await pipe.settle(2)
        handler.dying.clear()

        asked = await redrive(pipe)

        (why,) = asked.refused.values()
        assert (asked.count, why) == (
            0,
            "a later event of its key may have been handled after it: its route orders by a key that it does not have",
        )
        assert (await redrive(pipe, force=True)).count == 1


async def test_what_waits_for_its_redrive_can_be_discarded_by_its_id(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.dispatch.redrive._LOOK_SECONDS", 3600)  # nobody runs it
    async with bench(tmp_path, [stage("a", Switch(7))]) as pipe:
        await pipe.feed(message(7, {"k": 1}))
        await pipe.settle(1)
        (letter,) = await pipe.dead()
        letters = DeadLetters(pipe.database)
        await letters.redrive(by="ann", reason="mended")

        by_choice = await letters.discard(by="ann", reason="gone", source=letter.source)
        by_id = await letters.discard(by="ann", reason="gone", ids=[letter.id])

        assert (by_choice.count, by_id.count) == (0, 1)
        assert [letter.state for letter in await pipe.dead()] == ["discarded"]
