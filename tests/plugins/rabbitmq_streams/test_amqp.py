"""AMQP 1.0 messages: what is written is read, what others write is read, and nothing that is read raises."""

from __future__ import annotations

import json
import tracemalloc
import uuid
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from rstream import AMQPMessage
from rstream._pyamqp.message import Properties  # type: ignore[attr-defined]  # rstream has no public name for it

from pipeline.connectors import BrokerRefused, Message, Outgoing
from pipeline_plugins.rabbitmq_streams.amqp import MessageReader
from pipeline_plugins.rabbitmq_streams.amqp_values import MAX_DEPTH
from pipeline_plugins.rabbitmq_streams.amqp_writer import encode_message

texts = st.text(max_size=300)
floats = st.floats(allow_nan=False, allow_infinity=False)
headers = st.dictionaries(
    texts, st.one_of(texts, st.booleans(), st.integers(-(2**63), 2**63 - 1), floats, st.none()), max_size=5
)
outgoing = st.builds(
    Outgoing,
    body=st.binary(max_size=600),
    routing_key=texts,
    id=texts,
    headers=headers,
    content_type=st.none() | st.text(st.characters(codec="ascii"), max_size=40),
)

# As RabbitMQ 4.0 writes to a stream what an AMQP 0.9.1 client publishes through the topic exchange "tx".
FROM_AN_EXCHANGE = (
    b"\x00Sp\xc0\x0b\x05AP\x03p\x05\xf5\xe1\x00AC"
    b"\x00Sr\xc1\\\n\xa3\x0cx-basic-type\xa1\x02ty\xa3\x05x-foo\xa1\x03bar\xa3\x03x-nQ\x03\xa3\nx-exchange\xa1\x02tx"
    b"\xa3\rx-routing-key\xa1\x15admin.workflow.paused"
    b"\x00Ss\xc06\r\xa1\x04id-1\xa0\x05guest@@@@"
    b"\xa3\x10application/json@@\x83\x00\x00\x01\xa2\x00\x12\xb6 \xa1\x03app@@"
    b"\x00St\xc1%\n\xa1\x01bV\x01\xa1\x01d\x83\x00\x00\x01\xa2\x00\x12\xb6 \xa1\x01fr?\xc0\x00\x00\xa1\x01h\xa1\x01v"
    b"\xa1\x01nQ\x05"
    b'\x00Su\xa0\x07{"a":1}'
)


def read(data: bytes, reader: MessageReader | None = None) -> Message:
    return (reader or MessageReader()).read(data, 0, len(data), 7, 8)


def parts(message: Message) -> tuple[Any, ...]:
    return tuple(getattr(message, name) for name in Message.__slots__)


def test_a_message_s_size_is_that_of_all_its_sections() -> None:
    assert read(FROM_AN_EXCHANGE).size == len(FROM_AN_EXCHANGE)


def test_a_body_that_is_longer_as_json_counts_with_what_it_takes() -> None:
    message = read(section(0x77, compound(b"\x40" * 200, 200)))
    assert len(message.body) == len("[" + "null," * 199 + "null]")
    assert message.size > len(message.body)


@given(outgoing)
def test_what_is_written_is_read(message: Outgoing) -> None:
    found = read(encode_message(message))

    assert found.defect is None
    assert (found.offset, found.timestamp) == (7, 8)
    assert (found.body, found.routing_key, found.id) == (message.body, message.routing_key, message.id)
    assert found.content_type == message.content_type
    assert found.headers == message.headers
    assert {name: type(value) for name, value in found.headers.items()} == {
        name: type(value) for name, value in message.headers.items()
    }


@given(st.lists(outgoing, max_size=8))
def test_what_is_remembered_of_other_messages_changes_nothing(messages: list[Outgoing]) -> None:
    reader = MessageReader()
    for data in [encode_message(message) for message in messages] * 2:
        assert parts(read(data, reader)) == parts(read(data))


