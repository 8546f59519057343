"""The journal: every message has a row for its outcome, whatever it is and however it came to it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from pipeline.config.limits import Limits
from pipeline.connectors import Message
from pipeline.errors import Reject, Skip
from pipeline.events import Event
from pipeline.handlers import Context
from pipeline.ledger.tables import OutcomeRow
from tests.pipeline.dispatch.harness import Bench, bench, message, route, stage
from tests.pipeline.dispatch.test_redrive import prepare, redrive
from tests.pipeline.ledger.samples import Note

LIMITS = Limits(event=200, nesting=3, headers=1, header_bytes=50)
REFUSED = [
    message(0, b"no json"),
    message(1, b"[]"),
    message(2, {"too big": "x" * 300}),
    message(3, {"a": {"b": {"c": {}}}}),
    message(4, b'{"a": 1, "a": 2}'),
    message(5, b'{"a": 123456789012345678901234567890}'),
    message(6, headers={"a": 1, "b": 2}),
    message(7, headers={"a": "x" * 100}),
    message(8, key="k" * 300),
    Message(9, 1, b"", None, None, defect="a block that can't be read"),
]


async def journal(pipe: Bench) -> list[tuple[int, str, str, str]]:
    rows = await pipe.database.fetch(OutcomeRow, select(OutcomeRow).order_by(OutcomeRow.id))  # type: ignore[arg-type]
    return [(row.offset, row.route, str(row.outcome), row.reason) for row in rows]


async def handle(event: Event[Any], context: Context) -> None:
    match event.data.get("do"):
        case "reject":
            raise Reject("no")
        case "skip":
            raise Skip("not ours")
        case "spoil":
            context.add(Note(number=2**70))


async def nothing(event: Event[Any], context: Context) -> None:
    """Takes any event."""


async def test_what_is_refused_before_any_route_is_in_it_with_the_reason_of_its_dead_letter(tmp_path: Path) -> None:
    async with bench(tmp_path, [stage("x", handle)], journal=True, limits=LIMITS) as pipe:
        await pipe.feed(*REFUSED)
        await pipe.settle(len(REFUSED))
        assert pipe.outcomes == {"dead": len(REFUSED)}
        letters = [(letter.offset, "", "dead", letter.reason) for letter in await pipe.dead()]
        assert await journal(pipe) == letters
        assert len(letters) == len(REFUSED)


async def test_each_route_of_a_message_is_in_it_and_a_message_without_one_too(tmp_path: Path) -> None:
    routes = [route(["x"], name="one", match="a.#"), route(["y"], name="two", match="a.*")]
    stages = [stage("x", handle), stage("y", nothing)]
    async with bench(tmp_path, stages, routes, journal=True, dedupe=60) as pipe:
        await prepare(pipe)
        kinds = ["handle", "reject", "skip", "spoil"]
        await pipe.feed(*(message(offset, {"do": kind}, id=kind) for offset, kind in enumerate(kinds)))
        await pipe.feed(message(4, id="handle"), message(5, key="other"))
        await pipe.settle(6)
        told = sorted((offset, name, outcome) for offset, name, outcome, _ in await journal(pipe))
        assert told == [
            (0, "one", "handled"), (0, "two", "handled"), (1, "one", "dead"), (1, "two", "handled"),
            (2, "one", "filtered"), (2, "two", "handled"), (3, "one", "dead"), (3, "two", "dead"),
            (4, "", "duplicate"), (5, "", "filtered"),
        ]  # fmt: skip


async def test_each_redrive_is_in_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.dispatch.redrive._LOOK_SECONDS", 0.01)
    spoils = False

    async def once(event: Event[Any], context: Context) -> None:
        if not spoils:
            raise Reject("no")
        context.add(Note(number=2**70))

    async with bench(tmp_path, [stage("x", once)], journal=True) as pipe:
        await prepare(pipe)
        await pipe.feed(message(0, b"no json"), message(1))
        await pipe.settle(2)
        await redrive(pipe, force=True)
        spoils = True
        await redrive(pipe, force=True)
        told = [(offset, name, outcome) for offset, name, outcome, _ in await journal(pipe)]
        assert sorted(told) == [(0, "", "dead")] * 3 + [(1, "#", "dead")] * 3
