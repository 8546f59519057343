"""The frames that rstream has not or gets wrong, against rstream's own encoding where it is right."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rstream import schema
from rstream.encoding import encode_frame, encode_publish

from pipeline.connectors import BrokerRefused
from pipeline_plugins.rabbitmq_streams.frames import (
    Text,
    check_sizes,
    checked_name,
    publish_frames,
    read_confirm,
    read_stats,
    stats_request,
)


@given(st.lists(st.binary(max_size=50), min_size=1, max_size=20), st.integers(1, 2**40))
def test_messages_are_published_as_rstream_does(messages: list[bytes], first: int) -> None:
    (frame,) = publish_frames(3, first, messages, 1_000_000)
    numbered = [schema.Message(first + index, None, message) for index, message in enumerate(messages)]
    assert frame == encode_publish(schema.Publish(3, numbered))


@given(st.lists(st.binary(max_size=50), max_size=30), st.integers(80, 200))
def test_frames_are_no_larger_than_the_broker_allows(messages: list[bytes], frame_max: int) -> None:
    frames = list(publish_frames(0, 1, messages, frame_max))
    assert all(len(frame) <= frame_max for frame in frames)
    assert all(int.from_bytes(frame[:4], "big") == len(frame) - 4 for frame in frames)
    assert sum(int.from_bytes(frame[9:13], "big") for frame in frames) == len(messages)


def test_a_message_that_no_frame_can_take_is_refused() -> None:
    room = 400 - 25
    check_sizes([b"small", bytes(room)], 400)
    (frame,) = publish_frames(0, 1, [bytes(room)], 400)
    assert len(frame) == 400
    with pytest.raises(BrokerRefused, match="takes 376 bytes"):
        check_sizes([b"small", bytes(room + 1)], 400)


@given(st.integers(0, 255), st.lists(st.integers(0, 2**64 - 1), max_size=20))
def test_a_confirm_is_read(publisher: int, ids: list[int]) -> None:
    frame = encode_frame(schema.PublishConfirm(publisher, ids))[4:]
    assert read_confirm(frame) == (publisher, tuple(ids))


@given(st.text(max_size=300))
def test_text_is_encoded_with_its_size_in_bytes(text: str) -> None:
    frame = encode_frame(schema.Open(1, Text(text)))
    size = int.from_bytes(frame[12:14], "big")
    assert frame[14:] == text.encode()
    assert size == len(text.encode())


@pytest.mark.parametrize("name", ["x" * 255, "ü" * 127])
def test_a_name_may_take_255_bytes(name: str) -> None:
    assert checked_name("the group", name) == name


@pytest.mark.parametrize(
    ("name", "message"), [("", "empty"), ("x" * 256, "256 bytes"), ("ü" * 128, "256 bytes"), ("\udc80", "Unicode")]
)
def test_a_name_that_rabbitmq_would_not_take_is_refused(name: str, message: str) -> None:
    with pytest.raises(BrokerRefused, match=f"the group.*{message}"):
        checked_name("the group", name)


def test_stats_are_asked_for_and_read() -> None:
    assert stats_request(5, "ü") == b"\x00\x00\x00\x0c\x00\x1c\x00\x01\x00\x00\x00\x05\x00\x02\xc3\xbc"
    response = (
        b"\x80\x1c\x00\x01\x00\x00\x00\x05\x00\x01\x00\x00\x00\x02"
        b"\x00\x05first\xff\xff\xff\xff\xff\xff\xff\xff\x00\x01x\x00\x00\x00\x00\x00\x00\x00\x07"
    )
    assert read_stats(response) == (5, 1, {"first": -1, "x": 7})