def test_changing_one_message_s_headers_changes_no_other() -> None:
    reader = MessageReader()
    data = encode_message(Outgoing(b"", "k", "1", {"a": 1}))
    careless = read(data, reader).headers
    assert isinstance(careless, dict)
    careless["b"] = 2
    assert read(data, reader).headers == {"a": 1}


def test_a_message_from_an_exchange_has_its_key_id_headers_and_type() -> None:
    found = read(FROM_AN_EXCHANGE)

    assert found.defect is None
    assert (found.routing_key, found.id, found.content_type) == ("admin.workflow.paused", "id-1", "application/json")
    assert found.body == b'{"a":1}'
    assert found.headers == {
        "x-basic-type": "ty", "x-foo": "bar", "x-n": 3, "b": True, "d": 1795297556000, "f": 1.5, "h": "v", "n": 5,
    }  # fmt: skip


@given(
    body=st.binary(max_size=600),
    message_id=st.one_of(st.text(min_size=1, max_size=300), st.uuids()),
    subject=st.none() | st.text(min_size=1, max_size=40),
    content_type=st.none() | st.text(st.characters(codec="ascii"), min_size=1, max_size=20),
    properties=st.dictionaries(
        st.text(min_size=1, max_size=20), st.one_of(texts, st.booleans(), st.integers(-(2**31), 2**31 - 1)), max_size=4
    ),
    key=st.none() | st.text(min_size=1, max_size=40),
)
def test_what_rstream_writes_is_read(
    body: bytes,
    message_id: str | uuid.UUID,
    subject: str | None,
    content_type: str | None,
    properties: dict[str, Any],
    key: str | None,
) -> None:
    message = AMQPMessage(
        body=body,
        properties=Properties(message_id=message_id, subject=subject, content_type=content_type),
        application_properties=properties,
        message_annotations={"x-routing-key": key, "x-exchange": "e", "x-other": 1} if key is not None else {},
    )

    found = read(bytes(message))

    assert found.defect is None
    assert found.body == body
    assert found.id == str(message_id)
    assert found.content_type == content_type
    expected_key = key or subject or properties.get("routing_key") or properties.get("x-routing-key")
    if isinstance(expected_key, str):
        assert found.routing_key == expected_key
    assert found.headers == ({"x-other": 1} if key is not None else {}) | properties


def section(code: int, value: bytes) -> bytes:
    return bytes((0, 0x53, code)) + value


