"""By default workflow-control sends a workflow fewer than five signals a second, whichever events ask for them."""

from __future__ import annotations

import asyncio
import heapq
import random
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from pipeline import Delivery, Handler, Reject, Setup, Throttled, Unavailable
from pipeline.config.models import Policy
from pipeline.config.policies import RateLimit
from pipeline.ledger.migrations import migrate
from pipeline.stages import Stage
from pipeline_handlers.audit import pipeline_tables
from pipeline_handlers.workflow_control import WorkflowControlHandler, WorkflowControlOptions
from pipeline_handlers.workflow_control.pacing import Pacer
from tests.handlers.eventually import eventually
from tests.handlers.fake_temporal import FakeTemporal
from tests.handlers.harness import LOG, deliver, hand, make_event
from tests.pipeline.dispatch.harness import bench, message, route
from tests.pipeline.policies.samples import Clock

PER_WORKFLOW = {"rate": "4/s", "burst": 1, "key": "data.workflow_id"}


def single(workflow_id: str, id: str, kind: str = "paused") -> Delivery:  # noqa: A002
    return deliver(make_event(f"admin.workflow.{kind}", {"workflow_id": workflow_id}, id=id))


def many(*workflow_ids: str, id: str, kind: str = "paused") -> Delivery:  # noqa: A002
    return deliver(make_event(f"admin.workflow.{kind}", {"workflow_ids": list(workflow_ids)}, id=id))


def stage_of(policy: dict[str, Any] | None = None, **options: Any) -> Stage:
    """The stage as a file makes it: the handler's own policy, and over it what the file says."""
    read = WorkflowControlOptions.model_validate(options)
    default = WorkflowControlHandler.default_policy(read)
    made = default if policy is None else Policy.model_validate({**default.model_dump(), **policy})
    return Stage("control", WorkflowControlHandler(read), made)


@asynccontextmanager
async def paced(
    temporal: FakeTemporal, clock: Clock, policy: dict[str, Any] | None = None, **options: Any
) -> AsyncIterator[Handler[Any]]:
    """The handler of such a stage, by a clock that the test turns."""
    handler: Any = stage_of(policy, **options).handler
    handler._pacer._clock = clock
    await handler.start(Setup("control", "test", {"temporal": temporal}, LOG))
    yield handler


def waits(results: Any) -> list[float | None]:
    return [round(each.after, 6) if isinstance(each, Throttled) else None for each in results]


# Who is limited by what


async def test_an_event_of_a_list_and_a_single_one_share_a_workflows_rate_and_hold_up_no_other() -> None:
    temporal, clock = FakeTemporal("a", "b", "c"), Clock()
    listed = many("a", "b", "c", id="2")
    async with paced(temporal, clock) as handler:
        assert await hand(handler, single("a", "1")) == [None]
        assert waits(await hand(handler, listed)) == [0.25]
        assert temporal.calls == ["a", "b", "c"]
        clock.at += 0.25
        assert await hand(handler, listed) == [None]
    assert temporal.calls == ["a", "b", "c", "a"]
    [row] = listed.context.rows
    assert row.values["details"]["workflows"] == {"a": "sent", "b": "sent", "c": "sent"}


async def test_nobody_overtakes_a_signal_that_waits_for_its_turn() -> None:
    temporal, clock = FakeTemporal("a", "b"), Clock()
    paused, resumed = many("a", "b", id="2"), single("a", "3", "resumed")
    async with paced(temporal, clock) as handler:
        await hand(handler, single("a", "1"))
        assert waits(await hand(handler, paused, resumed)) == [0.25, 0.5]
        clock.at += 0.5  # the list is late, and the other one is there first
        assert waits(await hand(handler, resumed)) == [0.25]
        assert await hand(handler, paused) == [None]
        clock.at += 0.25
        assert await hand(handler, resumed) == [None]
    assert temporal.workflows == {"a": [("pause", ()), ("pause", ()), ("resume", ())], "b": [("pause", ())]}


async def test_one_whose_turn_nobody_takes_stands_in_nobodys_way() -> None:
    temporal, clock = FakeTemporal("a"), Clock()
    async with paced(temporal, clock) as handler:
        await hand(handler, single("a", "1"))
        assert waits(await hand(handler, many("a", id="gone"))) == [0.25]
        clock.at += 60.0
        assert await hand(handler, single("a", "2")) == [None]


