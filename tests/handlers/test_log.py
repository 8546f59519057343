"""What log promises: one line an event, whatever is in it, and what became of it in a finally stage."""

from __future__ import annotations

import io
import json
import logging
import sys
from typing import Any

import pytest

from pipeline import Delivery, Outcome, Reject
from pipeline_handlers.log import LogHandler
from tests.handlers.harness import deliver, hand, make_event, reference_event, started


async def printed(capsys: pytest.CaptureFixture[str], *deliveries: Delivery, **options: Any) -> str:
    async with started(LogHandler, options) as handler:
        await hand(handler, *deliveries)
    return capsys.readouterr().out


async def test_an_event_is_printed_on_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    event = make_event("admin.workflow.paused", {"workflow_id": "w", "n": [1, 2]}, id="e1")
    assert await printed(capsys, deliver(event)) == (
        '2025-12-16T19:45:00.000Z admin.workflow.paused id=e1 {"workflow_id":"w","n":[1,2]}\n'
    )


async def test_a_batch_is_printed_in_order(capsys: pytest.CaptureFixture[str]) -> None:
    lines = (await printed(capsys, *(deliver(make_event("k", {}, id=str(n))) for n in range(3)))).splitlines()
    assert [line.split()[2] for line in lines] == ["id=0", "id=1", "id=2"]


async def test_a_finally_stage_shows_what_became_of_the_event(capsys: pytest.CaptureFixture[str]) -> None:
    dead = deliver(make_event("k", {}), Outcome.DEAD, Reject("no workflow id"))
    assert (await printed(capsys, dead)).endswith(" {} -> dead: no workflow id\n")
    handled = deliver(make_event("k", {}), Outcome.HANDLED)
    assert (await printed(capsys, handled)).endswith(" {} -> handled\n")


async def test_control_characters_neither_break_the_line_nor_steer_the_terminal(
    capsys: pytest.CaptureFixture[str],
) -> None:
    event = make_event("a\nb\x1b[2J", {"text": "x\ny\x1b"}, id="")
    out = await printed(capsys, deliver(event, Outcome.DEAD, Reject("two\nlines")))
    assert out.count("\n") == 1
    assert "\x1b" not in out


async def test_json_lines_are_json(capsys: pytest.CaptureFixture[str]) -> None:
    out = await printed(capsys, deliver(reference_event(), Outcome.DEAD, Reject("gone")), format="json")
    found = json.loads(out)
    assert (found["routing_key"], found["id"], found["source"]) == ("admin.workflow.paused", "event-1", "admin")
    assert found["data"]["workflow_id"] == "bom-enrichment-uuid-12345"
    assert (found["time"], found["outcome"], found["error"]) == ("2025-12-16T19:45:00Z", "dead", "gone")


async def test_numbers_beyond_64_bits_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert str(2**70) in await printed(capsys, deliver(make_event("k", {"n": 2**70})))


async def test_a_prefix_begins_each_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert (await printed(capsys, deliver(make_event("k", {})), prefix="audit: ")).startswith("audit: 2025-")


async def test_with_a_level_the_lines_go_to_the_log(
    capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        assert await printed(capsys, deliver(make_event("k", {"a": "100%"})), level="warning") == ""
    [record] = caplog.records
    assert (record.levelname, record.getMessage().endswith('{"a":"100%"}')) == ("WARNING", True)


async def test_an_output_that_nobody_reads_fails_no_event(monkeypatch: pytest.MonkeyPatch) -> None:
    class Closed(io.StringIO):
        def write(self, text: str) -> int:
            raise BrokenPipeError

    monkeypatch.setattr(sys, "stdout", Closed())
    async with started(LogHandler) as handler:
        assert await hand(handler, deliver(make_event("k", {}))) == [None]
