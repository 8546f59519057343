"""The fuzzer's targets on inputs that hypothesis thinks up: a first, quick look in every test run."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.seeds import SEEDS
from tests.fuzz.targets import amqp, chunk, event
from tests.plugins.rabbitmq_streams.chunk_frames import block, entry

quickly = settings(max_examples=150, deadline=None)


@st.composite
def mutated(draw: st.DrawFn, target: str) -> bytes:
    """A well-formed input with a few places changed, cut, doubled or strewn with bytes that mean something."""
    data = bytearray(draw(st.sampled_from(SEEDS[target]())))
    for _ in range(draw(st.integers(1, 4))):
        pos = draw(st.integers(0, len(data)))
        stop = pos + draw(st.integers(0, 6))
        match draw(st.sampled_from(["change", "cut", "double", "strew"])):
            case "change":
                data[pos : pos + 1] = draw(st.binary(min_size=1, max_size=1))
            case "cut":
                del data[pos:stop]
            case "double":
                data[pos:pos] = data[pos:stop]
            case "strew":
                data[pos:stop] = draw(st.sampled_from(TELLING))
    return bytes(data)


TELLING = (
    b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"\x80", b"\0\x53\x75", b"\xd0\xff\xff\xff\xff",
    b"\xc0\xff\xff", b"\xf0\0\0\0\5\xff\xff\xff\xff\x41", b"\\u0000", b"\\", b'"', b"[[[[[[[[[[[[[[[[[[[[[",
    b"}", b":", b"\xc0\x80",
)  # fmt: skip


class Pairs(dict[str, Any]):
    """A JSON object that writes its pairs as they are, also those of one key."""

    def __init__(self, pairs: list[tuple[str, Any]]) -> None:
        super().__init__({"there is one": 1} if pairs else {})  # else the encoder does not ask for the items
        self.pairs = pairs

    def items(self) -> Any:
        return self.pairs


keys = st.text("abc:", max_size=3)
json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(2**64 - 2, 2**64 + 2)
    | st.integers(-(2**63) - 2, -(2**63) + 2)
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.sampled_from('abc:"\\[]{}0123456789\0\u00fc'), max_size=25),
    lambda inner: st.lists(inner, max_size=4) | st.lists(st.tuples(keys, inner), max_size=3).map(Pairs),
    max_leaves=12,
)


def written(value: Any, *, escaped: bool) -> bytes:
    text = json.dumps(value, ensure_ascii=False)
    return (text.replace(":b", "\\u003ab") if escaped else text).encode()


@quickly
@given(st.binary(max_size=200) | mutated("amqp"))
def test_any_bytes_are_a_message_or_a_defect(data: bytes) -> None:
    amqp(data)


@quickly
@given(st.binary(max_size=100) | mutated("chunk"))
def test_every_offset_of_any_chunk_is_accounted_for(data: bytes) -> None:
    chunk(data)


entries = st.one_of(
    st.binary(max_size=20).map(entry),
    st.builds(
        block, st.lists(st.binary(max_size=9), max_size=4), st.integers(0, 7), st.none() | st.binary(max_size=12)
    ),
)


@quickly
@given(st.lists(entries, max_size=5), st.integers(0, 20), st.integers(0, 12), st.integers(0, 7), st.integers(0, 3))
def test_every_offset_of_any_blocks_is_accounted_for(
    parts: list[bytes], records: int, start: int, limit: int, damage: int
) -> None:
    chunk(bytes((len(parts), 0, records, start, limit, damage)) + b"".join(parts))


@quickly
@given(st.binary(max_size=100) | mutated("event"))
def test_any_bytes_are_an_event_or_have_a_reason_why_not(data: bytes) -> None:
    event(data)


@quickly
@given(st.lists(st.tuples(keys, json_values), max_size=4), st.booleans())
def test_a_quick_look_at_a_body_sees_what_a_slow_one_does(pairs: list[tuple[str, Any]], escaped: bool) -> None:
    event(written(Pairs(pairs), escaped=escaped))
