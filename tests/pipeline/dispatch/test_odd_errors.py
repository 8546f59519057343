"""Errors that the engine can't act on as they are: each ends its event's try, and never the source."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from pipeline.config.models import Policy, RetryPolicy
from pipeline.errors import Reject, Retry, Throttled, Unavailable
from pipeline.events import Event
from pipeline.handlers import Context, Delivery
from pipeline.jobs.contract import NewJob
from tests.pipeline.dispatch.harness import batch_stage, bench, eventually, message, route, stage

ONCE_MORE = Policy(timeout=5, retry=RetryPolicy(attempts=2, backoff=0.01, max_backoff=0.01, jitter=0))


class Wordless(Exception):
    """Its text can't be made."""

    def __str__(self) -> str:
        raise RuntimeError("no text")


class Panic(BaseException):
    """As extension modules raise it: no `Exception`."""


class Missing(Reject):
    """A handler's own, which does not call what it inherits."""

    def __init__(self, entity: str) -> None:
        self.entity = entity


class Later(Retry):
    """Likewise."""

    def __init__(self, minutes: int) -> None:
        self.minutes = minutes


class Down(Unavailable):
    """Likewise."""

    def __init__(self) -> None:
        self.since = 0


ODD: dict[str, tuple[Callable[[], BaseException], str]] = {
    "a header's text as the wait": (lambda: Retry("busy", after="30"), "TypeError"),  # type: ignore[arg-type]
    "a timedelta as the wait": (lambda: Retry("busy", after=timedelta(0)), "TypeError"),  # type: ignore[arg-type]
    "no number as the wait": (lambda: Retry("busy", after=float("nan")), "ValueError"),
    "a wait without end": (lambda: Retry("busy", after=float("inf")), "ValueError"),
    "a decimal as the wait": (lambda: Retry("busy", after=Decimal("0.01")), "Retry"),  # type: ignore[arg-type]
    "a text as the wait for a turn": (lambda: Throttled("busy", "1"), "TypeError"),  # type: ignore[arg-type]
    "a status as the kind": (lambda: Reject("gone", kind=404), "404"),  # type: ignore[arg-type]
    "no kind": (lambda: Reject("gone", kind=None), "None"),  # type: ignore[arg-type]
    "a rejection that inherits half": (lambda: Missing("e-1"), "rejected"),
    "another try that inherits half": (lambda: Later(0), "Later"),
    "no text": (Wordless, "RuntimeError"),
    "a panic": (lambda: Panic("at src/lib.rs"), "Panic"),
    "a group of panics": (lambda: BaseExceptionGroup("tasks", [Panic("at src/lib.rs")]), "BaseExceptionGroup"),
}


@pytest.mark.parametrize("in_batches", [False, True])
@pytest.mark.parametrize("name", ODD)
async def test_it_ends_in_a_dead_letter_and_the_next_event_is_handled(
    tmp_path: Path, name: str, in_batches: bool
) -> None:
    make, kind = ODD[name]

    async def handle(event: Event[Any], context: Context) -> None:
        if event.offset == 0:
            raise make()

    async def handle_batch(batch: list[Delivery]) -> None:
        for event, _ in batch:
            if event.offset == 0:
                raise make()

    one = batch_stage("x", handle_batch, ONCE_MORE) if in_batches else stage("x", handle, ONCE_MORE)
    async with bench(tmp_path, [one]) as pipe:
        await pipe.feed(message(0, {"k": 1}), message(1, {"k": 1}))
        await eventually(lambda: bool(pipe.ended) or pipe.stats.processed == 2)
        assert pipe.ended == []
        assert pipe.outcomes == {"dead": 1, "handled": 1}
        assert [letter.kind for letter in await pipe.dead()] == [kind]


@pytest.mark.parametrize("error", [Unavailable(["crm"]), Down()])  # type: ignore[arg-type]
async def test_an_outage_of_what_has_no_name_is_waited_out_like_any_other(tmp_path: Path, error: Unavailable) -> None:
    tries = 0

    async def handle(event: Event[Any], context: Context) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise error

    async with bench(tmp_path, [stage("x", handle, ONCE_MORE)]) as pipe:
        await pipe.feed(message(0))
        await pipe.settle(1)
        assert (pipe.ended, pipe.outcomes) == ([], {"handled": 1})


class Listed(BaseModel):
    """Data of a list."""

    items: list[str]


@pytest.mark.parametrize(("count", "told"), [(1, 1), (30, 20), (100_000, 0)])
async def test_of_data_with_many_faults_the_first_are_told_and_their_number(
    tmp_path: Path, count: int, told: int
) -> None:
    async def handle(event: Event[Any], context: Context) -> None:
        """Takes any event."""

    async with bench(tmp_path, [stage("x", handle, models={"#": Listed})]) as pipe:
        await pipe.feed(message(0, {"items": [1] * count}))
        await pipe.settle(1)
        (letter,) = await pipe.dead()
    assert letter.kind == "invalid_data"
    assert letter.reason.count("Input should be a valid string") == told
    assert len(letter.reason) < 2_000
    assert told == count or f"{count - told}" in letter.reason


async def test_a_reason_is_kept_as_far_as_anybody_reads(tmp_path: Path) -> None:
    async def handle(event: Event[Any], context: Context) -> None:
        raise Reject("x" * 1_000_000)

    async with bench(tmp_path, [stage("x", handle)]) as pipe:
        await pipe.feed(message(0))
        await pipe.settle(1)
        (letter,) = await pipe.dead()
        assert letter.reason.startswith("xxx")
        assert letter.reason.endswith("… (1000000 characters)")
        assert len(letter.reason) < 11_000
        assert len(pipe.stats.last_error or "") == 1_000  # it is written each second


async def test_a_job_whose_payload_is_no_mapping_fails_the_try_that_leaves_it(tmp_path: Path) -> None:
    async def handle(event: Event[Any], context: Context) -> None:
        context.enqueue(NewJob("j-1", "later", payload=None))  # type: ignore[arg-type]

    async with bench(tmp_path, [stage("x", handle, ONCE_MORE)]) as pipe:
        await pipe.feed(message(0))
        await eventually(lambda: bool(pipe.ended) or pipe.stats.processed == 1)
        assert pipe.ended == []
        assert "the payload of the job 'j-1' is a NoneType" in (await pipe.dead())[0].reason


async def test_a_message_of_a_time_that_no_calendar_has_is_an_event_like_any_other(tmp_path: Path) -> None:
    seen: list[int] = []

    async def handle(event: Event[Any], context: Context) -> None:
        seen.append(event.time.year)

    odd = [message(0), message(1), message(2)]
    odd[1].timestamp, odd[2].timestamp = 2**62, -(2**62)
    async with bench(tmp_path, [stage("x", handle)], [route(["x"], when="routing_key == 'a.b'")]) as pipe:
        await pipe.feed(*odd)
        await pipe.settle(3)
        assert seen == [1970, 1970, 1970]
        assert pipe.outcomes == {"handled": 3}
