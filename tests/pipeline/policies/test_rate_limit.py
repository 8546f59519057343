"""A rate limit lets so many through, and gives all others a turn each, in the order in which they came."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from typing import Any

import pytest

from pipeline.config.policies import RateLimit
from pipeline.errors import Unavailable
from pipeline.handlers import Delivery
from pipeline.policies.middleware import Throttled
from pipeline.policies.rate_limit import Buckets, RateLimits
from tests.pipeline.policies.samples import Calls, Clock, delivery


def limited(clock: Clock, *limits: dict[str, Any]) -> tuple[Any, Calls]:
    calls = Calls()
    return RateLimits([RateLimit(**limit) for limit in limits], clock).wrap(calls), calls


def waits(results: Any) -> list[float | None]:
    return [round(each.after, 6) if isinstance(each, Throttled) else None for each in results or ()]


async def test_a_burst_passes_and_each_that_is_over_the_limit_gets_a_turn_of_its_own() -> None:
    call, calls = limited(Clock(), {"rate": "5/s", "burst": 2})
    results = await call([delivery(str(number)) for number in range(5)])
    assert waits(results) == [None, None, 0.2, 0.4, 0.6]
    assert calls.batches == [["0", "1"]]


async def test_whoever_comes_at_its_turn_passes_and_nobody_else_takes_that_turn() -> None:
    clock = Clock()
    call, calls = limited(clock, {"rate": "10/s", "burst": 1})
    waiting = delivery("waiting")
    assert waits(await call([delivery("first"), waiting])) == [None, 0.1]
    clock.at += 0.11
    assert waits(await call([delivery("newcomer")])) == [0.09]
    assert await call([waiting]) is None
    assert calls.batches == [["first"], ["waiting"]]


async def test_whoever_comes_too_early_keeps_its_turn() -> None:
    clock = Clock()
    call, _ = limited(clock, {"rate": "1/s", "burst": 1})
    waiting = delivery("waiting")
    await call([delivery("first"), waiting])
    clock.at += 0.75
    assert waits(await call([waiting])) == [0.25]
    clock.at += 0.25
    assert await call([waiting]) is None


async def test_turns_that_passed_during_an_outage_do_not_all_pass_at_once() -> None:
    clock = Clock()
    call, calls = limited(clock, {"rate": "2/s", "burst": 1})
    batch = [delivery(str(number)) for number in range(11)]
    await call(batch)
    clock.at += 600
    await call(batch)
    passed = calls.batches[1:]
    assert passed == [["0"]]


@pytest.mark.parametrize(("rate", "burst"), [("5/s", 1), ("5/s", 5), ("300/m", None), ("7/s", 3)])
async def test_over_any_time_no_more_pass_than_the_rate_and_a_burst(rate: str, burst: int | None) -> None:
    clock = Clock()
    limit = RateLimit.model_validate({"rate": rate, "burst": burst})
    passed: list[float] = []
    call = RateLimits([limit], clock).wrap(Calls(lambda batch: passed.extend(clock.at for _ in batch)))
    due = {str(number): clock.at + number * 0.01 for number in range(200)}
    while due:
        clock.at, name = min((at, name) for name, at in due.items())
        (result,) = await call([delivery(name)]) or (None,)
        if isinstance(result, Throttled):
            due[name] = clock.at + result.after
        else:
            del due[name]
    assert len(passed) == 200
    for first in range(200):
        within = sum(1 for at in passed[first:] if at < passed[first] + 1 - 1e-6)
        assert within <= limit.rate + limit.size - 1 + 1e-6
    assert passed[-1] - passed[0] == pytest.approx((200 - limit.size) / limit.rate, abs=0.02)  # and no fewer


async def test_each_key_has_the_whole_rate_to_itself_and_what_has_no_key_is_not_limited() -> None:
    call, calls = limited(Clock(), {"rate": "1/s", "burst": 1, "key": "data.k"})
    results = await call([delivery("1", k="a"), delivery("2", k="a"), delivery("3", k="b"), delivery("4")])
    assert waits(results) == [None, 1.0, None, None]
    assert calls.batches == [["1", "3", "4"]]


async def test_of_several_limits_all_must_agree_and_what_one_holds_back_costs_nothing_of_the_others() -> None:
    clock = Clock()
    call, calls = limited(clock, {"rate": "10/s", "burst": 3}, {"rate": "1/s", "burst": 1, "key": "data.k"})
    hot = [delivery(f"hot{number}", k="hot") for number in range(5)]
    assert waits(await call(hot)) == [None, 1.0, 2.0, 3.0, 4.0]
    others = [delivery(f"other{number}", k=f"o{number}") for number in range(3)]
    assert waits(await call(others)) == [None, None, 0.1]  # the stage's burst is 3: one hot, two others
    clock.at += 1.0
    assert await call([hot[1]]) is None
    assert calls.batches[-1] == ["hot1"]


async def test_what_the_handler_itself_lets_wait_keeps_what_it_was_given() -> None:
    clock = Clock()
    call, calls = limited(clock, {"rate": "1/m", "burst": 1}, {"rate": "1/s", "burst": 1, "key": "data.k"})
    calls.says = {"1": Throttled("not yet", 5.0)}
    event = delivery("1", k="a")
    assert waits(await call([event])) == [5.0]
    clock.at += 5.0
    calls.says = {}
    assert await call([event]) is None
    assert calls.batches == [["1"], ["1"]]
    assert waits(await call([delivery("2", k="a")])) == [55.0]


async def test_the_event_with_which_an_outage_is_tried_does_not_wait_for_another_turn() -> None:
    clock = Clock()
    call, calls = limited(clock, {"rate": "1/h", "burst": 2})
    calls.says = {"1": Unavailable("crm"), "2": Unavailable("crm")}
    batch = [delivery("1"), delivery("2")]
    await call(batch)
    for _ in range(3):  # however long it takes
        clock.at += 10.0
        assert [type(each) for each in await call(batch) or ()] == [Throttled, Unavailable]
    calls.says = {}
    assert await call(batch[1:]) is None
    assert waits(await call(batch[1:]))[0]  # once


def test_keys_that_are_idle_are_forgotten_and_so_are_turns_that_nobody_took() -> None:
    buckets = Buckets(RateLimit(rate=100, burst=1))
    for number in range(50_000):
        now = number * 0.01
        if buckets.wait(f"key{number // 2}", f"r{number}", now):
            buckets.reserve(f"key{number // 2}", f"r{number}", now)
        else:
            buckets.take(f"key{number // 2}", f"r{number}", now)
    assert len(buckets) <= 5_000


def test_the_burst_is_what_comes_in_a_second_unless_it_is_said() -> None:
    sizes = [RateLimit.model_validate({"rate": rate}).size for rate in ("5/s", "300/m", "10/m", "2.5/s", 400)]
    assert sizes == [5, 5, 1, 2, 400]


@pytest.mark.parametrize("late", [0.0, 0.9, 1.05, 3.0, 30.0])
def test_where_every_turn_is_taken_late_the_limit_is_reached_and_kept(late: float) -> None:
    buckets = Buckets(RateLimit(rate=10, burst=1))
    coming = [(0.0, str(number)) for number in range(100)]
    passed: list[float] = []
    while coming:
        now, request = heapq.heappop(coming)
        wait = buckets.wait("", request, now)
        if wait > 0:
            buckets.reserve("", request, now)
            heapq.heappush(coming, (now + wait + late, request))
        else:
            buckets.take("", request, now)
            passed.append(now)
    assert passed[-1] <= 10 * 1.5 + 2 * late  # ten seconds' worth, and at most once around anew
    assert max(sum(at <= other < at + 0.99 for other in passed) for at in passed) <= 11


def test_a_late_pass_counts_against_those_that_come_after_it() -> None:
    buckets = Buckets(RateLimit(rate=1, burst=1))
    buckets.take("", "first", 0.0)
    buckets.reserve("", "late", 0.0)
    assert buckets.wait("", "late", 60.0) == 0.0
    buckets.take("", "late", 60.0)
    assert buckets.wait("", "next", 60.0) == 1.0


async def test_a_time_out_that_was_no_outage_is_tried_again_at_a_turn_of_its_own() -> None:
    clock = Clock()
    call, calls = limited(clock, {"rate": "1/h", "burst": 1})
    calls.says = {"1": TimeoutError()}
    await call([delivery("1")])
    clock.at += 10.0
    assert waits(await call([delivery("1", attempt=2)])) == [3590.0]


async def test_the_last_of_a_batch_that_timed_out_tries_whether_the_outage_is_over_and_no_other_does() -> None:
    clock = Clock()

    async def hang(batch: Sequence[Delivery]) -> None:
        raise TimeoutError

    call = RateLimits([RateLimit(rate="1/h", burst=2)], clock).wrap(hang)
    await call([delivery("1"), delivery("2")])
    clock.at += 10.0
    assert waits(await call([delivery("1")])) == [3590.0]
    assert waits(await call([delivery("2")])) == [None]
