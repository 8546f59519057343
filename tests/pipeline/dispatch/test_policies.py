"""Policies of a stage at work: what waits keeps its place and its tries, and holds up nothing else."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlmodel import select

from pipeline.config.models import Policy
from pipeline.errors import Retry, Throttled, Unavailable
from pipeline.events import Event
from pipeline.expressions import compile_expression
from pipeline.handlers import Context, Delivery
from pipeline.ledger.tables import OutcomeRow
from tests.pipeline.dispatch.harness import batch_stage, bench, eventually, message, route, stage


def policy(**policies: Any) -> Policy:
    return Policy.model_validate({"timeout": 5, "retry": {"attempts": 2, "backoff": 0.01, "jitter": 0}, **policies})


class Recorder:
    """A handler that remembers what it saw, and when."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, int, int]] = []
        self.at: list[float] = []

    async def __call__(self, event: Event[Any], context: Context) -> None:
        self.seen.append((event.data.get("k"), event.offset, context.attempt))
        self.at.append(time.monotonic())


# Rate limit


async def test_what_is_over_the_rate_comes_later_in_the_order_of_its_key_and_uses_no_attempt(tmp_path: Path) -> None:
    seen = Recorder()
    limit = policy(rate_limit={"rate": "50/s", "burst": 1, "key": "data.k"}, concurrency=1)
    async with bench(tmp_path, [stage("x", seen, limit)]) as pipe:
        await pipe.feed(*(message(offset, {"k": "hot"}) for offset in range(6)))
        await pipe.feed(*(message(offset, {"k": offset}) for offset in range(6, 12)))
        await pipe.settle(12)
        assert [attempt for _, _, attempt in seen.seen] == [1] * 12
        hot = [(offset, at) for (key, offset, _), at in zip(seen.seen, seen.at, strict=True) if key == "hot"]
        assert [offset for offset, _ in hot] == list(range(6))
        assert hot[-1][1] - hot[0][1] >= 5 / 50 - 0.01
        # Its only worker was not held meanwhile: all other keys were done before the second of the hot one.
        assert {key for key, _, _ in seen.seen[1:7]} == set(range(6, 12))


async def test_of_a_batch_only_what_is_over_the_rate_is_delayed(tmp_path: Path) -> None:
    batches: list[list[int]] = []

    async def handle(batch: Sequence[Delivery]) -> None:
        batches.append([event.offset for event, _ in batch])

    limit = policy(rate_limit={"rate": "100/s", "burst": 3})
    async with bench(tmp_path, [batch_stage("x", handle, limit)], [route(["x"])]) as pipe:
        await pipe.feed(*(message(offset) for offset in range(5)))
        await pipe.settle(5)
        assert batches[0] == [0, 1, 2]
        assert [offset for each in batches for offset in each] == list(range(5))


async def test_a_stop_does_not_wait_for_what_is_throttled_and_it_is_delivered_again(tmp_path: Path) -> None:
    seen = Recorder()
    limit = policy(rate_limit={"rate": "1/h", "key": "data.k"})
    async with bench(tmp_path, [stage("x", seen, limit)]) as pipe:
        await pipe.feed(*(message(offset, {"k": "hot"}) for offset in range(3)))
        await pipe.settle(1)
        async with asyncio.timeout(1):
            await pipe.source.drain()
        assert pipe.lease.progress.prefix == 0
    async with bench(tmp_path, [stage("x", seen)], owner="two") as pipe:
        await pipe.feed(*(message(offset, {"k": "hot"}) for offset in (1, 2)))
        await pipe.settle(2)
    assert [offset for _, offset, _ in seen.seen] == [0, 1, 2]


async def test_a_stop_waits_for_what_is_throttled_after_a_stage_has_finished_it(tmp_path: Path) -> None:
    first, second = Recorder(), Recorder()
    stages = [stage("x", first), stage("y", second, policy(rate_limit={"rate": "20/s", "burst": 1}))]
    async with bench(tmp_path, stages) as pipe:
        await pipe.feed(*(message(offset, {"k": offset}) for offset in range(4)))
        await eventually(lambda: len(first.seen) == 4)
        async with asyncio.timeout(5):
            await pipe.source.drain()
        assert pipe.outcomes == {"handled": 4}


