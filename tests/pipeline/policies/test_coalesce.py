"""Coalesce: an event waits its window, and is filtered where a later one of its key has come."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.config.policies import CoalescePolicy
from pipeline.errors import Retry, Unavailable
from pipeline.events import Event
from pipeline.policies.coalesce import Coalesce, Coalesced
from pipeline.policies.middleware import Throttled
from tests.pipeline.policies.samples import Calls, Clock, delivery


class Lane:
    """The lane behind the event that is asked about."""

    def __init__(self, clock: Clock, calls: Calls | None = None, match: str = "w.*") -> None:
        self.behind: list[Event[Any]] = []
        self.calls = calls or Calls()
        self.policy = Coalesce(
            CoalescePolicy(window=2, match=(match,)),
            lambda context, matches: next((event for event in self.behind if matches(event)), None),
            clock,
        )
        self.call = self.policy.wrap(self.calls)


async def test_an_event_waits_its_window_and_is_handled_where_nothing_came() -> None:
    clock = Clock()
    lane, event = Lane(clock), delivery("1", key="w.paused")
    (throttled,) = await lane.call([event]) or ()
    assert isinstance(throttled, Throttled)
    assert throttled.after == 2.0
    clock.at += 2.0
    assert await lane.call([event]) is None
    assert lane.calls.batches == [["1"]]
    assert len(lane.policy) == 0


async def test_an_event_that_a_later_one_follows_is_filtered_and_names_it() -> None:
    clock = Clock()
    lane, event = Lane(clock), delivery("1", key="w.paused")
    await lane.call([event])
    lane.behind = [delivery("x", key="other").event, delivery("2", key="w.resumed").event]
    clock.at += 2.0
    (skip,) = await lane.call([event]) or ()
    assert isinstance(skip, Coalesced)
    assert (skip.successor, str(skip)) == ("2", "coalesced into 2")
    assert lane.calls.batches == []
    assert len(lane.policy) == 0


async def test_where_the_later_event_is_there_already_nothing_waits() -> None:
    lane = Lane(Clock())
    lane.behind = [delivery("2", key="w.resumed").event]
    (skip,) = await lane.call([delivery("1", key="w.paused")]) or ()
    assert isinstance(skip, Coalesced)


async def test_events_that_do_not_match_neither_wait_nor_replace_others() -> None:
    lane = Lane(Clock())
    lane.behind = [delivery("2", key="w.resumed").event]
    assert await lane.call([delivery("1", key="other")]) is None
    lane.behind = [delivery("2", key="other").event]
    (result,) = await lane.call([delivery("3", key="w.paused")]) or ()
    assert isinstance(result, Throttled)


async def test_an_event_that_was_tried_is_coalesced_no_more() -> None:
    lane = Lane(Clock())
    lane.behind = [delivery("2", key="w.resumed").event]
    assert await lane.call([delivery("1", 2, key="w.paused")]) is None


async def test_an_event_that_meets_an_outage_after_its_window_does_not_wait_again() -> None:
    clock = Clock()
    lane, event = Lane(clock, Calls({"1": Unavailable("x")})), delivery("1", key="w.paused")
    await lane.call([event])
    clock.at += 2.0
    await lane.call([event])
    await lane.call([event])
    assert lane.calls.batches == [["1"], ["1"]]
    assert len(lane.policy) == 1


async def test_an_event_whose_call_timed_out_in_an_outage_is_coalesced_no_more() -> None:
    clock = Clock()
    lane, event = Lane(clock, Calls({"1": TimeoutError("slow")})), delivery("1", key="w.paused")
    await lane.call([event])
    clock.at += 2.0
    await lane.call([event])
    lane.behind = [delivery("2", key="w.resumed").event]  # it may have had an effect: it must not be told as filtered
    await lane.call([event])
    assert lane.calls.batches == [["1"], ["1"]]
    await lane.call([delivery("1", 2, key="w.paused")])  # it was no outage, but a try
    assert len(lane.policy) == 0


async def test_of_events_that_end_by_a_time_out_a_bounded_number_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.policies.coalesce._MOST", 10)
    clock = Clock()
    lane = Lane(clock, Calls({str(number): TimeoutError("slow") for number in range(100)}))
    for _ in range(2):
        for number in range(100):
            await lane.call([delivery(str(number), key="w.paused")])
        assert len(lane.policy) == 100 if not lane.calls.batches else 10
        clock.at += 2.0


async def test_nothing_is_kept_of_an_event_whose_try_failed() -> None:
    clock = Clock()
    lane, event = Lane(clock, Calls({"1": Retry("again")})), delivery("1", key="w.paused")
    await lane.call([event])
    clock.at += 2.0
    await lane.call([event])
    assert len(lane.policy) == 0