async def test_an_event_comes_again_once_for_all_turns_that_are_close() -> None:
    names = [f"w{number}" for number in range(50)]
    temporal, clock = FakeTemporal(*names, "far"), Clock()
    listed = many(*names, "far", id="list")
    async with paced(temporal, clock) as handler:
        for number, name in enumerate(names):
            await hand(handler, single(name, name))
            clock.at += 0.0 if number % 10 else 0.02
        await hand(handler, single("far", "1"), many("far", id="2"))
        [after] = waits(await hand(handler, listed))
        assert after is not None
        clock.at += after
        [then] = waits(await hand(handler, listed))
        assert temporal.calls.count("far") == 1
        assert len(temporal.calls) == 101
        assert then is not None
        assert after + then == pytest.approx(0.5)


async def test_a_workflow_that_takes_no_signal_is_asked_once_and_the_event_is_dead_when_all_had_their_turn() -> None:
    temporal, clock = FakeTemporal("a"), Clock()
    listed = many("a", "nobody", id="2")
    async with paced(temporal, clock) as handler:
        await hand(handler, single("a", "1"))
        assert waits(await hand(handler, listed)) == [0.25]
        clock.at += 0.25
        [error] = await hand(handler, listed)
    assert isinstance(error, Reject)
    assert error.kind == "workflow_not_found"
    assert temporal.calls == ["a", "nobody", "a"]


async def test_an_outage_comes_before_a_turn() -> None:
    temporal, clock = FakeTemporal("a", "b"), Clock()
    async with paced(temporal, clock) as handler:
        await hand(handler, single("a", "1"))
        temporal.down = True
        [error] = await hand(handler, many("a", "b", id="2"))
        assert isinstance(error, Unavailable)


async def test_a_signal_that_failed_counts_as_it_may_have_been_taken() -> None:
    temporal, clock = FakeTemporal("a"), Clock()
    temporal.down = True
    async with paced(temporal, clock) as handler:
        await hand(handler, single("a", "1"))
        temporal.down = False
        assert waits(await hand(handler, single("a", "2"))) == [0.25]


async def test_batch_operations_of_one_query_are_begun_at_the_rate() -> None:
    temporal, clock = FakeTemporal("b1.x"), Clock()

    def of(bom: str, id: str) -> Delivery:  # noqa: A002
        return deliver(make_event("admin.workflow.paused", {"bom_id": bom}, id=id))

    options = {"batch": {"query": "WorkflowId STARTS_WITH '{{ data.bom_id }}.'"}}
    async with paced(temporal, clock, **options) as handler:
        assert await hand(handler, of("b1", "1")) == [None]
        assert waits(await hand(handler, of("b1", "2"), of("b2", "3"))) == [0.25, None]
        assert len(temporal.batches) == 2
        clock.at += 0.25
        assert await hand(handler, of("b1", "2")) == [None]


# What the file says


async def test_the_engine_is_left_with_the_limits_of_events() -> None:
    assert stage_of().policy.rate_limit == ()
    own = stage_of({"rate_limit": ["100/s", {"rate": "2/s", "key": "data.run"}]}, workflow_id="data.run")
    assert [str(limit) for limit in own.policy.rate_limit] == ["100/s"]
    tenants = stage_of({"rate_limit": {"rate": "2/s", "key": "data.tenant"}})
    assert [str(limit) for limit in tenants.policy.rate_limit] == ["2/s for each data.tenant"]


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (False, [None, None, None, None]),
        ("100/s", [None, None, None, None]),
        ({"rate": "1/s", "burst": 2, "key": "data.workflow_id"}, [None, None, 1.0, 2.0]),
        ([PER_WORKFLOW, {"rate": "1/m", "burst": 3, "key": "data.workflow_id"}], [None, 0.25, 60.25, 120.25]),
    ],
)
async def test_the_limit_is_replaced_or_switched_off_by_the_stages_policy(limit: Any, expected: list[Any]) -> None:
    temporal = FakeTemporal("a")
    async with paced(temporal, Clock(), {"rate_limit": limit}) as handler:
        assert waits(await hand(handler, *(many("a", id=str(number)) for number in range(4)))) == expected


# All together


