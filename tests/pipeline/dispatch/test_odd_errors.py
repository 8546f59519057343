"""Whatever a handler raises, its event has an outcome, and its source goes on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel, model_validator

from pipeline.errors import Reject, Retry, Throttled, Unavailable
from pipeline.events import Event
from pipeline.handlers import Context, Delivery
from pipeline.jobs.contract import NewJob
from pipeline.policies.probing import why_down
from tests.pipeline.dispatch.harness import batch_stage, bench, message, route, stage


class Untold(Exception):
    def __str__(self) -> str:
        return self.args[0]  # type: ignore[no-any-return]


class Panic(BaseException):
    """As extensions that are written in Rust raise it."""


class OwnKind(Reject):
    def __init__(self) -> None:
        self.kind: Any = 404


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


class Silent(Unavailable):
    def __str__(self) -> str:
        raise RuntimeError


ODD: dict[str, tuple[Callable[[], BaseException], str]] = {
    "an error whose text fails": (lambda: Untold(404), "Untold"),
    "what is no Exception": (lambda: Panic("at the disco"), "Panic"),
    "a group of such": (lambda: BaseExceptionGroup("both", [Panic(), ValueError()]), "BaseExceptionGroup"),
    "a kind that is a number": (lambda: Reject("gone", kind=410), "410"),  # type: ignore[arg-type]
    "a kind of its own class": (OwnKind, "404"),
    "a wait without end": (lambda: Retry("later", after=float("inf")), "ValueError"),
    "a wait that is a text": (lambda: Retry("later", after="0.01"), "Retry"),  # type: ignore[arg-type]
    "a timedelta as the wait": (lambda: Retry("busy", after=timedelta(0)), "TypeError"),  # type: ignore[arg-type]
    "a rejection that inherits half": (lambda: Missing("e-1"), "rejected"),
    "another try that inherits half": (lambda: Later(0), "Later"),
    "no kind": (lambda: Reject("gone", kind=None), "rejected"),  # type: ignore[arg-type]
    "a reason without end": (lambda: Reject("x" * 1_000_000), "rejected"),
}


@pytest.mark.parametrize("name", ODD)
async def test_an_odd_error_is_a_dead_letter_and_no_end_of_the_source(tmp_path: Path, name: str) -> None:
    make, kind = ODD[name]
    heard: list[str] = []

    async def handle(event: Event[Any], context: Context) -> None:
        if event.offset == 1:
            raise make()

    async def listen(event: Event[Any], context: Context) -> None:
        heard.append(str(context.error))

    stages = [stage("x", handle), stage("last", listen)]
    async with bench(tmp_path, stages, [route(["x"], ["last"])]) as pipe:
        await pipe.feed(message(0), message(1), message(2))
        await pipe.settle(3)
        (letter,) = await pipe.dead()
    assert pipe.ended == []
    assert (letter.offset, letter.kind) == (1, kind)
    assert len(letter.reason) < 11_000
    assert len(heard) == 3


async def test_what_is_no_exception_ends_the_try_of_its_own_event_alone_in_a_batch(tmp_path: Path) -> None:
    async def handle_batch(batch: Sequence[Delivery]) -> None:
        if any(event.offset == 1 for event, _ in batch):
            raise Panic

    async with bench(tmp_path, [batch_stage("x", handle_batch)]) as pipe:
        await pipe.feed(message(0), message(1), message(2))
        await pipe.settle(3)
        assert [(letter.offset, letter.kind) for letter in await pipe.dead()] == [(1, "Panic")]
    assert pipe.ended == []


async def test_a_validator_that_raises_no_exception_kills_its_event_alone(tmp_path: Path) -> None:
    class Brittle(BaseModel):
        k: str = ""

        @model_validator(mode="after")
        def _breaks(self) -> Brittle:
            if self.k == "bad":
                raise Panic
            return self

    async def handle(event: Event[Any], context: Context) -> None: ...

    async with bench(tmp_path, [stage("x", handle, models={"#": Brittle})]) as pipe:
        await pipe.feed(message(0, {"k": "good"}), message(1, {"k": "bad"}))
        await pipe.settle(2)
        assert [(letter.offset, letter.kind) for letter in await pipe.dead()] == [(1, "Panic")]
    assert pipe.ended == []


async def test_a_turn_that_is_told_as_a_text_is_waited_for(tmp_path: Path) -> None:
    seen: list[int] = []

    async def handle(event: Event[Any], context: Context) -> None:
        seen.append(context.attempt)
        if len(seen) == 1:
            raise Throttled("not now", after="0.01")  # type: ignore[arg-type]

    async with bench(tmp_path, [stage("x", handle)]) as pipe:
        await pipe.feed(message(0))
        await pipe.settle(1)
    assert seen == [1, 1]


@pytest.mark.parametrize("error", [Unavailable(["crm"]), Down(), Silent("crm")])  # type: ignore[arg-type]
async def test_an_outage_of_what_has_no_name_is_waited_out_like_any_other(tmp_path: Path, error: Unavailable) -> None:
    tries = 0

    async def handle(event: Event[Any], context: Context) -> None:
        nonlocal tries
        tries += 1
        if tries == 1:
            raise error

    async with bench(tmp_path, [stage("x", handle)]) as pipe:
        await pipe.feed(message(0))
        await pipe.settle(1)
        assert (pipe.ended, pipe.outcomes) == ([], {"handled": 1})


async def test_a_probe_that_fails_with_an_odd_error_tells_of_an_outage() -> None:
    class Resource:
        async def probe(self) -> None:
            raise Untold(404)

    assert "can't be told" in (await why_down(Resource()) or "")


async def test_signs_of_life_tell_the_beginning_of_a_long_error(tmp_path: Path) -> None:
    async def handle(event: Event[Any], context: Context) -> None:
        raise Reject("x" * 1_000_000)

    async with bench(tmp_path, [stage("x", handle)]) as pipe:
        await pipe.feed(message(0))
        await pipe.settle(1)
        assert len(pipe.stats.last_error or "") == 1_000


async def test_a_job_whose_payload_is_no_mapping_fails_the_try_that_leaves_it(tmp_path: Path) -> None:
    async def handle(event: Event[Any], context: Context) -> None:
        context.enqueue(NewJob("j-1", "later", payload=None))  # type: ignore[arg-type]

    async with bench(tmp_path, [stage("x", handle)]) as pipe:
        await pipe.feed(message(0))
        await pipe.settle(1)
        assert pipe.ended == []
        assert "the payload of the job 'j-1' is a NoneType" in (await pipe.dead())[0].reason


async def test_a_time_that_no_calendar_has_is_1970(tmp_path: Path) -> None:
    seen: list[int] = []

    async def handle(event: Event[Any], context: Context) -> None:
        seen.append(event.time.year)

    odd = [message(0), message(1), message(2), message(3)]
    odd[1].timestamp, odd[2].timestamp, odd[3].timestamp = 2**62, -(2**62), 253_402_300_799_999 + 1
    when = "time > timestamp('2026-01-01T00:00:00Z') || true"
    async with bench(tmp_path, [stage("x", handle)], [route(["x"], when=when)]) as pipe:
        await pipe.feed(*odd)
        await pipe.settle(4)
    assert seen == [1970, 1970, 1970, 1970]
