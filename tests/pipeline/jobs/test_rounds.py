"""Rounds go on, whatever fails in them."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from time import monotonic

import pytest

from pipeline.errors import Unavailable
from pipeline.jobs.rounds import Rounds
from tests.pipeline.jobs.hint_suite import eventually


class Work:
    def __init__(self, *results: float | Exception | None) -> None:
        self.results = list(results)
        self.at: list[float] = []

    async def __call__(self) -> float | None:
        self.at.append(monotonic())
        result = self.results.pop(0) if self.results else None
        if isinstance(result, Exception):
            raise result
        return result


@pytest.fixture
async def start() -> AsyncIterator[Callable[..., Rounds]]:
    started: list[Rounds] = []

    def start(work: Work, every: float = 3600, apart: float = 0.0) -> Rounds:
        rounds = Rounds("the work", work, every=every, apart=apart)
        rounds.start()
        started.append(rounds)
        return rounds

    yield start
    await asyncio.gather(*(rounds.stop() for rounds in started))


async def test_a_round_comes_when_it_is_woken(start: Callable[..., Rounds]) -> None:
    work = Work()
    rounds = start(work)
    await eventually(lambda: len(work.at) == 1, "no first round")
    rounds.wake()
    await eventually(lambda: len(work.at) == 2, "no second round")


async def test_a_round_says_when_the_next_is_due(start: Callable[..., Rounds]) -> None:
    work = Work(0.05, 0.0)
    start(work)
    await eventually(lambda: len(work.at) == 3, "they do not come")  # unless told, they come once an hour
    assert work.at[1] - work.at[0] >= 0.05


async def test_rounds_that_are_woken_are_apart(start: Callable[..., Rounds]) -> None:
    work = Work()
    rounds = start(work, apart=0.05)
    await eventually(lambda: len(work.at) == 1, "no first round")
    for _ in range(100):
        rounds.wake()
    await eventually(lambda: len(work.at) == 2, "no second round")
    assert work.at[1] - work.at[0] >= 0.05


async def test_an_outage_is_said_once_and_so_is_its_end(
    start: Callable[..., Rounds], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "pipeline.jobs")
    work = Work(*(Unavailable("database", "away") for _ in range(2)))
    start(work)
    await eventually(lambda: len(work.at) == 3, "it does not go on")
    await eventually(lambda: "goes on" in caplog.messages[-1], "it does not say so")
    assert caplog.messages == [
        "the work: database is unavailable: away; it goes on when this is over", "the work: goes on",
    ]  # fmt: skip


async def test_an_outage_that_others_tell_of_is_not_told_of_again(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "pipeline.jobs")
    work = Work(Unavailable("database", "away"))
    rounds = Rounds("the work", work, every=3600, silent=("database",))
    rounds.start()
    await eventually(lambda: len(work.at) == 2, "it does not go on")
    await rounds.stop()
    assert caplog.messages == []


async def test_a_bug_is_shown_whole_and_the_next_round_comes(
    start: Callable[..., Rounds], caplog: pytest.LogCaptureFixture
) -> None:
    work = Work(KeyError("oops"))
    start(work)
    await eventually(lambda: len(work.at) == 2, "it does not go on")
    assert "the work failed" in caplog.text
    assert "KeyError: 'oops'" in caplog.text


async def test_stopping_lets_a_round_come_to_its_end() -> None:
    began, ended = asyncio.Event(), asyncio.Event()

    async def work() -> None:
        began.set()
        await asyncio.sleep(0.05)
        ended.set()

    rounds = Rounds("the work", work, every=3600)
    rounds.start()
    await began.wait()
    await rounds.stop()
    assert ended.is_set()
