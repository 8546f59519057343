"""Log lines: readable for people, whole for programs, and harmless for terminals."""

from __future__ import annotations

import io
import json
import logging
import re
import warnings
from collections.abc import Iterator
from typing import Any

import pytest

from pipeline.logs import JsonFormatter, TextFormatter, configure, level_for


@pytest.fixture(autouse=True)
def untouched() -> Iterator[None]:
    """Logging as it was before the test."""
    root, own = logging.getLogger(), logging.getLogger("pipeline")
    before = root.handlers[:], root.level, own.level
    yield
    root.handlers[:], root.level, own.level = before
    logging.captureWarnings(capture=False)


def logged(verbosity: int = 0, **options: Any) -> io.StringIO:
    out = io.StringIO()
    configure(verbosity, stream=out, **options)
    return out


def record(message: str, *arguments: object, level: int = logging.INFO, **extra: Any) -> logging.LogRecord:
    made = logging.LogRecord("pipeline.x", level, "file", 1, message, arguments, None)
    vars(made).update(extra)
    return made


def test_a_line_has_time_level_and_message() -> None:
    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3} INFO    3 left", TextFormatter().format(record("%d left", 3)))


def test_a_message_stays_on_its_line_and_cannot_steer_the_terminal() -> None:
    line = TextFormatter().format(record("%s", "a\nb\x1b[2Jc\x9bd\r"))
    assert line.endswith("a\\nb\\x1b[2Jc\\x9bd\\x0d")


def test_a_traceback_follows_on_lines_of_its_own() -> None:
    out = logged()
    try:
        raise ValueError("bad \x1b[2J")
    except ValueError:
        logging.getLogger("pipeline.x").exception("it failed")
    lines = out.getvalue().splitlines()
    assert lines[0].endswith("ERROR   it failed")
    assert lines[1] == "Traceback (most recent call last):"
    assert lines[-1] == "ValueError: bad \\x1b[2J"


def test_colours_mark_warnings_only_where_they_are_wanted() -> None:
    warning = record("careful", level=logging.WARNING)
    assert "\x1b[33m" in TextFormatter(colours=True).format(warning)
    assert "\x1b" not in TextFormatter().format(warning)
    assert "\x1b" not in TextFormatter(colours=True).format(record("all is well"))


def test_json_lines_hold_the_extra_fields_and_the_error() -> None:
    out = logged(format="json")
    try:
        raise ValueError("bad")
    except ValueError:
        logging.getLogger("pipeline.x").exception("it failed:\n%s", "é", extra={"messages_failed": 2})
    (line,) = out.getvalue().splitlines()
    fields = json.loads(line)
    assert fields.pop("error").endswith("ValueError: bad")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", fields.pop("time"))
    assert fields == {"level": "error", "logger": "pipeline.x", "message": "it failed:\né", "messages_failed": 2}


def test_an_extra_field_that_is_no_json_is_written_as_text() -> None:
    assert json.loads(JsonFormatter().format(record("x", place=io)))["place"].startswith("<module 'io'")


@pytest.mark.parametrize(
    ("verbosity", "own", "others"),
    [
        (2, "debug info warning error", "debug info warning error"),
        (1, "debug info warning error", "warning error"),
        (0, "info warning error", "warning error"),
        (-1, "warning error", "warning error"),
        (-2, "error", "error"),
    ],
)
def test_verbosity_chooses_what_is_heard(verbosity: int, own: str, others: str) -> None:
    out = logged(verbosity, format="json")
    for level in ("debug", "info", "warning", "error"):
        for name in ("pipeline.x", "library"):
            getattr(logging.getLogger(name), level)("x")
    lines = [json.loads(line) for line in out.getvalue().splitlines()]
    heard = {name: [line["level"] for line in lines if line["logger"] == name] for name in ("pipeline.x", "library")}
    assert heard == {"pipeline.x": own.split(), "library": others.split()}


def test_verbose_lines_name_their_logger() -> None:
    out = logged(1)
    logging.getLogger("pipeline.x").info("here")
    assert out.getvalue().endswith("INFO    pipeline.x: here\n")


def test_set_up_twice_prints_once() -> None:
    logged()
    out = logged()
    logging.getLogger("pipeline.x").info("once")
    assert out.getvalue().count("once") == 1


def test_warnings_become_log_lines() -> None:
    out = logged()
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        configure(stream=out)
        warnings.warn("old thing", DeprecationWarning, stacklevel=1)
    assert "old thing" in out.getvalue()


def test_levels_beyond_the_ends_are_those_of_the_ends() -> None:
    assert (level_for(9), level_for(-9)) == (logging.DEBUG, logging.ERROR)