async def test_whatever_names_a_workflow_it_sees_its_signals_at_the_rate_and_each_once(tmp_path: Path) -> None:
    class Timed(FakeTemporal):
        def __init__(self, *workflow_ids: str) -> None:
            super().__init__(*workflow_ids)
            self.at: dict[str, list[tuple[float, float]]] = {name: [] for name in workflow_ids}

        async def signal(self, workflow_id: str, *args: Any, **named: Any) -> None:
            began = time.monotonic()
            await asyncio.sleep(random.random() * 0.005)
            await super().signal(workflow_id, *args, **named)
            self.at[workflow_id].append((began, time.monotonic()))

    names = [f"w{number}" for number in range(8)]
    temporal = Timed(*names)
    stage = stage_of({"rate_limit": {"rate": "50/s", "burst": 1, "key": "data.workflow_id"}}, signal_args=["id"])
    await stage.start("test", {"temporal": temporal})
    events = []
    for number in range(24):
        some = names[number % 3 :: 3] if number % 2 else [names[0], names[number % 8]]
        data = {"workflow_ids": some} if number % 4 else {"workflow_id": names[0]}
        events.append(message(number, data, key="admin.workflow.paused", id=f"e{number}"))
    async with bench(tmp_path, [stage], [route(["control"], key=("data.workflow_id",), match="#")]) as pipe:
        await migrate(pipe.database, pipeline_tables())
        await pipe.feed(*events)
        await pipe.settle(len(events))
        assert pipe.outcomes == {"handled": len(events)}
    for name in names:
        calls = temporal.at[name]
        assert all(later[0] - earlier[1] >= 1 / 50 for earlier, later in pairwise(calls))
        assert len(calls) == len(temporal.workflows[name]) == len({args for _, args in temporal.workflows[name]})
    assert sum(map(len, temporal.workflows.values())) == len(temporal.calls)


async def test_at_a_stop_a_list_that_waits_is_given_back_and_the_next_start_signals_the_rest(tmp_path: Path) -> None:
    temporal = FakeTemporal("a", "b")
    slow = {"rate_limit": {"rate": "1/h", "burst": 1, "key": "data.workflow_id"}}
    lists = [
        message(0, {"workflow_ids": ["a"]}, key="admin.workflow.paused", id="e0"),
        message(1, {"workflow_ids": ["a", "b"]}, key="admin.workflow.paused", id="e1"),
    ]
    first, second = stage_of(slow), stage_of({"rate_limit": False})
    for stage in (first, second):
        await stage.start("test", {"temporal": temporal})
    async with bench(tmp_path, [first], [route(["control"], match="#")]) as pipe:
        await migrate(pipe.database, pipeline_tables())
        await pipe.feed(*lists)
        await eventually(lambda: sorted(temporal.calls) == ["a", "b"])
        await pipe.settle(1)
        async with asyncio.timeout(5):
            await pipe.source.drain()
        assert pipe.outcomes == {"handled": 1}
    assert temporal.workflows == {"a": [("pause", ())], "b": [("pause", ())]}
    async with bench(tmp_path, [second], [route(["control"], match="#")], owner="two") as pipe:
        await pipe.feed(lists[1])
        await pipe.settle(1)
    assert temporal.workflows == {"a": [("pause", ()), ("pause", ())], "b": [("pause", ())]}


# The pacer itself


def simulate(pacer: Pacer, clock: Clock, lists: list[list[str]], takes: Callable[[], float]) -> dict[str, list[float]]:
    """Events that come at once, and each again when it is told to; when each workflow was signalled."""
    sent: dict[str, list[float]] = {}
    due = {f"e{number}": (clock.at, list(names)) for number, names in enumerate(lists)}
    while due:
        request = min(due, key=lambda name: due[name][0])
        at, names = due.pop(request)
        clock.at = max(clock.at, at)
        told = {name: pacer.wait(name, request) for name in names}
        for name in [name for name in names if not told[name]]:
            sent.setdefault(name, []).append(clock.at)
            clock.at += takes()
            pacer.sent(name, request)
        if left := [name for name in names if told[name]]:
            due[request] = (clock.at + min(told[name] for name in left), left)
    return sent


@pytest.mark.parametrize("burst", [1, 3])
def test_no_workflow_is_signalled_more_often_than_the_rate_and_no_turn_is_wasted(burst: int) -> None:
    chance, clock = random.Random(7), Clock()
    names = [f"w{number}" for number in range(20)]
    lists = [chance.sample(names, chance.randint(1, 6)) + (["hot"] if chance.random() < 0.5 else []) for _ in range(80)]
    pacer = Pacer([RateLimit(rate=4, burst=burst)], clock)
    began = clock.at
    sent = simulate(pacer, clock, lists, lambda: chance.random() * 0.002)
    assert sum(map(len, sent.values())) == sum(map(len, lists))
    for times in sent.values():
        for first in times:
            assert sum(first <= at < first + 1 for at in times) <= 4 + burst - 1
    hot = len(sent["hot"])
    assert sent["hot"][-1] - began < (hot + 1) / 4 * 1.1


