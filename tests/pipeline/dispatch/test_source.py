"""A source: what becomes of messages, in which order, and what a failing handler does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, field_validator
from sqlmodel import select

from pipeline.config.models import Policy, RetryPolicy
from pipeline.errors import Reject, Retry, Skip, Unavailable
from pipeline.events import Event
from pipeline.handlers import Context, Delivery
from pipeline.ledger.tables import OutcomeRow
from tests.pipeline.dispatch.harness import batch_stage, bench, eventually, message, route, stage


class Recorder:
    """A handler that remembers what it saw."""

    def __init__(self) -> None:
        self.seen: list[Event[Any]] = []

    async def __call__(self, event: Event[Any], context: Context) -> None:
        self.seen.append(event)

    @property
    def offsets(self) -> list[int]:
        return [event.offset for event in self.seen]


async def test_an_event_goes_through_its_stages_in_order(tmp_path: Path) -> None:
    trail: list[str] = []

    async def first(event: Event[Any], context: Context) -> None:
        await asyncio.sleep(0)
        trail.append(f"first {context.route} {context.stage} {context.attempt}")

    async def second(event: Event[Any], context: Context) -> None:
        trail.append(f"second {event.data['n']} {event.routing_key} {event.id}")

    async with bench(tmp_path, [stage("x", first), stage("y", second)]) as pipe:
        await pipe.feed(message(7, {"n": 1}, id="e1"))
        await pipe.settle(1)
        assert trail == ["first # x 1", "second 1 a.b e1"]
        assert pipe.outcomes == {"handled": 1}
        assert pipe.lease.progress.prefix == 7


async def test_the_routing_key_falls_back_to_the_event_type_and_the_id_to_the_place(tmp_path: Path) -> None:
    seen = Recorder()
    async with bench(tmp_path, [stage("x", seen)]) as pipe:
        await pipe.feed(message(3, {"event_type": "from.data"}, key=None), message(4, {}, key=None))
        await pipe.settle(2)
        assert [event.routing_key for event in seen.seen] == ["from.data", ""]
        assert seen.seen[0].id == "st/0/3"


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"{", "not valid JSON"),
        (b"\xff\xfe", "not valid JSON"),
        (b"[1]", "a JSON array"),
        (b"3", "a JSON number"),
        (b'"x"', "a JSON string"),
        (b"null", "a JSON null"),
        (b"", "not valid JSON"),
    ],
)
async def test_what_is_no_event_is_dead_with_its_bytes_and_reaches_no_stage(
    tmp_path: Path, body: bytes, reason: str
) -> None:
    seen = Recorder()
    async with bench(tmp_path, [stage("x", seen)]) as pipe:
        await pipe.feed(message(1, body), message(2, {}))
        await pipe.settle(2)
        assert pipe.outcomes == {"handled": 1, "dead": 1}
        (dead,) = await pipe.dead()
        assert (dead.kind, dead.body, dead.offset, dead.stage) == ("undecodable", body, 1, "")
        assert reason in dead.reason
        assert seen.offsets == [2]


async def test_a_defective_frame_is_dead(tmp_path: Path) -> None:
    async with bench(tmp_path, [stage("x", Recorder())]) as pipe:
        await pipe.feed(message(1, b"\x00\x53", defect="truncated"))
        await pipe.settle(1)
        (dead,) = await pipe.dead()
        assert (dead.kind, dead.reason, dead.body) == ("undecodable", "truncated", b"\x00\x53")


async def test_an_event_without_a_route_is_filtered(tmp_path: Path) -> None:
    seen = Recorder()
    async with bench(tmp_path, [stage("x", seen)], [route(["x"], match="other.#")]) as pipe:
        await pipe.feed(message(1))
        await pipe.settle(1)
        assert pipe.outcomes == {"filtered": 1}
        assert seen.seen == []


async def test_rejected_events_are_dead_at_once_and_others_go_on(tmp_path: Path) -> None:
    calls: list[int] = []

    async def picky(event: Event[Any], context: Context) -> None:
        calls.append(event.offset)
        if event.offset == 2:
            raise Reject("no such thing", kind="not_found")

    async with bench(tmp_path, [stage("x", picky)]) as pipe:
        await pipe.feed(*(message(offset, {"k": offset}) for offset in range(1, 4)))
        await pipe.settle(3)
        assert sorted(calls) == [1, 2, 3]
        (dead,) = await pipe.dead()
        assert (dead.stage, dead.route, dead.kind, dead.reason, dead.attempts) == (
            "x",
            "#",
            "not_found",
            "no such thing",
            1,
        )


async def test_data_that_does_not_fit_the_model_is_rejected_and_what_fits_comes_as_the_model(tmp_path: Path) -> None:
    class Order(BaseModel):
        number: int

    models: list[Any] = []

    async def take(event: Event[Order], context: Context) -> None:
        models.append(event.model)

    async with bench(tmp_path, [stage("x", take, models={"a.*": Order})]) as pipe:
        await pipe.feed(message(1, {"number": "many"}), message(2, {"number": 2}), message(3, {}, key="z"))
        await pipe.settle(3)
        assert models == [Order(number=2), None]
        (dead,) = await pipe.dead()
        assert dead.kind == "invalid_data"
        assert "number" in dead.reason
        assert "Order" in dead.reason


async def test_an_unexpected_error_is_tried_again_and_then_dead(tmp_path: Path) -> None:
    attempts: list[int] = []

    async def broken(event: Event[Any], context: Context) -> None:
        attempts.append(context.attempt)
        raise KeyError("price")

    async with bench(tmp_path, [stage("x", broken)]) as pipe:
        await pipe.feed(message(1))
        await pipe.settle(1)
        assert attempts == [1, 2, 3]
        (dead,) = await pipe.dead()
        assert (dead.kind, dead.attempts) == ("KeyError", 3)
        assert dead.first_at <= dead.last_at


@pytest.mark.parametrize(
    ("error", "told"), [(KeyError("price"), True), (Reject("no"), False), (Retry("later"), False)], ids=repr
)
async def test_the_log_tells_where_an_event_failed_that_has_a_single_try(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, error: Exception, told: bool
) -> None:
    async def broken(event: Event[Any], context: Context) -> None:
        raise error

    once = Policy(retry=RetryPolicy(attempts=1))
    async with bench(tmp_path, [stage("x", broken, once)]) as pipe:
        await pipe.feed(message(1))
        await pipe.settle(1)
    assert "is dead at try 1" in caplog.text
    assert ("Traceback" in caplog.text and "in broken" in caplog.text) is told


async def test_a_retry_says_itself_how_long_to_wait(tmp_path: Path) -> None:
    slow = Policy(retry=RetryPolicy(attempts=2, backoff=3600, max_backoff=3600))
    attempts: list[int] = []

    async def again(event: Event[Any], context: Context) -> None:
        attempts.append(context.attempt)
        if context.attempt == 1:
            raise Retry("not yet", after=0.01)

    async with bench(tmp_path, [stage("x", again, slow)]) as pipe:
        await pipe.feed(message(1))
        await pipe.settle(1)
        assert attempts == [1, 2]
        assert pipe.outcomes == {"handled": 1}


async def test_a_try_that_takes_too_long_counts_as_a_failed_one(tmp_path: Path) -> None:
    quick = Policy(timeout=0.02, retry=RetryPolicy(attempts=2, backoff=0.01))
    attempts: list[int] = []

    async def hangs(event: Event[Any], context: Context) -> None:
        attempts.append(context.attempt)
        await asyncio.Event().wait()

    async with bench(tmp_path, [stage("x", hangs, quick)]) as pipe:
        await pipe.feed(message(1))
        await pipe.settle(1)
        assert attempts == [1, 2]
        assert [dead.kind for dead in await pipe.dead()] == ["TimeoutError"]


async def test_skip_ends_the_route_as_filtered(tmp_path: Path) -> None:
    later = Recorder()

    async def skips(event: Event[Any], context: Context) -> None:
        raise Skip("not ours")

    async with bench(tmp_path, [stage("x", skips), stage("y", later)]) as pipe:
        await pipe.feed(message(1))
        await pipe.settle(1)
        assert pipe.outcomes == {"filtered": 1}
        assert later.seen == []


async def test_finally_stages_run_once_with_the_outcome(tmp_path: Path) -> None:
    told: list[tuple[int, str, str]] = []

    async def control(event: Event[Any], context: Context) -> None:
        if event.offset == 2:
            raise Reject("gone")
        if event.offset == 3:
            raise Skip("other")

    async def audit(event: Event[Any], context: Context) -> None:
        told.append((event.offset, str(context.outcome), str(context.error or "")))

    routes = [route(["x", "y"], ["z"])]
    after = Recorder()
    async with bench(tmp_path, [stage("x", control), stage("y", after), stage("z", audit)], routes) as pipe:
        await pipe.feed(message(1), message(2), message(3))
        await pipe.settle(3)
        assert sorted(told) == [(1, "handled", ""), (2, "dead", "gone"), (3, "filtered", "")]
        assert after.offsets == [1]
        assert pipe.outcomes == {"handled": 1, "dead": 1, "filtered": 1}


async def test_a_failing_finally_stage_makes_the_message_dead_and_the_next_one_runs(tmp_path: Path) -> None:
    last = Recorder()

    async def breaks(event: Event[Any], context: Context) -> None:
        raise Reject("no")

    routes = [route([], ["x", "y"])]
    async with bench(tmp_path, [stage("x", breaks), stage("y", last)], routes) as pipe:
        await pipe.feed(message(1))
        await pipe.settle(1)
        assert pipe.outcomes == {"dead": 1}
        assert last.offsets == [1]


async def test_all_matching_routes_run_in_file_order_and_the_worst_outcome_counts(tmp_path: Path) -> None:
    trail: list[str] = []

    async def one(event: Event[Any], context: Context) -> None:
        await asyncio.sleep(0)
        trail.append(f"{context.route} {event.offset}")

    async def two(event: Event[Any], context: Context) -> None:
        trail.append(f"{context.route} {event.offset}")
        raise Reject("no")

    routes = [
        route(["x"], name="r1", key=("data.k",)),
        route(["y"], name="r2", key=("data.k",), match="a.*"),
        route(["x"], name="r3", match="nothing"),
    ]
    async with bench(tmp_path, [stage("x", one), stage("y", two)], routes) as pipe:
        await pipe.feed(*(message(offset, {"k": "same"}) for offset in range(3)))
        await pipe.settle(3)
        assert [step for step in trail if step.startswith("r1")] == ["r1 0", "r1 1", "r1 2"]
        assert [step for step in trail if step.startswith("r2")] == ["r2 0", "r2 1", "r2 2"]
        assert all(trail.index(f"r1 {n}") < trail.index(f"r2 {n}") for n in range(3))
        assert pipe.outcomes == {"dead": 3}


async def test_events_of_one_key_run_in_order_and_those_of_others_side_by_side(tmp_path: Path) -> None:
    running: dict[str, int] = {}
    order: dict[str, list[int]] = {}
    most = 0

    async def slow(event: Event[Any], context: Context) -> None:
        nonlocal most
        key = event.data["k"]
        running[key] = running.get(key, 0) + 1
        assert running[key] == 1
        most = max(most, sum(running.values()))
        for _ in range(event.offset % 3):
            await asyncio.sleep(0)
        order.setdefault(key, []).append(event.offset)
        running[key] -= 1

    async with bench(tmp_path, [stage("x", slow), stage("y", slow)], [route(["x"], key=("data.k",))]) as pipe:
        await pipe.feed(*(message(offset, {"k": f"k{offset % 7}"}) for offset in range(700)))
        await pipe.settle(700)
    assert all(offsets == sorted(offsets) for offsets in order.values())
    assert most > 1


async def test_one_stuck_key_does_not_stop_the_others_and_a_restart_repeats_nothing(tmp_path: Path) -> None:
    stuck = asyncio.Event()
    handled: list[int] = []

    async def handle(event: Event[Any], context: Context) -> None:
        if event.data["k"] == "stuck":
            await stuck.wait()
        handled.append(event.offset)

    events = [message(offset, {"k": "stuck" if offset in (5, 600) else f"k{offset % 50}"}) for offset in range(2000)]
    async with bench(tmp_path, [stage("x", handle, Policy(timeout=None))]) as pipe:
        for start in range(0, 2000, 500):
            await pipe.feed(*events[start : start + 500])
        await pipe.settle(1998)
        assert pipe.lease.progress.prefix == 4
    assert len(handled) == 1998
    stuck.set()
    async with bench(tmp_path, [stage("x", handle)]) as pipe:
        await pipe.feed(*events[5:])
        await pipe.settle(2)
        assert pipe.lease.progress.prefix == 1999
    assert sorted(handled) == list(range(2000))


async def test_a_duplicate_is_dropped_in_flight_and_after_its_commit_and_after_a_restart(tmp_path: Path) -> None:
    seen = Recorder()
    async with bench(tmp_path, [stage("x", seen)], dedupe="1h") as pipe:
        await pipe.feed(message(1, id="same"), message(2, id="same"))
        await pipe.settle(2)
        await pipe.feed(message(3, id="same"), message(4, id="other"))
        await pipe.settle(4)
        assert pipe.outcomes == {"handled": 2, "duplicate": 2}
    async with bench(tmp_path, [stage("x", seen)], dedupe="1h") as pipe:
        await pipe.feed(message(5, id="other"))
        await pipe.settle(1)
        assert pipe.outcomes == {"duplicate": 1}
    assert seen.offsets == [1, 4]


async def test_messages_that_a_reconnection_delivers_again_are_passed_over(tmp_path: Path) -> None:
    seen = Recorder()
    async with bench(tmp_path, [stage("x", seen)]) as pipe:
        await pipe.feed(message(1), message(2))
        await pipe.feed(message(1), message(2), message(3))
        await pipe.settle(3)
        assert seen.offsets == [1, 2, 3]


async def test_rows_of_a_failed_try_are_discarded(tmp_path: Path) -> None:
    from pipeline.ledger.columns import utcnow
    from pipeline.ledger.tables import SeenEvent

    async def leaves(event: Event[Any], context: Context) -> None:
        context.add(SeenEvent(group="mine", event_id=f"try {context.attempt}", seen_at=utcnow()))
        if context.attempt == 1:
            raise RuntimeError("once more")

    async with bench(tmp_path, [stage("x", leaves)]) as pipe:
        await pipe.feed(message(1))
        await pipe.settle(1)
        assert await pipe.ledger.seen("mine", ["try 1", "try 2"]) == {"try 2"}


# Batches


async def test_a_batch_handler_gets_what_has_gathered_and_never_two_of_a_key(tmp_path: Path) -> None:
    sizes: list[int] = []

    async def handle(batch: list[Delivery]) -> None:
        keys = [event.data["k"] for event, _ in batch]
        assert len(set(keys)) == len(keys)
        sizes.append(len(batch))
        await asyncio.sleep(0)

    async with bench(tmp_path, [batch_stage("x", handle, max_batch=50)]) as pipe:
        await pipe.feed(*(message(offset, {"k": offset % 100}) for offset in range(300)))
        await pipe.settle(300)
    assert sum(sizes) == 300
    assert max(sizes) == 50


async def test_a_batch_handler_fails_events_one_by_one(tmp_path: Path) -> None:
    async def handle(batch: list[Delivery]) -> list[BaseException | None]:
        return [Reject("odd") if event.offset % 2 else None for event, _ in batch]

    async with bench(tmp_path, [batch_stage("x", handle)]) as pipe:
        await pipe.feed(*(message(offset) for offset in range(10)))
        await pipe.settle(10)
        assert pipe.outcomes == {"handled": 5, "dead": 5}
        assert [dead.offset for dead in await pipe.dead()] == [1, 3, 5, 7, 9]


async def test_when_a_whole_batch_fails_only_the_event_at_fault_uses_up_its_tries(tmp_path: Path) -> None:
    async def handle(batch: list[Delivery]) -> None:
        if any(event.offset == 3 for event, _ in batch):
            raise ZeroDivisionError("in the middle")

    async with bench(tmp_path, [batch_stage("x", handle)]) as pipe:
        await pipe.feed(*(message(offset) for offset in range(10)))
        await pipe.settle(10)
        assert pipe.outcomes == {"handled": 9, "dead": 1}
        (dead,) = await pipe.dead()
        assert (dead.offset, dead.attempts, dead.kind) == (3, 3, "ZeroDivisionError")


async def test_a_batch_handler_that_returns_the_wrong_number_of_results_is_a_failure(tmp_path: Path) -> None:
    async def handle(batch: list[Delivery]) -> list[None]:
        return []

    async with bench(tmp_path, [batch_stage("x", handle)]) as pipe:
        await pipe.feed(message(1))
        await pipe.settle(1)
        (dead,) = await pipe.dead()
        assert "returned 0 results for 1 events" in dead.reason


# Outages


class Crm:
    """A resource that can be down."""

    def __init__(self) -> None:
        self.up = False
        self.probes = 0

    async def probe(self) -> None:
        self.probes += 1
        if not self.up:
            raise Unavailable("crm", "refused")


@pytest.mark.parametrize("with_probe", [True, False])
@pytest.mark.parametrize("batches", [True, False])
async def test_an_outage_uses_no_attempt_pauses_the_source_and_loses_nothing(
    tmp_path: Path, with_probe: bool, batches: bool
) -> None:
    crm = Crm()
    attempts: dict[int, set[int]] = {}
    handled: list[int] = []

    async def handle(event: Event[Any], context: Context) -> None:
        attempts.setdefault(event.offset, set()).add(context.attempt)
        await asyncio.sleep(0)
        if not crm.up:
            raise Unavailable("crm", "refused")
        handled.append(event.offset)

    async def handle_batch(batch: list[Delivery]) -> None:
        for delivery in batch:
            await handle(*delivery)

    made = batch_stage("x", handle_batch) if batches else stage("x", handle)
    async with bench(tmp_path, [made], resources={"crm": crm} if with_probe else {}) as pipe:
        await pipe.feed(*(message(offset, {"k": offset % 5}) for offset in range(50)))
        await eventually(lambda: "crm" in pipe.source.window.paused)
        assert "crm is unavailable: refused" in pipe.source.window.paused["crm"]
        assert pipe.stats.processed == 0
        crm.up = True
        await pipe.settle(50)
        assert pipe.source.window.paused == {}
        assert pipe.outcomes == {"handled": 50}
    assert all(tries == {1} for tries in attempts.values())
    assert sorted(set(handled)) == list(range(50))
    assert bool(crm.probes) is with_probe


async def test_a_timeout_is_an_outage_where_the_probe_of_the_handlers_resource_fails(tmp_path: Path) -> None:
    crm = Crm()
    attempts: list[int] = []

    async def hangs(event: Event[Any], context: Context) -> None:
        attempts.append(context.attempt)
        if not crm.up:
            await asyncio.Event().wait()

    quick = Policy(timeout=0.02, retry=RetryPolicy(attempts=1))
    async with bench(tmp_path, [stage("x", hangs, quick, resources=("crm",))], resources={"crm": crm}) as pipe:
        await pipe.feed(message(1))
        await eventually(lambda: "crm" in pipe.source.window.paused)
        crm.up = True
        await pipe.settle(1)
        assert pipe.outcomes == {"handled": 1}
    assert set(attempts) == {1}


async def test_a_stage_that_rests_on_two_dependencies_goes_on_when_both_are_back(tmp_path: Path) -> None:
    down = {"one", "two"}

    async def handle(batch: list[Delivery]) -> list[BaseException | None]:
        names = ["one" if event.offset % 2 else "two" for event, _ in batch]
        return [Unavailable(name) if name in down else None for name in names]

    async with bench(tmp_path, [batch_stage("x", handle)]) as pipe:
        await pipe.feed(*(message(offset) for offset in range(20)))
        await eventually(lambda: set(pipe.source.window.paused) == {"one", "two"})
        down.clear()
        await pipe.settle(20)
        assert pipe.outcomes == {"handled": 20}


# Stopping and ownership


async def test_drain_waits_for_what_is_in_flight_but_not_for_a_retry_far_ahead(tmp_path: Path) -> None:
    slow = Policy(retry=RetryPolicy(attempts=5, backoff=3600, max_backoff=3600))

    async def handle(event: Event[Any], context: Context) -> None:
        if event.offset == 1:
            raise RuntimeError("later")
        begun.set()
        await asyncio.sleep(0.05)

    begun = asyncio.Event()
    async with bench(tmp_path, [stage("x", handle, slow)]) as pipe:
        await pipe.feed(message(1), message(2))
        await begun.wait()
        await asyncio.wait_for(pipe.source.drain(), 5)
        assert pipe.stats.processed == 1
        assert pipe.lease.progress.ahead == ((2, 2),)


async def test_nothing_is_started_while_the_lease_may_have_passed_to_another(tmp_path: Path) -> None:
    seen = Recorder()
    async with bench(tmp_path, [stage("x", seen)]) as pipe:
        pipe.source.own_until(0.0)
        await pipe.feed(message(1))
        for _ in range(20):
            await asyncio.sleep(0)
        assert seen.seen == []
        pipe.source.own_until(float("inf"))
        await pipe.settle(1)
        assert seen.offsets == [1]


async def test_a_long_lane_of_filtered_events_needs_no_deep_stack(tmp_path: Path) -> None:
    gate = asyncio.Event()

    async def handle(event: Event[Any], context: Context) -> None:
        await gate.wait()

    routes = [route(["x"], key=("data.k",), when="data.n == 0")]
    async with bench(tmp_path, [stage("x", handle)], routes, window=5000) as pipe:
        await pipe.feed(*(message(offset, {"k": "one", "n": offset}) for offset in range(4000)))
        gate.set()
        await pipe.settle(4000)
        assert pipe.outcomes == {"handled": 1, "filtered": 3999}


async def test_a_runner_that_was_replaced_commits_nothing_and_ends(tmp_path: Path) -> None:
    from pipeline.ledger.lease import Lease

    async with bench(tmp_path, [stage("x", Recorder())]) as pipe:
        held = await pipe.ledger.try_acquire(pipe.lease.key, "two")
        assert not isinstance(held, Lease)
        taken = await pipe.ledger.try_acquire(pipe.lease.key, "two", held)
        assert isinstance(taken, Lease)
        await pipe.feed(message(1))
        await eventually(lambda: pipe.ended == [None])
        assert pipe.stats.processed == 0
        assert (await pipe.ledger.progress())[0].prefix == -1


async def test_a_database_outage_fills_the_window_pauses_the_source_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = Recorder()
    async with bench(tmp_path, [stage("x", seen)], window=10) as pipe:
        commit, down = pipe.ledger.commit, True

        async def commit_or_not(lease: Any, work: Any) -> Any:
            if down:
                raise Unavailable("database", "it is away")
            return await commit(lease, work)

        monkeypatch.setattr(pipe.ledger, "commit", commit_or_not)
        await pipe.feed(*(message(offset) for offset in range(10)))
        await eventually(lambda: {"database", "window"} <= set(pipe.source.window.paused))
        assert pipe.stats.processed == 0
        down = False
        await pipe.settle(10)
        assert pipe.source.window.paused == {}
    assert seen.offsets == list(range(10))


async def test_a_commit_that_fails_unexpectedly_ends_the_source_with_its_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with bench(tmp_path, [stage("x", Recorder())]) as pipe:

        async def broken(lease: Any, work: Any) -> None:
            raise AssertionError("a bug")

        monkeypatch.setattr(pipe.ledger, "commit", broken)
        await pipe.feed(message(1))
        await eventually(lambda: len(pipe.ended) == 1)
        assert isinstance(pipe.ended[0], AssertionError)


async def test_a_validator_that_breaks_makes_its_event_dead_and_not_the_source(tmp_path: Path) -> None:
    class Order(BaseModel):
        number: int

        @field_validator("number")
        @classmethod
        def known(cls, number: int) -> int:
            return {1: 1}[number]

    async def handle(batch: list[Delivery]) -> None:
        """Takes any events."""

    async with bench(tmp_path, [batch_stage("x", handle, models={"#": Order})]) as pipe:
        await pipe.feed(message(1, {"number": 1}), message(2, {"number": 2}))
        await pipe.settle(2)
        assert pipe.outcomes == {"handled": 1, "dead": 1}
        assert pipe.ended == []


async def test_the_journal_holds_one_row_for_a_route_that_a_handler_skipped(tmp_path: Path) -> None:
    async def skips(event: Event[Any], context: Context) -> None:
        raise Skip("not ours")

    async def audit(event: Event[Any], context: Context) -> None:
        """Takes any event."""

    async with bench(tmp_path, [stage("x", skips), stage("z", audit)], [route(["x"], ["z"])], journal=True) as pipe:
        await pipe.feed(message(1))
        await pipe.settle(1)
        rows = await pipe.database.fetch(OutcomeRow, select(OutcomeRow))
        assert [(row.route, str(row.outcome), row.reason) for row in rows] == [("#", "filtered", "not ours")]


async def test_the_dead_letter_of_a_route_keeps_its_reason_where_a_finally_stage_fails_too(tmp_path: Path) -> None:
    async def control(event: Event[Any], context: Context) -> None:
        raise Reject("no such workflow", kind="not_found")

    async def audit(event: Event[Any], context: Context) -> None:
        raise Reject("no such column")

    async with bench(tmp_path, [stage("x", control), stage("z", audit)], [route(["x"], ["z"])]) as pipe:
        await pipe.feed(message(1))
        await pipe.settle(1)
        (dead,) = await pipe.dead()
        assert (dead.stage, dead.kind) == ("x", "not_found")
        assert dead.reason == "no such workflow; then z: no such column"


async def test_a_probe_that_is_cancelled_from_within_does_not_leave_the_source_paused(tmp_path: Path) -> None:
    class Odd(Crm):
        async def probe(self) -> None:
            self.probes += 1
            if self.probes == 1:
                raise asyncio.CancelledError

    odd, tries = Odd(), 0

    async def handle(event: Event[Any], context: Context) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise Unavailable("crm")

    async with bench(tmp_path, [stage("x", handle)], resources={"crm": odd}) as pipe:
        await pipe.feed(message(1))
        await pipe.settle(1)
        assert pipe.source.window.paused == {}
