"""A circuit opens on a ratio of failures, lets probes through after a while, and closes by itself."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from pipeline.config.policies import CircuitPolicy
from pipeline.errors import Reject, Retry, Skip, Unavailable
from pipeline.handlers import Delivery
from pipeline.policies.circuit import Circuit, CircuitOpen, Circuits
from pipeline.policies.middleware import FailedTogether, Throttled
from tests.pipeline.policies.samples import Calls, Clock, delivery

POLICY = CircuitPolicy(ratio=0.5, window=10, minimum=4, open_for=5)
BAD = ValueError("bad")


class Wired:
    """A circuit before a handler that says what it is told to."""

    def __init__(self, policy: CircuitPolicy = POLICY) -> None:
        self.clock = Clock()
        self.calls = Calls()
        self.circuit = Circuit(policy, "crm", self.clock)
        self.call = self.circuit.wrap(self.calls)

    async def get(self, *answers: BaseException | None) -> list[BaseException | None]:
        """Call once for each of these answers; the results."""
        results: list[BaseException | None] = []
        for answer in answers:
            self.calls.says = {"e": answer} if answer is not None else {}
            results += await self.call([delivery("e")]) or [None]
        return results

    async def opened(self) -> Wired:
        await self.get(BAD, BAD, BAD, BAD)
        assert self.circuit.state == "open"
        return self


async def test_it_opens_at_the_ratio_and_not_before_there_are_enough_calls() -> None:
    wired = Wired()
    assert await wired.get(BAD, None, BAD) == [BAD, None, BAD]
    assert wired.circuit.state == "closed"
    await wired.get(BAD)
    assert wired.circuit.state == "open"


async def test_a_lower_ratio_does_not_open_it() -> None:
    wired = Wired()
    await wired.get(*[None, None, BAD] * 10)
    assert wired.circuit.state == "closed"


async def test_failures_that_are_older_than_the_window_do_not_count() -> None:
    wired = Wired()
    for _ in range(10):
        await wired.get(BAD)
        wired.clock.at += 4
    assert wired.circuit.state == "closed"


@pytest.mark.parametrize("answer", [Reject("no"), Skip("no"), None])
async def test_an_answer_is_no_failure(answer: BaseException | None) -> None:
    wired = Wired()
    await wired.get(*[answer] * 10, BAD)
    assert wired.circuit.state == "closed"


@pytest.mark.parametrize("result", [Retry("no"), Unavailable("crm"), Throttled("wait", 1)])
async def test_what_tells_nothing_does_not_count(result: BaseException) -> None:
    wired = Wired()
    await wired.get(*[result] * 10, BAD, BAD, BAD)
    assert wired.circuit.state == "closed"
    await wired.get(BAD)
    assert wired.circuit.state == "open"


async def test_while_it_is_open_nothing_is_called_and_the_dependency_is_down() -> None:
    wired = await Wired().opened()
    wired.clock.at += 3
    before = len(wired.calls.batches)
    (result,) = await wired.get(None)
    assert isinstance(result, CircuitOpen)
    assert (result.dependency, result.after) == ("crm", 2.0)
    assert result.reason == "4 of 4 calls failed within 10 s, the last: ValueError: bad"
    assert len(wired.calls.batches) == before


async def test_a_probe_that_succeeds_closes_it_and_the_count_begins_anew() -> None:
    wired = await Wired().opened()
    wired.clock.at += 5
    assert wired.circuit.state == "half-open"
    assert await wired.get(None) == [None]
    assert wired.circuit.state == "closed"
    await wired.get(BAD, BAD, BAD)
    assert wired.circuit.state == "closed"


@pytest.mark.parametrize("failure", [BAD, TimeoutError("slow"), Unavailable("crm", "gone")])
async def test_a_probe_that_fails_opens_it_again_and_uses_no_attempt(failure: BaseException) -> None:
    wired = await Wired().opened()
    wired.clock.at += 5
    (result,) = await wired.get(failure)
    assert isinstance(result, Unavailable)
    assert wired.circuit.state == "open"
    wired.clock.at += 4
    assert wired.circuit.state == "open"


async def test_no_more_are_let_through_than_there_are_probes_to_be_made() -> None:
    wired = await Wired(POLICY.model_copy(update={"half_open": 2})).opened()
    wired.clock.at += 5
    wired.calls.says = {}
    first, second, third = await wired.call([delivery("1"), delivery("2"), delivery("3")]) or ()
    assert (first, second) == (None, None)
    assert isinstance(third, CircuitOpen)
    assert wired.calls.batches[-1] == ["1", "2"]
    assert wired.circuit.state == "closed"


async def test_all_probes_must_succeed() -> None:
    wired = await Wired(POLICY.model_copy(update={"half_open": 2})).opened()
    wired.clock.at += 5
    await wired.get(None)
    assert wired.circuit.state == "half-open"
    await wired.get(BAD)
    assert wired.circuit.state == "open"
    wired.clock.at += 5
    await wired.get(None, None)
    assert wired.circuit.state == "closed"


async def test_a_batch_that_fails_as_a_whole_is_one_failure() -> None:
    wired = Wired()

    def fail(batch: Sequence[Delivery]) -> None:
        raise BAD

    wired.calls.says = fail
    batch = [delivery(str(number)) for number in range(50)]
    for _ in range(3):
        results = await wired.call(batch) or ()
        assert all(isinstance(each, FailedTogether) for each in results)
        assert wired.circuit.state == "closed"
    await wired.call(batch)
    assert wired.circuit.state == "open"


async def test_calls_that_were_under_way_when_it_opened_use_no_attempt_either() -> None:
    clock, gate = Clock(), asyncio.Event()

    async def handle(batch: Sequence[Delivery]) -> Any:
        await gate.wait()
        raise TimeoutError("slow")

    circuit = Circuit(POLICY, "crm", clock)
    call = circuit.wrap(handle)
    tasks = [asyncio.create_task(call([delivery(str(number))])) for number in range(8)]  # type: ignore[arg-type]
    await asyncio.sleep(0)
    gate.set()
    results = [result for task in tasks for result in await task or ()]
    assert [type(each) for each in results] == [TimeoutError] * 4 + [CircuitOpen] * 4


async def test_what_succeeds_late_does_not_close_it() -> None:
    clock, gate = Clock(), asyncio.Event()

    async def handle(batch: Sequence[Delivery]) -> Any:
        if batch[0].event.id == "late":
            await gate.wait()
            return None
        raise BAD

    circuit = Circuit(POLICY, "crm", clock)
    call = circuit.wrap(handle)
    late = asyncio.create_task(call([delivery("late")]))  # type: ignore[arg-type]
    await asyncio.sleep(0)
    for number in range(4):
        await call([delivery(str(number))])
    gate.set()
    assert await late is None
    assert circuit.state == "open"


async def test_a_circuit_is_of_the_dependency_whichever_stages_need_it() -> None:
    circuits, settings = Circuits(Clock()), CircuitPolicy(minimum=2)
    failing = Calls({"1": ValueError("x"), "2": ValueError("x")})
    one, other = (circuits.of(settings, "crm").wrap(call) for call in (failing, failing))
    await one([delivery("1")])
    await other([delivery("2")])
    (result,) = await one([delivery("3")]) or [None]
    assert isinstance(result, CircuitOpen)
    assert circuits.of(settings, "erp").state == "closed"
