"""How long a dependency that is down is left alone: ever longer, or as long as an open circuit asks for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from pipeline.dispatch.dependencies import Dependencies
from pipeline.errors import Unavailable
from pipeline.policies.circuit import CircuitOpen


class Queue:
    """A stage's queue, whose trials meet what the test says."""

    def __init__(self, *meets: Unavailable, exhausted: bool = True) -> None:
        self.meets = list(meets)
        self.trials_are_exhausted = exhausted
        self.dependencies: Any = None
        self.woken = asyncio.Event()

    def rest(self, dependency: str) -> None: ...

    def wake(self, dependency: str) -> None:
        self.woken.set()

    async def trial(self, dependency: str) -> bool:
        if self.meets:
            self.dependencies.report(self.meets.pop(0), self)
            return False
        return True


async def waits(monkeypatch: pytest.MonkeyPatch, *meets: Unavailable) -> list[float]:
    """The waits between what is met, first and at each trial."""
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setattr("pipeline.dispatch.dependencies.asyncio.sleep", sleep)
    queue = Queue(*meets)
    queue.dependencies = dependencies = Dependencies({}, lambda *_: None, lambda _: None)
    dependencies.report(queue.meets.pop(0), queue)  # type: ignore[arg-type]
    await asyncio.wait_for(queue.woken.wait(), 5)
    return waited


async def test_an_outage_is_asked_after_less_and_less_often(monkeypatch: pytest.MonkeyPatch) -> None:
    waited = await waits(monkeypatch, *[Unavailable("crm")] * 9)
    assert waited == pytest.approx([0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 10, 10, 10], rel=0.2)


async def test_an_open_circuit_is_probed_as_soon_as_it_may_be_each_time(monkeypatch: pytest.MonkeyPatch) -> None:
    assert await waits(monkeypatch, *[CircuitOpen("crm", "", 5.0)] * 3) == [5.0, 5.0, 5.0]


@pytest.mark.parametrize(
    ("met", "exhausted", "admitted"),
    [
        (CircuitOpen("crm", "", 0.01), True, ["crm", "crm"]),
        (CircuitOpen("crm", "", 0.01), False, []),
        (Unavailable("crm"), True, []),  # the handler itself says that it is an outage
    ],
)
async def test_others_are_let_in_where_a_circuit_stays_open_and_all_in_hand_have_failed_as_probes(
    monkeypatch: pytest.MonkeyPatch, met: Unavailable, exhausted: bool, admitted: list[str]
) -> None:
    monkeypatch.setattr("pipeline.dispatch.dependencies._FIRST_WAIT", 0.01)
    let_in: list[str] = []
    queue = Queue(met, met, met, exhausted=exhausted)
    queue.dependencies = dependencies = Dependencies({}, lambda *_: None, lambda _: None, let_in.append)
    dependencies.report(queue.meets.pop(0), queue)  # type: ignore[arg-type]
    await asyncio.wait_for(queue.woken.wait(), 5)
    assert let_in == admitted


class Failing(Queue):
    """A queue whose first trial fails in a way that nobody foresaw."""

    async def trial(self, dependency: str) -> bool:
        if self.meets:
            raise self.meets.pop(0)
        return True


async def test_a_trial_that_fails_unexpectedly_is_made_again(caplog: pytest.LogCaptureFixture) -> None:
    queue = Failing(Unavailable("crm"), Unavailable("what a trial never raises"))
    Dependencies({}, lambda *_: None, lambda _: None).report(queue.meets.pop(0), queue)  # type: ignore[arg-type]
    await asyncio.wait_for(queue.woken.wait(), 5)
    assert "crm: whether it is back could not be found out" in caplog.text