def test_a_key_in_the_application_properties_is_the_last_resort() -> None:
    data = section(0x74, b"\xc1\x13\x02\xa1\x0brouting_key\xa1\x03a.b") + section(0x75, b"\xa0\x01x")
    assert read(data).routing_key == "a.b"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"\xa1\x02ab", "ab"),
        (b"\xb1\x00\x00\x00\x02ab", "ab"),
        (b"\xa0\x02ab", "ab"),
        (b"\xa0\x02\xff\xfe", "//4="),
        (b"\x44", "0"),
        (b"\x53\x09", "9"),
        (b"\x80\xff\xff\xff\xff\xff\xff\xff\xff", str(2**64 - 1)),
        (b"\x98" + bytes(range(16)), "00010203-0405-0607-0809-0a0b0c0d0e0f"),
        (b"\x40", None),
    ],
)
def test_an_id_of_any_type_becomes_text(value: bytes, expected: str | None) -> None:
    content = value + b"@@\xa1\x01s@@\xa3\x01t"
    properties = b"\xc0" + bytes((len(content) + 1, 7)) + content
    found = read(section(0x73, properties) + section(0x75, b"\xa0\x00"))
    assert (found.id, found.routing_key, found.content_type) == (expected, "s", "t")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (b"\x40", None), (b"\x41", True), (b"\x42", False), (b"\x56\x01", True), (b"\x56\x00", False),
        (b"\x43", 0), (b"\x44", 0), (b"\x50\xff", 255), (b"\x51\xff", -1), (b"\x52\xff", 255), (b"\x53\xff", 255),
        (b"\x54\xff", -1), (b"\x55\xff", -1), (b"\x60\xff\xff", 65535), (b"\x61\xff\xff", -1),
        (b"\x70\xff\xff\xff\xff", 2**32 - 1), (b"\x71\xff\xff\xff\xff", -1), (b"\x72\x3f\xc0\x00\x00", 1.5),
        (b"\x73\x00\x01\xf6\x42", "🙂"), (b"\x81" + b"\xff" * 8, -1), (b"\x82\x3f\xf8" + bytes(6), 1.5),
        (b"\x82\x7f\xf0" + bytes(6), "inf"), (b"\x83" + bytes(7) + b"\x05", 5), (b"\x74" + bytes(4), "00000000"),
        (b"\xa0\x01\xff", "/w=="), (b"\xa3\x03sym", "sym"), (b"\x45", []), (b"\xc0\x03\x02\x41\x42", [True, False]),
        (b"\xd0\x00\x00\x00\x05\x00\x00\x00\x01\x40", [None]), (b"\xc1\x05\x02\xa1\x01k\x41", {"k": True}),
        (b"\xe0\x04\x02\x50\x01\x02", [1, 2]), (b"\xf0\x00\x00\x00\x06\x00\x00\x00\x01\x50\x07", [7]),
        (b"\x00\xa3\x03xyz\x50\x07", 7),
    ],
)  # fmt: skip
def test_a_header_of_any_type_becomes_a_json_value(value: bytes, expected: Any) -> None:
    content = b"\xa1\x01h" + value
    headers_map = b"\xd1" + (len(content) + 4).to_bytes(4, "big") + (2).to_bytes(4, "big") + content
    found = read(section(0x74, headers_map) + section(0x75, b"\xa0\x00"))
    assert found.defect is None
    assert found.headers == {"h": expected}
    json.dumps(found.headers)


@pytest.mark.parametrize(
    ("sections", "expected"),
    [
        (section(0x75, b"\xa0\x02ab") + section(0x75, b"\xb0\x00\x00\x00\x02cd"), b"abcd"),
        (section(0x77, b"\xa1\x02ab"), b"ab"),
        (section(0x77, b"\xb1\x00\x00\x00\x02ab"), b"ab"),
        (section(0x77, b"\xa0\x02\xff\xfe"), b"\xff\xfe"),
        (section(0x77, b"\xc1\x05\x02\xa1\x01k\x41"), b'{"k":true}'),
        (section(0x76, b"\xc0\x03\x02\x41\x42"), b"[true,false]"),
        (b"\x00\x80" + (0x75).to_bytes(8, "big") + b"\xa0\x02ab", b"ab"),
        (b"\x00\xa3\x10amqp:data:binary\xa0\x02ab", b"ab"),
        (section(0x70, b"\x45") + section(0x73, b"\x45"), b""),
    ],
)
def test_a_body_may_be_written_in_many_ways(sections: bytes, expected: bytes) -> None:
    found = read(sections)
    assert found.defect is None
    assert found.body == expected


@pytest.mark.parametrize("data", [b"", b'{"event": 1}', b"\x01\x00"])
def test_what_is_no_amqp_comes_with_a_defect_and_its_bytes(data: bytes) -> None:
    found = read(data)
    assert found.defect == "not an AMQP 1.0 message"
    assert found.body == data


@given(st.binary(max_size=80) | st.binary(max_size=80).map(lambda tail: b"\x00Ss" + tail))
@example(b"\x00")
@example(b"\x00S")
@example(b"\x00Su")
@example(b"\x00Su\xa0\x05a")
@example(b"\x00S\x01\x45")
@example(b"\x00Ss\xc0\x03\x01\xa1\xff")
@example(b"\x00Sw")
def test_garbage_never_raises_and_keeps_its_bytes(data: bytes) -> None:
    found = read(data)
    assert found.defect is None or found.body == data


