"""Strict JSON: the quick looks at the bytes say the same as a parser that looks at every pair and number."""

from __future__ import annotations

import json
from typing import Any

import orjson
from hypothesis import given, settings
from hypothesis import strategies as st

from pipeline.config.limits import Limits
from pipeline.connectors import Message
from pipeline.dispatch.decode import Decoder, Undecodable
from pipeline.dispatch.strict_json import has_huge_number, nests_deeper, repeats_a_key
from pipeline.ledger.lease import Lease
from pipeline.ledger.units import Progress, SourceKey

DECODER = Decoder("s", "st", Lease(SourceKey("s", "g", "st"), "", 0, 0, Progress(), started=False), Limits(nesting=4))
KEYS = st.sampled_from(["a", "b", "", "a:", 'a"', "{", "\\", "ü", "\0"])
NUMBERS = st.one_of(
    st.integers(-3, 3), st.sampled_from([2**63, 2**64 - 1, 2**64, -(2**63), -(2**63) - 1, 10**19, 10**30]),
    st.sampled_from([1.5, 1e19, -1e300, 12345678901234567890.0, 0.1]),
)  # fmt: skip
TEXTS = st.sampled_from(["", ":", '"', '\\":', "[[[[[", "{}", "99999999999999999999", "\\u003a", "ü", "\0", "x" * 40])
Pairs = tuple[str, Any]
VALUES = st.recursive(
    NUMBERS | TEXTS | st.none() | st.booleans(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.lists(st.tuples(KEYS, inner), max_size=3, unique_by=lambda pair: pair[0])
    ),
    max_leaves=8,
)
OBJECTS = st.lists(st.tuples(KEYS, VALUES), max_size=4)
STYLES = st.sampled_from([(",", ":", False), (", ", ": ", True), (" ,", "\n:", False), (",", ":", True)])


def written(value: Any, style: tuple[str, str, bool]) -> str:
    """JSON in this style; a list of pairs is an object, and may have a key twice."""
    comma, colon, ascii_only = style
    if isinstance(value, list) and value and all(isinstance(item, tuple) for item in value):
        pairs = (f"{json.dumps(key, ensure_ascii=ascii_only)}{colon}{written(item, style)}" for key, item in value)
        return "{" + comma.join(pairs) + "}"
    if isinstance(value, list):
        return "[" + comma.join(written(item, style) for item in value) + "]"
    return json.dumps(value, ensure_ascii=ascii_only)


def depth(value: Any) -> int:
    items = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if items is None else 1 + max((depth(item) for item in items), default=0)


def slowly(body: bytes) -> str:
    """The kind of dead letter that a parser finds which looks at each pair and each number."""
    found = set()

    def pairs(items: list[Pairs]) -> dict[str, Any]:
        if len(dict(items)) < len(items):
            found.add("duplicate_keys")
        return dict(items)

    def whole(digits: str) -> int:
        if not -(2**63) <= int(digits) < 2**64:
            found.add("huge_number")
        return int(digits)

    # A repeated key may hide what nests: the brackets count, whether or not their value is kept.
    deep: list[int] = []

    def measured(items: list[Pairs]) -> dict[str, Any]:
        deep.append(1 + max((depth(item) for _, item in items), default=0))
        return {str(place): item for place, (_, item) in enumerate(items)}

    json.loads(body, object_pairs_hook=pairs, parse_int=whole)
    json.loads(body, object_pairs_hook=measured)
    if max(deep) > 4:
        return "too_deep"
    return min(found, default="event")  # duplicate keys are asked for first


def quickly(body: bytes) -> str:
    try:
        assert DECODER.decode(Message(7, 8, body, "a.b")).data == orjson.loads(body)
    except Undecodable as refused:
        return refused.kind
    return "event"


@given(OBJECTS, STYLES)
@settings(max_examples=150, deadline=None)
def test_every_style_of_writing_has_the_outcome_that_a_careful_parser_gives_it(
    value: list[Pairs], style: tuple[str, str, bool]
) -> None:
    body = written(value, style).encode() if value else b"{}"
    assert quickly(body) == slowly(body)


@given(OBJECTS)
@settings(max_examples=100, deadline=None)
def test_what_is_written_as_orjson_writes_it_needs_no_closer_look(value: list[Pairs]) -> None:
    body = written(value, (",", ":", False)).encode() if value else b"{}"
    data = orjson.loads(body)
    if orjson.dumps(data) == body:
        assert not repeats_a_key(body, body)
        assert not has_huge_number(body)
        assert nests_deeper(body, depth(data) - 1 or 1) == (depth(data) > 1)
        assert not nests_deeper(body, depth(data))
