"""Decoding and its limits: what is more than they allow, or ambiguous, is a dead letter of a kind of its own."""

from __future__ import annotations

import tracemalloc
from typing import Any

import orjson
import pytest

from pipeline.config.limits import Limits
from pipeline.connectors import Message
from pipeline.dispatch.decode import Decoder, Undecodable
from pipeline.events import Event
from pipeline.ledger.lease import Lease
from pipeline.ledger.units import Progress, SourceKey

LEASE = Lease(SourceKey("s", "g", "st"), "", 0, 2, Progress(), started=False)
MEBI = 2**20


def decode(body: bytes, limits: Limits | None = None, **message: Any) -> Event[Any]:
    return Decoder("s", "st", LEASE, limits).decode(Message(7, 8, body, **{"routing_key": "a.b", **message}))


def kind(body: bytes, limits: Limits | None = None, **message: Any) -> str:
    """The kind of the dead letter; `event` where it is none."""
    try:
        decode(body, limits, **message)
    except Undecodable as refused:
        return refused.kind
    return "event"


def nested(depth: int) -> bytes:
    return b'{"a":' + b"[" * (depth - 1) + b"]" * (depth - 1) + b"}"


def test_a_body_may_have_as_many_bytes_as_the_limit_and_no_more() -> None:
    limits = Limits(event=20)
    fits = b'{"a":"' + b"x" * 12 + b'"}'
    assert (len(fits), kind(fits, limits), kind(fits + b" ", limits)) == (20, "event", "too_big")


def test_what_is_too_big_is_not_even_parsed() -> None:
    body = b"[" + b"{}," * MEBI + b"{}]"
    tracemalloc.start()
    assert kind(body) == "too_big"
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 100_000


def test_the_reason_names_the_limit_and_what_the_message_has() -> None:
    with pytest.raises(Undecodable, match=r"^the body has 1048577 bytes, more than limits\.event \(1MiB\)$"):
        decode(bytes(MEBI + 1))
    with pytest.raises(Undecodable, match=r"^the body nests deeper than limits\.nesting \(64\)$"):
        decode(nested(65))


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (nested(5), "event"),
        (nested(6), "too_deep"),
        (b'{"a":' * 5 + b"1" + b"}" * 5, "event"),
        (b'{"a":' * 6 + b"1" + b"}" * 6, "too_deep"),
        (b'{"a":[' + b"[[]]," * 1000 + b"[]]}", "event"),
        (b'{"a":"' + b"[" * 100 + b'"}', "event"),
        (b'{"a":"\\"' + b"[" * 100 + b'\\\\","b":"' + b"]" * 100 + b'"}', "event"),
        (b'{"a":"]]]]]]","b":[[[[["]"]]]]]}', "too_deep"),
        (b'{"a":"\\\\","b":[[[[["\\""]]]]]}', "too_deep"),
        (b"[" * 100_000, "too_deep"),
        (b'{"a":' * 100_000, "too_deep"),
        (b"]" * 100_000 + b"[" * 100, "too_deep"),
        (b"]" * 100_000 + b"[[", "undecodable"),
    ],
)
def test_objects_and_lists_may_nest_as_deep_as_the_limit_and_brackets_in_strings_are_none(
    body: bytes, expected: str
) -> None:
    assert kind(body, Limits(nesting=5)) == expected


def test_the_deepest_nesting_that_can_be_allowed_can_be_read() -> None:
    assert decode(nested(200), Limits(nesting=200)).data


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"a":1}',
        b'{"a":1,"b":{"c":1,"d":[{"e":1,"e":2}]}}',
        b'{"a":1,"\\u0061":2}',
        b'{"a":":","a":"::"}',
        b'{"b":"\\u003a","a":1,"a":1}',
        b'{"b":"\\u003A:\\\\","a":1,"a":1}',
        b'{"a\\u0000":1,"a\\u0000":2}',
        b'{"":1,"":2}',
    ],
)
def test_a_key_that_comes_twice_in_an_object_is_refused(body: bytes) -> None:
    assert kind(body) == "duplicate_keys"
    assert decode(body, Limits(duplicate_keys="last")).data == orjson.loads(body)


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":1,"b":{"a":1,"c":[{"a":1},{"a":2}]}}',
        b'{"a":":::","b:":"\\u003a\\u003A","c":"\\\\u003a"}',
        b'{"a":1,"A":2," a":3,"a\\u0000":4}',
        b'{ "a" : 1 , "b" : { "c" : "x:y" } }',
    ],
)
def test_keys_that_only_look_alike_are_none(body: bytes) -> None:
    assert kind(body) == "event"


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (b"18446744073709551615", "event"),
        (b"18446744073709551616", "huge_number"),
        (b"-9223372036854775808", "event"),
        (b"-9223372036854775809", "huge_number"),
        (b"99999999999999999999", "huge_number"),
        (b"1700000000000000000", "event"),
        (b"9" * 300, "huge_number"),
        (b"9" * 100_000, "undecodable"),
        (b"1e400", "undecodable"),
        (b"-1e400", "undecodable"),
        (b"1e-400", "event"),
        (b"NaN", "undecodable"),
        (b"Infinity", "undecodable"),
        (b"1.12345678901234567890123", "event"),
        (b"99999999999999999999.5", "event"),
        (b"99999999999999999999e3", "event"),
        (b"1e00000000000000000000001", "event"),
        (b"1e-0000000000000000000001", "event"),
        (b'"99999999999999999999"', "event"),
        (b'"\\"-99999999999999999999"', "event"),
        (b'["\\\\",99999999999999999999]', "huge_number"),
    ],
)
def test_a_whole_number_of_more_than_64_bits_is_refused_rather_than_rounded(number: bytes, expected: str) -> None:
    assert kind(b'{"n":' + number + b"}") == expected
    if expected == "huge_number":
        assert type(decode(b'{"n":' + number + b',"m":1}', Limits(huge_numbers="round")).data["n"]) in (float, list)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "zero-length"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'{"a":"\xff"}', "UTF-8"),
        (b'{"a":"\xed\xa0\x80"}', "UTF-8"),
        (b'{"a":"\\ud800"}', "surrogate"),
        (b'{"a":"\x00"}', "control character"),
        (b"\x1f\x8b\x08", "not valid JSON"),
    ],
)
def test_what_is_no_json_says_why(body: bytes, said: str) -> None:
    with pytest.raises(Undecodable, match=said) as refused:
        decode(body)
    assert refused.value.kind == "undecodable"


