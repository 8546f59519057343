"""What policies have in common: part of a batch is held back, and the rest keeps its results."""

from __future__ import annotations

import asyncio

import pytest

from pipeline.errors import Reject, Unavailable
from pipeline.policies.middleware import FailedTogether, call_others, key_getter, results_of
from tests.pipeline.policies.samples import Calls, delivery

A, B, C = delivery("a"), delivery("b"), delivery("c")


def fails(error: BaseException) -> Calls:
    def fail(batch: object) -> None:
        raise error

    return Calls(fail)


async def test_a_batch_of_which_nothing_is_held_back_is_handed_on_as_it_is() -> None:
    calls = Calls()
    assert await call_others(calls, [A, B], {}) is None
    assert calls.batches == [["a", "b"]]


async def test_results_keep_the_order_of_the_batch() -> None:
    refused, held = Reject("c"), Reject("held")
    calls = Calls({"c": refused})
    assert await call_others(calls, [A, B, C], {1: held}) == [None, held, refused]
    assert calls.batches == [["a", "c"]]


async def test_nothing_is_called_where_all_is_held_back() -> None:
    held, calls = Reject("held"), Calls()
    assert await call_others(calls, [A], {0: held}) == [held]
    assert calls.batches == []


async def test_an_instruction_that_a_batch_raises_is_the_result_of_each_event() -> None:
    held, outage = Reject("held"), Unavailable("x")
    assert await call_others(fails(outage), [A, B, C], {0: held}) == [held, outage, outage]


async def test_an_error_that_a_batch_raises_blames_no_event_in_particular() -> None:
    held, error = Reject("held"), ValueError("x")
    first, *others = await call_others(fails(error), [A, B, C], {0: held}) or ()
    assert first is held
    assert [each.error for each in others if isinstance(each, FailedTogether)] == [error, error]


async def test_the_only_event_of_a_call_is_the_one_that_failed() -> None:
    error = ValueError("x")
    assert await results_of(fails(error), [A]) == [error]


async def test_a_cancellation_that_the_handler_makes_itself_is_a_result_and_any_other_is_none() -> None:
    own = asyncio.CancelledError()
    assert await results_of(fails(own), [A]) == [own]

    async def waits(batch: object) -> None:
        await asyncio.Event().wait()

    task = asyncio.create_task(results_of(waits, [A]))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task


def test_a_key_is_a_text_or_nothing() -> None:
    key_of = key_getter("data.n")
    events = [delivery("a", n=n).event for n in ("x", 7, True, None, [1])]
    assert [key_of(event) for event in events] == ["x", "7", "true", None, None]
    assert key_of(delivery("a").event) is None
    assert key_getter("routing_key + '/' + data.n")(events[0]) == "a.b/x"