@given(outgoing, st.data())
def test_a_message_that_is_cut_short_never_raises(message: Outgoing, data: st.DataObject) -> None:
    whole = encode_message(message)
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    found = read(cut)
    assert (found.offset, found.timestamp) == (7, 8)
    assert found.defect is not None or found.body == b""  # cut between two sections
    assert found.defect is None or found.body == cut


@given(outgoing, st.data())
def test_a_message_with_a_wrong_byte_never_raises(message: Outgoing, data: st.DataObject) -> None:
    wrong = bytearray(encode_message(message))
    wrong[data.draw(st.integers(0, len(wrong) - 1))] = data.draw(st.integers(0, 255))
    read(bytes(wrong))


@given(st.binary(max_size=30), outgoing, st.binary(max_size=30), st.data())
def test_neighbours_in_a_chunk_are_never_read(
    before: bytes, message: Outgoing, after: bytes, data: st.DataObject
) -> None:
    whole = encode_message(message)
    size = data.draw(st.integers(0, len(whole)))
    inside = MessageReader().read(before + whole + after, len(before), len(before) + size, 7, 8)
    alone = read(whole[:size])
    assert (inside.defect is None) == (alone.defect is None)  # the reason may be another
    inside.defect = alone.defect = None
    assert parts(inside) == parts(alone)


def nested(depth: int) -> bytes:
    value = b"\x40"
    for _ in range(depth):
        value = b"\xd0" + (len(value) + 4).to_bytes(4, "big") + b"\x00\x00\x00\x01" + value
    return value


def test_values_may_nest_but_not_endlessly() -> None:
    def message(depth: int) -> bytes:
        return section(0x77, nested(depth))

    assert read(message(MAX_DEPTH)).defect is None
    for depth in (MAX_DEPTH + 1, 20_000):
        found = read(message(depth))
        assert found.defect is not None
        assert "nest deeper" in found.defect
    assert read(section(0x77, b"\x00" * 50_000)).defect is not None


@pytest.mark.timeout(10)
def test_a_few_bytes_can_t_spell_a_million_values() -> None:
    found = read(section(0x77, b"\xf0\x00\x00\x00\x05\xff\xff\xff\xff\x41"))
    assert found.defect is not None


def compound(items: bytes, count: int, code: int = 0xD0) -> bytes:
    return bytes((code,)) + (len(items) + 4).to_bytes(4, "big") + count.to_bytes(4, "big") + items


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (section(0x73, b"\x45") + section(0x72, b"\xc1\1\0") + section(0x75, b"\xa0\0"), "0x72 follows section 0x73"),
        (section(0x75, b"\xa0\0") + section(0x73, b"\x45"), "0x73 follows section 0x75"),
        (section(0x73, b"\x45") * 2, "0x73 follows section 0x73"),
        (section(0x77, b"\xa1\0") * 2, "0x77 follows section 0x77"),
        (section(0x75, b"\xa0\0") + section(0x77, b"\xa1\0"), "bodies of two kinds"),
        (section(0x79, b"\x45"), "no section 0x79"),
        (section(0x75, b"\xa0\0") * 1002, "more than 1000 sections"),
        (section(0x77, compound(b"\x40" * 20_000, 20_000)), "more than 10000 values"),
        (section(0x74, compound(compound(b"\x40" * 9_999, 9_999) + b"\x40" * 2_001, 2_002, 0xD1)), "more than 10000"),
        (section(0x77, compound(b"\x45\x40", 2, 0xD1)), "the key of a map is a list"),
        (section(0x73, compound(b"\x45", 1)), "the message id is a list"),
    ],
)
def test_what_no_message_should_be_comes_with_the_reason_and_its_bytes(data: bytes, reason: str) -> None:
    found = read(data)
    assert reason in (found.defect or "")
    assert found.body == data


