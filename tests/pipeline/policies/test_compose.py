"""Policies are put together in their order, and only those that are configured."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

from pipeline.config.policies import CircuitPolicy, Policy
from pipeline.errors import Skip
from pipeline.handlers import Delivery
from pipeline.policies.circuit import CircuitOpen, Circuits
from pipeline.policies.compose import compose, has_more
from pipeline.policies.middleware import Call, Throttled
from pipeline.policies.timeout import Timeout
from tests.pipeline.policies.samples import Calls, Clock, delivery


def composed(call: Any, clock: Clock, *, later: Delivery | None = None, **policy: Any) -> Call:
    made = Policy.model_validate({"timeout": False, **policy})
    found = later.event if later else None
    circuit = Circuits(clock).of(made.circuit, "crm") if made.circuit else None
    return compose(
        call, made, Timeout(made.timeout or None), circuit=circuit, successor=lambda *_: found, clock=clock
    )  # fmt: skip


async def test_a_stage_without_policies_is_called_as_it_is() -> None:
    calls = Calls()
    assert composed(calls, Clock()) is calls
    assert not has_more(Policy(timeout=5, concurrency=7))


def test_every_further_policy_is_one() -> None:
    for more in (
        {"rate_limit": "5/s"},
        {"circuit": {}},
        {"concurrency": {"per_key": 1, "key": "id"}},
        {"coalesce": {"window": 1, "match": "#"}},
    ):
        assert has_more(Policy.model_validate(more))
    assert not has_more(Policy.model_validate({"concurrency": {"limit": 5}, "circuit": False, "rate_limit": False}))


async def test_a_time_out_is_the_innermost_so_that_the_circuit_sees_it() -> None:
    async def hangs(batch: Sequence[Delivery]) -> None:
        await asyncio.Event().wait()

    call = composed(hangs, Clock(), timeout=0.01, circuit={"minimum": 1})
    assert isinstance((await call([delivery("1")]) or [None])[0], TimeoutError)
    assert isinstance((await call([delivery("2")]) or [None])[0], CircuitOpen)


async def test_what_an_open_circuit_holds_back_uses_nothing_of_the_rate() -> None:
    clock, calls = Clock(), Calls({"1": ValueError("x")})
    call = composed(calls, clock, circuit=CircuitPolicy(minimum=1, open_for=5), rate_limit={"rate": "1/s", "burst": 2})
    await call([delivery("1")])
    for number in range(10):
        await call([delivery(f"held{number}")])
    clock.at += 5
    assert await call([delivery("2")]) == [None]


async def test_what_waits_for_another_of_its_key_uses_nothing_of_the_rate() -> None:
    calls = Calls()
    call = composed(
        calls, Clock(), concurrency={"per_key": 1, "key": "data.k"}, rate_limit={"rate": "1/s", "burst": 2}
    )  # fmt: skip
    results = await call([delivery("1", k="a"), delivery("2", k="a"), delivery("3", k="b")]) or ()
    assert calls.batches == [["1", "3"]]
    assert isinstance(results[1], Throttled)


async def test_what_is_throttled_gives_its_place_back() -> None:
    clock = Clock()
    call = composed(
        Calls(), clock, concurrency={"per_key": 1, "key": "data.k"}, rate_limit={"rate": "1/s", "burst": 1}
    )  # fmt: skip
    assert await call([delivery("1", k="a")]) is None
    (throttled,) = await call([delivery("2", k="a")]) or ()
    assert isinstance(throttled, Throttled)
    assert throttled.park is None  # it waits for the rate, not for its key


async def test_what_is_coalesced_uses_nothing_of_what_follows() -> None:
    calls = Calls()
    call = composed(
        calls, Clock(), later=delivery("2"), coalesce={"window": 1, "match": "#"},
        rate_limit={"rate": "1/s", "burst": 1, "key": "data.k"},
    )  # fmt: skip
    (result,) = await call([delivery("1", k="a")]) or ()
    assert isinstance(result, Skip)
    assert await call([delivery("3", 2, k="a")]) is None
