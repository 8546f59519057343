"""What the guide's and the configuration's tables say of patterns and expressions is so."""

from __future__ import annotations

import json
import re
from typing import Any

from pipeline import Event
from pipeline.expressions import compile_expression
from pipeline.topics import matches
from tests.docs.blocks import ROOT, blocks, section

GUIDE = ROOT / "docs" / "guide.md"
CONFIGURATION = ROOT / "docs" / "configuration.md"


def rows(text: str, title: str) -> list[list[str]]:
    """The rows of the table with this first column."""
    table = re.search(rf"^\| {title} \|.*\n\|[-| ]*\n((?:\|.*\n)+)", text, re.MULTILINE)
    assert table, title
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in table[1].splitlines()]


def keys(cell: str) -> list[str]:
    """The routing keys that a cell names."""
    empty = [""] if "the empty" in cell else []
    return re.findall(r"`([^`]*)`", cell) + empty


def test_patterns_take_what_the_guide_says() -> None:
    table = rows(section(GUIDE, "Patterns"), "pattern")
    assert len(table) > 5
    for row in table:
        pattern = keys(row[0])[0]
        for key in keys(row[1]):
            assert matches(pattern, key), (pattern, key)
        for key in keys(row[2]):
            assert not matches(pattern, key), (pattern, key)
    assert matches("#", "")
    assert not matches("foo*", "foobar")


def example() -> Event:
    """The event that the configuration's expressions are about."""
    text = section(CONFIGURATION, "Expressions")
    data = json.loads(next(block.text for block in blocks("json", page=CONFIGURATION) if block.text in text))
    return Event("id-1", "order.paid", data, {"tenant": "acme"}, timestamp=1)


def test_expressions_give_what_the_configuration_says() -> None:
    table = rows(section(CONFIGURATION, "Expressions"), "expression")
    assert len(table) > 10
    variables = example().variables()
    for expression, gives in table:
        value, reason = compile_expression(expression.strip("`")).value(variables)
        found: Any = f"nothing: {reason}" if reason else json.dumps(value)
        assert found == gives, expression


def test_every_name_that_expressions_know_is_documented() -> None:
    from pipeline.cel import FINALLY, VARIABLES

    names = [keys(row[0])[0] for row in rows(section(CONFIGURATION, "Expressions"), "name")]
    assert names == [*VARIABLES, *FINALLY]