def test_a_body_in_many_parts_is_joined() -> None:
    found = read(section(0x73, b"\x45") + section(0x75, b"\xa0\1x") * 1001 + section(0x78, b"\xc1\1\0"))
    assert (found.defect, found.body) == (None, b"x" * 1001)
    found = read(section(0x76, b"\xc0\2\1\x41") * 3)
    assert (found.defect, found.body) == (None, b"[true]" * 3)


def escaping(levels: int) -> bytes:
    """A map whose key is a list with such a map …: as text it would double with each level."""
    value = b"\xa1\x80" + b"\\" * 128
    for _ in range(levels):
        value = compound(compound(value, 1) + b"\x40", 2, 0xD1)
    return value


@pytest.mark.parametrize(
    "data",
    [
        section(0x77, escaping(15)),
        (b"\0\x80" + (0x75).to_bytes(8, "big") + b"\xa0\0") * 80_000,
        (b"\0\xb3" + (2**20).to_bytes(4, "big")) + b"x" * 2**20 + b"\xa0\0",
        section(0x75, b"\xa0\1x") * 170_000,
        section(0x76, b"\x45") * 200_000,
        section(0x77, compound(b"\x45" * 2**20, 2**20)),
        section(0x77, b"\xf0" + (2**20 + 5).to_bytes(4, "big") + (2**20).to_bytes(4, "big") + b"\x45" * (2**20 + 1)),
        section(0x77, b"\0" * 2**20),
        section(0x74, compound(b"\xa1\0\x40" * 340_000, 680_000, 0xD1)),
    ],
    ids=["escapes", "descriptors", "a descriptor", "data", "sequences", "list", "array", "described", "headers"],
)
@pytest.mark.timeout(20)
def test_a_message_of_a_mebibyte_ends_and_does_not_take_much_memory(data: bytes) -> None:
    """One that is read in more than linear time takes minutes."""
    read(data)  # what is imported or compiled the first time is not counted
    tracemalloc.start()
    read(data)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 4 * len(data) + 2**20


def test_a_section_that_is_large_is_not_remembered() -> None:
    reader = MessageReader()
    for number in range(20):
        found = read(encode_message(Outgoing(b"", "k" * 300, "1", {"n": f"{number}" * 1500})), reader)
        assert found.headers == {"n": f"{number}" * 1500}
    assert len(reader._headers) <= 10


def test_the_memory_of_the_reader_is_bounded() -> None:
    reader = MessageReader()
    for number in range(10_000):
        found = read(encode_message(Outgoing(b"", f"key-{number}", "1", {"n": number})), reader)
        assert (found.routing_key, found.headers) == (f"key-{number}", {"n": number})
    assert all(len(getattr(reader, name)) <= 4096 for name in MessageReader.__slots__)


def test_headers_that_spell_much_in_few_bytes_do_not_fill_the_memory_of_the_reader() -> None:
    reader = MessageReader()
    for number in range(600):
        found = read(
            section(0x74, compound(b"\xa1\4%04d" % number + compound(b"\x45" * 1_900, 1_900), 2, 0xD1)), reader
        )
        assert found.headers == {f"{number:04d}": [[]] * 1_900}  # of 120 kB
        assert sum(map(len, reader._headers)) <= 2**20
    assert reader._headers


@pytest.mark.parametrize("value", [{"a": 1}, [1], object(), 2**63])
def test_a_header_that_amqp_has_no_place_for_is_refused(value: object) -> None:
    with pytest.raises(BrokerRefused, match="'bad'"):
        encode_message(Outgoing(b"", "k", "1", {"bad": value}))


def test_text_that_is_no_unicode_is_refused() -> None:
    with pytest.raises(BrokerRefused, match="Unicode"):
        encode_message(Outgoing(b"", "k\udc80", "1"))
