"""Whatever a file says, loading it gives a configuration or problems with their places, never another error."""

from __future__ import annotations

import copy
import tomllib
from datetime import UTC, datetime, time
from pathlib import Path
from typing import Any

import pytest
import tomlkit
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.load import load
from pipeline.errors import ConfigError, Problem
from tests.pipeline.config.fakes import CATALOG
from tests.pipeline.config.test_load import FULL

SCALARS = st.sampled_from([
    0, 5, -1, 10**30, 1.5, True, False, "", "x", "log", "admin", "control", "${X", "${NOPE}", "a.*", "data.x", "1 +", "memory://",
    "rabbit://h", "10s", datetime(2026, 1, 1, tzinfo=UTC), time(1, 2), "é\0", "a" * 300,
])  # fmt: skip
NODES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["a", "use", "match", "policy", "row", "a.b"]), inner, max_size=2)
    ),
    max_leaves=4,
)


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path] * bool(path) + [place for key, item in items for place in places(item, (*path, key))]


PLACES = places(tomllib.loads(FULL))


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("any") / "pipeline.toml"


@given(st.lists(st.tuples(st.sampled_from(PLACES), st.none() | NODES), min_size=1, max_size=3), st.booleans())
@pytest.mark.slow
@settings(max_examples=150, deadline=None)
def test_any_file_is_loaded_or_refused_with_a_place(
    file: Path, changes: list[tuple[tuple[Any, ...], Any]], with_plugins: bool
) -> None:
    document = copy.deepcopy(tomllib.loads(FULL))
    for place, value in changes:
        replace(document, place, value)
    file.write_text(tomlkit.dumps(document), encoding="utf-8")
    for problem in problems_of(file, with_plugins):
        assert problem.message
        assert "\n" not in problem.message
        assert problem.line or not problem.path.startswith(("route[", "stage.", "source."))


def problems_of(file: Path, with_plugins: bool) -> tuple[Problem, ...]:
    try:
        load(file, {}, CATALOG if with_plugins else None)
    except ConfigError as error:
        return error.problems
    return ()


def replace(value: Any, place: tuple[Any, ...], new: Any) -> None:
    """Put another value there, or take it away; where the way has gone already, nothing happens."""
    *way, last = place
    try:
        for key in way:
            value = value[key]
        if isinstance(value, dict) is not isinstance(last, str):
            return
        if new is None:
            del value[last]
        else:
            value[last] = copy.deepcopy(new)
    except (KeyError, IndexError, TypeError):
        return
