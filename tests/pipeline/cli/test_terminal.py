"""What a terminal gets beyond what a pipe gets: colours, fitted tables, a progress bar."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import pytest

from tests.pipeline.cli.support import HELLO, Terminal, run, write

pytestmark = pytest.mark.slow  # each starts processes

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def shown(*arguments: str) -> tuple[int, str]:
    with closing(Terminal(*arguments)) as terminal:
        return terminal.ends(), terminal.shown


def test_a_long_file_gets_a_progress_bar_and_a_short_one_none() -> None:
    write(HELLO)
    Path("short.jsonl").write_text('{"n": 1}\n')
    Path("long.jsonl").write_text('{"n": 1, "pad": "some words to fill the line"}\n' * 3_000)
    assert "publishing" not in shown("publish", "hello.a", "-f", "short.jsonl")[1]
    code, text = shown("publish", "hello.a", "-f", "long.jsonl")
    assert code == 0
    assert "publishing" in text
    assert "published 3,000 events to events" in text


def test_a_table_is_fitted_to_the_terminal_and_nothing_is_cut() -> None:
    code, text = shown("plugins")
    lines = COLOUR.sub("", text).splitlines()
    assert code == 0
    assert all(len(line) <= 60 for line in lines)
    assert "…" not in text


def test_help_is_drawn_for_a_terminal_only() -> None:
    assert "╭" in shown("--help")[1]
    assert "╭" not in run("--help").out


def test_what_a_pipe_gets_has_no_colours() -> None:
    write(HELLO)
    assert COLOUR.search(shown("routes", "hello.a")[1])
    assert "\x1b" not in run("routes", "hello.a").out