def test_workflows_that_are_idle_are_forgotten_and_so_are_turns_that_nobody_took() -> None:
    clock = Clock()
    pacer = Pacer([RateLimit(rate=4, burst=1)], clock)
    for number in range(10_000):
        clock.at += 0.1
        pacer.sent(f"w{number}", f"e{number}")
        pacer.wait(f"w{number}", f"lost{number}")
    assert len(pacer) <= 4_000


def test_a_long_line_costs_no_more_for_each_that_stands_in_it() -> None:
    clock = Clock()
    pacer = Pacer([RateLimit(rate=4, burst=1)], clock)
    pacer.sent("w", "first")
    began = time.process_time()
    turns = [pacer.wait("w", f"e{number}") for number in range(20_000)]
    assert turns == pytest.approx([0.25 * (place + 1) for place in range(20_000)])
    assert time.process_time() - began < 2


@pytest.mark.parametrize("late", [(0.0, 0.0), (0.5, 0.5), (1.1, 1.1), (1.0, 3.0), (10.0, 10.0)])
def test_those_who_come_late_keep_their_places_and_all_have_their_turn(late: tuple[float, float]) -> None:
    clock, dice = Clock(), random.Random(1)
    pacer = Pacer([RateLimit(rate=4, burst=1)], clock)
    coming = [(clock.at, str(number)) for number in range(30)]
    sent: list[float] = []
    while coming:
        clock.at, request = heapq.heappop(coming)
        if wait := pacer.wait("w", request):
            heapq.heappush(coming, (clock.at + wait + dice.uniform(*late), request))
        else:
            pacer.sent("w", request)
            sent.append(clock.at)
    assert len(sent) == 30
    assert sent[-1] - sent[0] < 30
    assert all(later - earlier >= 0.249 for earlier, later in pairwise(sent))


async def test_the_event_that_met_an_outage_is_tried_again_without_waiting_for_a_turn() -> None:
    temporal, clock = FakeTemporal("w"), Clock()
    slow = {"rate_limit": {"rate": "10/h", "burst": 1, "key": "data.workflow_id"}}
    async with paced(temporal, clock, slow) as handler:
        temporal.down = True
        [outage] = await hand(handler, single("w", "1"))
        assert isinstance(outage, Unavailable)
        temporal.down = False
        clock.at += 1.0
        assert waits(await hand(handler, single("w", "2"))) == [359.0]
        assert await hand(handler, single("w", "1")) == [None]


async def test_a_workflow_that_took_no_signal_is_asked_again_once_the_event_has_failed_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    temporal, clock = FakeTemporal("b"), Clock()

    async def fails(workflow_id: str, *_: Any, **__: Any) -> None:
        temporal.calls.append(workflow_id)
        raise Reject("no such workflow", kind="workflow_not_found") if workflow_id == "a" else RuntimeError("odd")

    async with paced(temporal, clock) as handler:
        with monkeypatch.context() as broken:
            broken.setattr(temporal, "signal", fails)
            [error] = await hand(handler, many("a", "b", id="1"))
        assert isinstance(error, RuntimeError)
        temporal.workflows["a"] = []
        clock.at += 60.0
        assert await hand(handler, many("a", "b", id="1")) == [None]
    assert [name for name, _ in temporal.workflows["a"]] == ["pause"]


class SlowToStart(FakeTemporal):
    """Takes a moment to begin a batch operation, as a server does."""

    async def count(self, query: str) -> int:
        await asyncio.sleep(0)
        return await super().count(query)


async def test_operations_of_one_query_in_one_batch_are_begun_one_after_the_other_too() -> None:
    temporal, clock = SlowToStart("bom.1"), Clock()
    temporal.most_batches = 10
    options = {"batch": {"query": "WorkflowId STARTS_WITH '{{ data.bom_id }}.'"}}
    async with paced(temporal, clock, **options) as handler:
        batch = [
            deliver(make_event("admin.workflow.paused", {"bom_id": bom}, id=f"{bom}{number}"))
            for bom in ("bom", "bum")
            for number in (1, 2)
        ]
        assert waits(await hand(handler, *batch)) == [None, 0.25, None, 0.25]
        assert len(temporal.batches) == 2