def test_another_content_type_is_named_where_the_body_is_no_json_and_else_no_matter() -> None:
    with pytest.raises(Undecodable, match=r"its content type is 'application/x-protobuf'"):
        decode(b"\x08\x01", content_type="application/x-protobuf")
    assert kind(b"{}", content_type="text/plain") == "event"


def test_a_nul_is_a_character_like_any_other() -> None:
    event = decode(b'{"a\\u0000b":"\\u0000"}', id="i\0d", routing_key="a.\0", headers={"h\0": "\0"})
    assert (event.data, event.id, event.routing_key) == ({"a\0b": "\0"}, "i\0d", "a.\0")


def test_headers_are_limited_in_number_and_in_bytes_with_the_id() -> None:
    limits = Limits(headers=2, header_bytes=30)
    assert kind(b"{}", limits, headers={"a": 1, "b": 2}) == "event"
    assert kind(b"{}", limits, headers={"a": 1, "b": 2, "c": 3}) == "too_many_headers"
    assert kind(b"{}", limits, headers={"a": "x" * 22}) == "event"
    assert kind(b"{}", limits, headers={"a": "x" * 23}) == "headers_too_big"
    assert kind(b"{}", limits, headers={"a": "x" * 22}, id="i") == "headers_too_big"
    assert kind(b"{}", limits, headers={"a": "\ud800"}) == "event"
    assert kind(b"{}", limits, id="i" * 300) == "headers_too_big"
    assert kind(b"{}", limits, headers={"h": orjson.loads(b"[" * 1000 + b"]" * 1000)}) == "headers_too_big"
    assert kind(b"{}", Limits(headers=0)) == "event"


def test_a_routing_key_is_at_most_as_long_as_brokers_take_it() -> None:
    assert kind(b"{}", routing_key="k" * 255) == "event"
    for key in ("k" * 256, "ü" * 128):
        assert kind(b"{}", routing_key=key) == "routing_key_too_long"
        assert kind(orjson.dumps({"event_type": key}), routing_key=None) == "routing_key_too_long"


def test_a_broken_frame_is_undecodable_however_large_it_is() -> None:
    with pytest.raises(Undecodable, match="cut short") as refused:
        decode(bytes(2 * MEBI), defect="cut short")
    assert refused.value.kind == "undecodable"


@pytest.mark.parametrize(
    "body",
    [
        b'{"a":[' + b"[]," * 340_000 + b"[]]}",
        b"{" + b",".join(b'"%06d":1' % number for number in range(95_000)) + b"}",
        b'{"a":[' + b"0," * 520_000 + b"0]}",
        b'{"a":"' + b"x" * 1_040_000 + b'"}',
        b'{"a":"' + b"\\u003a" * 174_000 + b'"}',
        b'{"a":[' + b'"[",' * 260_000 + b'"["]}',
        b'{"a":[' + b"1111111111111111111," * 52_000 + b"1]}",
        b'{"a":[' + b'"99999999999999999999",' * 45_000 + b"1]}",
        (b'{"a":' * 60 + b'[{"b":[]},{"b":[]},{"b":[]}]' + b"}" * 60) * 1,
        b"[" * MEBI,
        b'"' * MEBI,
        b'{"a":"' + b"\\\\" * 520_000 + b'"}',
    ],
    ids=[
        "lists", "keys", "numbers", "a text", "escaped colons", "brackets in texts", "long numbers", "digits in texts",
        "deep", "open lists", "quotes", "backslashes",
    ],
)  # fmt: skip
@pytest.mark.timeout(20)
def test_no_body_within_the_limit_keeps_the_others_waiting(body: bytes) -> None:
    """A scan that is more than linear takes minutes for these."""
    assert len(body) <= MEBI
    assert kind(body) in {"event", "too_deep", "duplicate_keys", "huge_number", "undecodable"}