async def test_a_throttled_event_does_not_end_an_outage(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.dispatch.dependencies._FIRST_WAIT", 0.01)
    down, calls = True, 0

    async def handle(event: Event[Any], context: Context) -> None:
        nonlocal calls
        calls += 1
        if down:
            raise Unavailable("crm", "refused")

    limit = policy(rate_limit={"rate": "20/s", "burst": 1})
    with caplog.at_level("INFO", logger="pipeline.dependencies"):
        async with bench(tmp_path, [stage("x", handle, limit)]) as pipe:
            await pipe.feed(*(message(offset) for offset in range(2)))
            await eventually(lambda: calls >= 2)
            down = False
            await pipe.settle(2)
            assert pipe.source.window.paused == {}
    assert caplog.messages.count("crm is back; its source goes on") == 1


async def test_an_outage_is_over_as_soon_as_it_is_however_low_the_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.dispatch.dependencies._FIRST_WAIT", 0.01)
    calls = 0

    async def handle(event: Event[Any], context: Context) -> None:
        nonlocal calls
        calls += 1
        if calls <= 3:
            raise Unavailable("crm", "refused")

    async with bench(tmp_path, [stage("x", handle, policy(rate_limit={"rate": "1/h", "burst": 1}))]) as pipe:
        await pipe.feed(*(message(offset) for offset in range(2)))
        await pipe.settle(1)
        assert calls == 4
        assert pipe.source.window.paused == {}


async def test_an_outage_that_was_a_time_out_is_over_as_soon_as_it_is_however_low_the_rate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.dispatch.dependencies._FIRST_WAIT", 0.01)
    attempts: list[int] = []

    class Crm:
        async def probe(self) -> None:
            if len(attempts) < 2:
                attempts.append(0)  # it answers from the second look on
                raise OSError("no route to host")

    async def handle(event: Event[Any], context: Context) -> None:
        attempts.append(context.attempt)
        if len(attempts) == 1:
            raise TimeoutError

    slow = stage("x", handle, policy(rate_limit={"rate": "1/h", "burst": 1}), resources=("crm",))
    async with bench(tmp_path, [slow], resources={"crm": Crm()}) as pipe:
        await pipe.feed(message(0))
        await pipe.settle(1)
        assert attempts == [1, 0, 1]
        assert pipe.source.window.paused == {}


async def test_a_handler_may_let_an_event_wait_which_uses_no_attempt_and_holds_up_no_other(tmp_path: Path) -> None:
    seen = Recorder()

    async def handle(event: Event[Any], context: Context) -> None:
        await seen(event, context)
        if event.offset == 0 and len([1 for _, offset, _ in seen.seen if offset == 0]) <= 3:
            raise Throttled("not yet", 0.01)

    async with bench(tmp_path, [stage("x", handle, policy(concurrency=1))]) as pipe:
        await pipe.feed(*(message(offset, {"k": min(offset, 2)}) for offset in range(4)))
        await pipe.settle(4)
    assert [(offset, attempt) for _, offset, attempt in seen.seen if offset == 0] == [(0, 1)] * 4
    assert [offset for _, offset, _ in seen.seen][:4] == [0, 1, 2, 3]


# Concurrency


@pytest.mark.parametrize("batches", [False, True])
async def test_no_more_of_a_key_run_at_once_than_the_limit_whatever_the_route(tmp_path: Path, batches: bool) -> None:
    running: Counter[str] = Counter()
    most: Counter[str] = Counter()

    async def handle(event: Event[Any], context: Context) -> None:
        tenant = event.data["tenant"]
        running[tenant] += 1
        most[tenant] = max(most[tenant], running[tenant])
        await asyncio.sleep(0.001)
        running[tenant] -= 1

    async def handle_batch(batch: Sequence[Delivery]) -> None:
        await asyncio.gather(*(handle(*delivery) for delivery in batch))

    limit = policy(concurrency={"limit": 20, "per_key": 2, "key": "data.tenant"})
    made = batch_stage("x", handle_batch, limit, max_batch=5) if batches else stage("x", handle, limit)
    async with bench(tmp_path, [made], [route(["x"], match="a.*"), route(["x"], match="#.b", name="too")]) as pipe:
        await pipe.feed(*(message(offset, {"tenant": "ab"[offset % 2]}) for offset in range(40)))
        await pipe.settle(40)
        assert most == {"a": 2, "b": 2}
        assert pipe.outcomes == {"handled": 40}


# Circuit


async def test_an_open_circuit_pauses_the_source_and_closes_by_itself_and_nothing_is_dead(tmp_path: Path) -> None:
    broken = False
    attempts: dict[int, list[int]] = {}

    async def handle(event: Event[Any], context: Context) -> None:
        attempts.setdefault(event.offset, []).append(context.attempt)
        if broken:
            raise ConnectionError("reset")

    guarded = policy(circuit={"minimum": 3, "open_for": 0.01}, retry={"attempts": 3, "backoff": 0.01}, concurrency=1)
    async with bench(tmp_path, [stage("x", handle, guarded)]) as pipe:
        broken = True
        await pipe.feed(*(message(offset) for offset in range(4)))
        await eventually(lambda: "stage x" in pipe.source.window.paused)
        assert "3 of 3 calls failed" in pipe.source.window.paused["stage x"]
        tried = sum(map(len, attempts.values()))
        await eventually(lambda: sum(map(len, attempts.values())) > tried + 9)  # probes, all of which fail
        assert "a probe failed: ConnectionError: reset" in pipe.source.window.paused["stage x"]
        broken = False
        await pipe.settle(4)
        assert pipe.outcomes == {"handled": 4}
        assert pipe.source.window.paused == {}
        # Those that made it open used a try; no probe did.
        assert max(max(each) for each in attempts.values()) == 2


async def test_a_circuit_is_of_the_resource_that_the_stage_needs(tmp_path: Path) -> None:
    class Crm:
        async def probe(self) -> None: ...

    async def handle(event: Event[Any], context: Context) -> None:
        raise ConnectionError("reset")

    guarded = policy(circuit={"minimum": 1, "open_for": 60})
    async with bench(tmp_path, [stage("x", handle, guarded, resources=("crm",))], resources={"crm": Crm()}) as pipe:
        await pipe.feed(message(1), message(2))
        await eventually(lambda: "crm" in pipe.source.window.paused)


async def test_an_event_that_fails_for_its_own_fault_does_not_keep_a_circuit_open(tmp_path: Path) -> None:
    down = True

    async def handle(event: Event[Any], context: Context) -> None:
        if down or event.offset == 2:  # the first that is probed, as 0 and 1 made it open
            raise ValueError("bad")

    guarded = policy(circuit={"minimum": 2, "open_for": 0.02}, concurrency=1)
    async with bench(tmp_path, [stage("x", handle, guarded)]) as pipe:
        await pipe.feed(*(message(offset) for offset in range(6)))
        await eventually(lambda: "stage x" in pipe.source.window.paused)
        down = False
        await pipe.settle(6)
        assert pipe.outcomes == {"handled": 5, "dead": 1}


async def test_events_that_fail_for_their_own_fault_keep_a_source_paused_only_until_others_come(tmp_path: Path) -> None:
    async def handle(event: Event[Any], context: Context) -> None:
        if event.data.get("is_bad"):
            raise ValueError("bad")

    guarded = policy(
        circuit={"minimum": 2, "open_for": 0.02}, retry={"attempts": 2, "backoff": 0.01, "max_backoff": 0.01}
    )
    async with bench(tmp_path, [stage("x", handle, guarded)]) as pipe:
        await pipe.feed(*(message(offset, {"is_bad": True}) for offset in range(3)))
        await eventually(lambda: "stage x" in pipe.source.window.paused)
        for offset in range(3, 6):  # one batch each
            await asyncio.wait_for(pipe.feed(message(offset)), 10)
        await pipe.settle(6)
        assert pipe.outcomes == {"handled": 3, "dead": 3}
        assert pipe.source.window.paused == {}


async def test_while_a_circuit_is_open_no_more_than_a_window_is_taken_in_and_nothing_is_dead(tmp_path: Path) -> None:
    is_down = True

    async def handle(event: Event[Any], context: Context) -> None:
        if is_down:
            raise ConnectionError("reset")

    async def feed_on() -> None:
        for offset in range(100):
            await pipe.feed(message(offset))

    guarded = policy(circuit={"minimum": 1, "open_for": 0.001}, retry={"attempts": 3, "backoff": 0.01})
    async with bench(tmp_path, [stage("x", handle, guarded)], window=5) as pipe:
        feeding = asyncio.create_task(feed_on())
        await eventually(lambda: pipe.source.window.in_flight == 5)
        rounds = 0

        def look(name: str) -> None:
            nonlocal rounds
            rounds += 1
            admit_one(name)

        admit_one, pipe.source.dependencies._admit_one = pipe.source.dependencies._admit_one, look
        await eventually(lambda: rounds >= 5)  # in which one more would have been let in
        assert pipe.source.window.in_flight == 5
        is_down = False
        await feeding
        await pipe.settle(100)
        assert pipe.outcomes == {"handled": 100}


async def test_several_probes_go_through_one_by_one(tmp_path: Path) -> None:
    down, calls = True, 0

    async def handle(event: Event[Any], context: Context) -> None:
        nonlocal calls
        calls += 1
        if down:
            raise ValueError("bad")

    guarded = policy(circuit={"minimum": 1, "open_for": 0.02, "half_open": 3}, concurrency=1)
    async with bench(tmp_path, [stage("x", handle, guarded)]) as pipe:
        await pipe.feed(*(message(offset) for offset in range(10)))
        await eventually(lambda: "stage x" in pipe.source.window.paused)
        down = False
        await pipe.settle(10)
        assert pipe.outcomes == {"handled": 10}


# Coalesce

FLAPS = {"window": 0.05, "match": ["w.paused", "w.resumed"]}


async def test_a_coalesced_event_is_filtered_and_finally_and_journal_name_its_successor(tmp_path: Path) -> None:
    seen, ends = Recorder(), []

    async def close(event: Event[Any], context: Context) -> None:
        ends.append((event.id, str(context.outcome), str(context.error or "")))

    stages = [stage("x", seen, policy(coalesce=FLAPS)), stage("audit", close)]
    async with bench(tmp_path, stages, [route(["x"], ["audit"], key=("data.k",))], journal=True) as pipe:
        await pipe.feed(
            message(1, {"k": "a"}, key="w.paused", id="e1"),
            message(2, {"k": "b"}, key="w.paused", id="e2"),
            message(3, {"k": "a"}, key="w.resumed", id="e3"),
            message(4, {"k": "a"}, key="w.paused", id="e4"),
        )
        await pipe.settle(4)
        assert sorted(offset for _, offset, _ in seen.seen) == [2, 4]
        assert sorted(ends) == [
            ("e1", "filtered", "coalesced into e3"),
            ("e2", "handled", ""),
            ("e3", "filtered", "coalesced into e4"),
            ("e4", "handled", ""),
        ]
        rows = await pipe.database.fetch(OutcomeRow, select(OutcomeRow))
        assert {(row.offset, row.reason) for row in rows if row.outcome == "filtered"} == {
            (1, "coalesced into e3"),
            (3, "coalesced into e4"),
        }
        assert pipe.outcomes == {"filtered": 2, "handled": 2}


async def test_an_event_waits_for_one_that_is_not_there_yet_and_for_its_window_only(tmp_path: Path) -> None:
    seen = Recorder()
    async with bench(tmp_path, [stage("x", seen, policy(coalesce=FLAPS))]) as pipe:
        began = time.monotonic()
        await pipe.feed(message(1, {"k": "a"}, key="w.paused"))
        for _ in range(5):  # by then it waits
            await asyncio.sleep(0)
        await pipe.feed(message(2, {"k": "a"}, key="w.resumed"))
        await pipe.settle(2)
        await pipe.feed(message(3, {"k": "a"}, key="w.paused"))
        await pipe.settle(3)
        assert [(offset, attempt) for _, offset, attempt in seen.seen] == [(2, 1), (3, 1)]
        assert seen.at[0] - began >= 0.05


async def test_an_event_that_would_not_come_to_the_stage_replaces_none(tmp_path: Path) -> None:
    seen = Recorder()
    picky = stage("x", seen, policy(coalesce=FLAPS))
    picky.when = compile_expression("data.n < 3", want="bool")
    routes = [route(["x"], key=("data.k",), when="data.n != 2")]
    async with bench(tmp_path, [picky], routes) as pipe:
        await pipe.feed(*(message(n, {"k": "a", "n": n}, key="w.paused") for n in (1, 2, 3)))
        await pipe.settle(3)
        assert [offset for _, offset, _ in seen.seen] == [1]


async def test_an_event_that_was_tried_is_not_coalesced(tmp_path: Path) -> None:
    attempts: list[tuple[int, int]] = []

    async def handle(event: Event[Any], context: Context) -> None:
        attempts.append((event.offset, context.attempt))
        if context.attempt == 1 and event.offset == 1:
            await pipe.feed(message(2, {"k": "a"}, key="w.resumed"))
            raise Retry("again")

    async with bench(tmp_path, [stage("x", handle, policy(coalesce=FLAPS))]) as pipe:
        await pipe.feed(message(1, {"k": "a"}, key="w.paused"))
        await pipe.settle(2)
        assert attempts == [(1, 1), (1, 2), (2, 1)]


async def test_all_policies_together_keep_the_order_of_a_key(tmp_path: Path) -> None:
    seen = Recorder()
    everything = policy(
        concurrency={"limit": 3, "per_key": 1, "key": "data.k"},
        rate_limit=["500/s", {"rate": "200/s", "burst": 2, "key": "data.k"}],
        circuit={},
        coalesce={"window": 0.001, "match": "none.#"},
    )
    async with bench(tmp_path, [stage("x", seen, everything)]) as pipe:
        await pipe.feed(*(message(offset, {"k": offset % 4}) for offset in range(100)))
        await pipe.settle(100)
        for key in range(4):
            assert [offset for k, offset, _ in seen.seen if k == key] == list(range(key, 100, 4))
        assert pipe.outcomes == {"handled": 100}
