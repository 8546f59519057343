"""Values in visibility queries: always one literal, or none at all."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline import Reject
from pipeline.expressions import ExpressionError
from pipeline_handlers.workflow_control.queries import QueryTemplate
from tests.handlers.harness import make_event


def rendered(text: str, **data: Any) -> str:
    return QueryTemplate(text).render(make_event("a.b", data).variables())


@pytest.mark.parametrize(
    ("text", "value", "query"),
    [
        ("A = '{{ data.x }}'", "bom-1", "A = 'bom-1'"),
        ('A = "{{ data.x }}"', "bom-1", 'A = "bom-1"'),
        ("A = {{ data.x }}", "bom-1", "A = 'bom-1'"),
        ("A = '{{ data.x }}'", 7, "A = '7'"),
        ("A = {{ data.x }}", 7, "A = 7"),
        ("A > {{ data.x }}", 7.5, "A > 7.5"),
        ("A = {{ data.x }}", True, "A = true"),
        ("A = 'it''s' AND B = {{ data.x }}", "b", "A = 'it''s' AND B = 'b'"),
        (r"A = 'it\'s {{ data.x }}'", "b", r"A = 'it\'s b'"),
        ("`A` STARTS_WITH '{{ data.x }}.'", "b", "`A` STARTS_WITH 'b.'"),
        ("A = 'b'", None, "A = 'b'"),
    ],
)
def test_a_value_becomes_a_literal(text: str, value: Any, query: str) -> None:
    assert rendered(text, x=value) == query


@pytest.mark.parametrize(
    "value",
    ["' OR 1 = 1 --", 'a" OR "', "a`b", "a\\", "\\' OR", "a\nb", "a\0b", "", None, ["a"], {"a": 1}, float("inf")],
)
@pytest.mark.parametrize("text", ["A = '{{ data.x }}'", 'A = "{{ data.x }}"', "A = {{ data.x }}"])
def test_a_value_that_could_be_more_than_a_value_is_rejected(text: str, value: Any) -> None:
    with pytest.raises(Reject) as caught:
        rendered(text, x=value)
    assert caught.value.kind == "invalid_data"
    assert "data.x" in str(caught.value)


def test_a_value_that_the_event_lacks_is_rejected() -> None:
    with pytest.raises(Reject, match=r"no query: data\.x: there is no field 'x'"):
        rendered("A = '{{ data.x }}'")


@given(st.text(max_size=20))
def test_whatever_the_value_the_query_has_the_literal_or_is_rejected(value: str) -> None:
    try:
        query = rendered("A = '{{ data.x }}' AND B = {{ data.x }} AND C = 1", x=value)
    except Reject:
        return
    assert query == f"A = '{value}' AND B = '{value}' AND C = 1"
    assert query.count("'") == 4
    assert "\\" not in query


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("A = '{{ data.x }}", "the quote ' is not closed"),
        ("A = {{ data.x }", "do not pair"),
        ("`{{ data.x }}` = 'a'", "can't be filled in"),
        ("A = '{{ dat.x }}'", "unknown name"),
        ("  ", "the query is empty"),
    ],
)
def test_a_wrong_template_is_refused_when_it_is_read(text: str, fault: str) -> None:
    with pytest.raises(ExpressionError, match=fault):
        QueryTemplate(text)
