"""Every key and value of a valid TOML text is found, at its line."""

from __future__ import annotations

import tomllib
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.positions import Path, scan

TEXT = """\
# a comment with = and [brackets]
title = "a # no comment"

[pipeline]   # [not.a.table]
name = 'x'
handlers = [
  "a",   # "b", ]
  "c", "d",
]
dotted.key."with.dots".'and more' = { inline = 1, b.c = [1, { d = "}" }] }

[[route]]
match = ["a.*",
  "b.#"]

[route.sub]
x = 1

[[route]]
text = \"\"\"
several = "lines"
[[route]]\\\"\"\" \"\"\"
literal = '''
x = 1 '' ''' # done
after = 1979-05-27 07:32:00Z

[[stage.audit.row]]
action = "1"
[[stage.audit.row]]
action = "2"
"""

PLACES: dict[Path, int] = {
    ("title",): 2,
    ("pipeline",): 4,
    ("pipeline", "name"): 5,
    ("pipeline", "handlers"): 6,
    ("pipeline", "handlers", 0): 7,
    ("pipeline", "handlers", 1): 8,
    ("pipeline", "handlers", 2): 8,
    ("pipeline", "dotted", "key", "with.dots", "and more", "inline"): 10,
    ("pipeline", "dotted", "key", "with.dots", "and more", "b", "c", 1, "d"): 10,
    ("route", 0): 12,
    ("route", 0, "match", 1): 14,
    ("route", 0, "sub"): 16,
    ("route", 0, "sub", "x"): 17,
    ("route", 1): 19,
    ("route", 1, "text"): 20,
    ("route", 1, "literal"): 23,
    ("route", 1, "after"): 25,
    ("stage", "audit", "row", 0, "action"): 28,
    ("stage", "audit", "row", 1): 29,
    ("stage", "audit", "row", 1, "action"): 30,
}


@pytest.mark.parametrize(("path", "line"), PLACES.items())
@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_key_is_found_at_its_line(path: Path, line: int, ends: str) -> None:
    assert scan(TEXT.replace("\n", ends)).lines[path] == line


def test_what_is_not_there_is_placed_where_it_would_stand() -> None:
    positions = scan(TEXT)
    assert positions.line(("route", 1, "stages", 3)) == 19
    assert positions.line(("route",)) == 12
    assert positions.line(("nothing",)) is None


def paths(value: Any, path: Path = ()) -> Iterator[Path]:
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from paths(item, (*path, key))


def test_every_path_of_the_document_is_known_and_no_other() -> None:
    assert set(scan(TEXT).lines) == set(paths(tomllib.loads(TEXT)))


KEY = st.sampled_from(["a", "b-1", "'c.d'", '"e \\u0041"', "f . g", '"]"', "a.b"])
SCALAR = st.sampled_from([
    "1", "-1.5e3", "true", "inf", "1979-05-27T07:32:00Z", "07:32:00", '"x # ]"', "'{ , '", '"""a\n"b"\n"""', "''''x'''",
    '"\\""', "'''\n]\n'''", '""""two"""""', "0x1F",
])  # fmt: skip
VALUE = st.recursive(
    SCALAR,
    lambda inner: (
        st.lists(inner, max_size=3).map(lambda items: "[ " + ", # ,]\n  ".join(items) + "\n]")
        | st.lists(st.tuples(KEY, inner), max_size=3).map(
            lambda pairs: "{" + ", ".join(f"{k}={v}" for k, v in pairs) + "}"
        )
    ),
    max_leaves=6,
)
LINE = (
    st.tuples(KEY, VALUE).map(lambda pair: f"{pair[0]} = {pair[1]} # = [x]")
    | KEY.map(lambda key: f"[{key}]")
    | KEY.map(lambda key: f" [[ {key} ]] # x")
    | KEY.map(lambda key: f"[x.{key}]")
    | KEY.map(lambda key: f"[[x.{key}]]")
)


@given(st.lists(LINE, max_size=8).map("\n".join))
@pytest.mark.slow
@settings(max_examples=400, deadline=None)
def test_any_valid_text_is_scanned_as_the_parser_reads_it(text: str) -> None:
    try:
        parsed = tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        return
    assert set(scan(text).lines) == set(paths(parsed))
