"""A dead letter says where in the handler's code it failed; what failed there is one group, whatever it said."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from pipeline.config.models import Policy, RetryPolicy
from pipeline.errors import Reject, Retry
from pipeline.events import Event
from pipeline.handlers import Context, Delivery
from pipeline.ledger.dead_letters import DeadLetters
from tests.pipeline.dispatch.harness import QUICK, batch_stage, bench, message, route, stage
from tests.pipeline.dispatch.test_redrive import settled

HERE = "tests/pipeline/dispatch/test_places.py"
NAMES = ("acme", "bolt", "corp")


def check_customer(event: Event[Any]) -> None:
    raise ValueError(f"no such customer {event.data['name']}")


def check_stock(event: Event[Any]) -> None:
    raise ValueError(f"no such customer {event.data['name']}")


async def unexpected(event: Event[Any], context: Context) -> None:
    (check_customer if event.offset < 3 else check_stock)(event)


async def test_the_log_shows_the_handlers_frames_and_none_of_the_engines(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with bench(tmp_path, [stage("x", unexpected)]) as pipe:
        await pipe.feed(message(0, {"name": "acme"}))
        await pipe.settle(1)
    assert caplog.text.count("in check_customer") == 3  # of each try
    engine = ("stage_queue.py", "timeout.py", "middleware.py")
    assert not [name for name in engine if f'{name}", line' in caplog.text]


async def test_what_one_function_raises_is_one_group_and_what_another_does_is_another(tmp_path: Path) -> None:
    async with bench(tmp_path, [stage("x", unexpected)]) as pipe:
        await pipe.feed(*(message(n, {"name": name}) for n, name in enumerate((*NAMES, "acme"))))
        await pipe.settle(4)
        letters = await pipe.dead()
        groups = await DeadLetters(pipe.database).groups()
    assert [(group.count, group.place) for group in groups] == [
        (3, f"{HERE}:check_customer"), (1, f"{HERE}:check_stock"),
    ]  # fmt: skip
    assert groups[0].reason == "no such customer …"
    assert letters[0].traceback is not None
    assert letters[0].traceback.endswith("ValueError: no such customer acme")
    assert "stage_queue.py" not in letters[0].traceback


@pytest.mark.parametrize("error", [Reject, Retry])
async def test_what_is_raised_on_purpose_is_grouped_by_what_it_says(tmp_path: Path, error: type[Exception]) -> None:
    async def handle(event: Event[Any], context: Context) -> None:
        raise error(("no stock of 17", "no stock of 4", "too late")[event.offset])

    policy = Policy(retry=RetryPolicy(attempts=2, backoff=0.01, jitter=0))
    async with bench(tmp_path, [stage("x", handle, policy)]) as pipe:
        await pipe.feed(*(message(n) for n in range(3)))
        await pipe.settle(3)
        groups = await DeadLetters(pipe.database).groups()
        letters = await pipe.dead()
    assert sorted((group.count, group.reason) for group in groups) == [(1, "too late"), (2, "no stock of …")]
    assert {(letter.place or "").rpartition(".")[2] for letter in letters} == {"handle"}
    assert {letter.traceback for letter in letters} == {None}


async def test_of_a_batch_each_event_has_the_place_at_which_it_failed_alone(tmp_path: Path) -> None:
    async def handle_batch(batch: Sequence[Delivery]) -> list[BaseException | None] | None:
        if any(event.offset == 3 for event, _ in batch):
            return [Reject("made, and never raised") for _ in batch]
        for event, _ in batch:
            if event.offset:
                check_customer(event)
        return None

    async with bench(tmp_path, [batch_stage("x", handle_batch)]) as pipe:
        await pipe.feed(*(message(n, {"name": f"n{n}"}) for n in range(3)))
        await pipe.settle(3)
        await pipe.feed(message(3))
        await pipe.settle(4)
        letters = await pipe.dead()
    place = f"{HERE}:check_customer"
    assert [(letter.offset, letter.place) for letter in letters] == [(1, place), (2, place), (3, None)]
    assert letters[0].fingerprint == letters[1].fingerprint


async def test_a_time_out_and_a_finally_stage_have_their_places_and_what_can_not_be_read_has_none(
    tmp_path: Path,
) -> None:
    async def good(event: Event[Any], context: Context) -> None:
        if event.offset == 1:
            await wait_for_an_answer()

    async def wait_for_an_answer() -> None:
        await asyncio.Event().wait()

    policy = QUICK.model_copy(update={"timeout": 0.05, "retry": RetryPolicy(attempts=1)})
    stages = [stage("x", good, policy), stage("last", unexpected)]
    async with bench(tmp_path, stages, [route(["x"], ["last"])]) as pipe:
        await pipe.feed(message(0, {"name": "a"}), message(1, {"name": "b"}), message(2, b"\xff"))
        await pipe.settle(3)
        letters = await pipe.dead()
    assert [(letter.stage, letter.kind, (letter.place or "").rpartition(".")[2]) for letter in letters] == [
        ("last", "ValueError", "py:check_customer"), ("x", "TimeoutError", "wait_for_an_answer"),
        ("", "undecodable", ""),
    ]  # fmt: skip


async def test_a_redrive_that_fails_elsewhere_says_where_it_failed_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pipeline.dispatch.redrive._LOOK_SECONDS", 0.01)
    now: list[Any] = [check_customer]

    async def handle(event: Event[Any], context: Context) -> None:
        if now:
            now[0](event)
        raise Reject("no")

    async with bench(tmp_path, [stage("x", handle)]) as pipe:
        await pipe.feed(message(0, {"name": "a"}))
        await pipe.settle(1)
        seen = []
        for number in range(3):
            (letter,) = await settled(pipe, lambda found: found[0].redrives == number and found[0].state == "open")  # noqa: B023
            seen.append(((letter.place or "").rpartition(":")[2], letter.traceback is None, letter.fingerprint))
            now[:] = [check_stock] if number == 0 else []
            await DeadLetters(pipe.database).redrive(by="ann", reason="mended", force=True)
    assert [place.rpartition(".")[2] for place, _, _ in seen] == ["check_customer", "check_stock", "handle"]
    assert [without for _, without, _ in seen] == [False, False, True]
    assert len({group for _, _, group in seen}) == 3
