"""Tables on narrow terminals: words stay whole, what matters least is left out, only long texts fold."""

from __future__ import annotations

import io
from typing import Any

import pytest
from rich.console import Console

from pipeline.cli import console as printing
from pipeline.cli.fitting import GAP, fit

HEADERS = ("id", "last_at", "source", "route", "stage", "kind", "reason")
REASON = "no answer within 10 s from temporal at 127.0.0.1:7233, and none in eight tries before"
ROW = ("17", "2026-11-22T07:00:00Z", "admin", "admin.workflow.*", "workflow-control", "TimeoutError", REASON)
LEAST = ("source", "route", "last_at")


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch) -> Any:
    def show(width: int) -> list[str]:
        text = io.StringIO()
        monkeypatch.setattr(printing, "terminal", lambda: Console(file=text, width=width, highlight=False))
        printing.show_table(HEADERS, [ROW], fold=("reason",), drop=LEAST)
        return text.getvalue().splitlines()

    return show


@pytest.mark.parametrize("width", [60, 80, 120])
def test_short_columns_stay_whole_and_only_the_reason_folds(shown: Any, width: int) -> None:
    lines = shown(width)
    assert all(len(line) <= width for line in lines)
    for word in ("17", "workflow-control", "TimeoutError"):
        assert word in lines[2]
    start = lines[0].index("reason")
    assert " ".join(line[start:].strip() for line in lines[2:] if line.startswith(" ") or line is lines[2]) == REASON


def test_what_matters_least_is_left_out_first_and_told_of(shown: Any) -> None:
    assert shown(200)[-1].endswith("before")
    assert shown(80)[-1] == "not shown, as the terminal is narrow: last_at, source"
    assert "last_at" in shown(90)[0]
    told = " ".join(shown(60)[-2:])
    assert told.endswith("last_at, source, route")


def test_where_nothing_may_be_left_out_the_widest_columns_share_the_room() -> None:
    widths = fit([4, 50, 60], 40, fold=[2])
    assert widths[0] == 4
    assert sum(widths.values()) + 2 * GAP <= 40
    assert abs(widths[1] - widths[2]) <= 1
