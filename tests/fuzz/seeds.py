"""Seeds: well-formed inputs, as the fuzzer's starting points."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rstream import AMQPMessage
from rstream._pyamqp.message import Properties  # type: ignore[attr-defined]  # rstream has no public name for it

from pipeline.connectors import Outgoing
from pipeline_plugins.rabbitmq_streams.amqp_writer import encode_message
from tests.plugins.rabbitmq_streams.chunk_frames import block, entry
from tests.plugins.rabbitmq_streams.test_amqp import FROM_AN_EXCHANGE


def section(code: int, value: bytes) -> bytes:
    return bytes((0, 0x53, code)) + value


VALUES = (
    b"\x40", b"\x41", b"\x56\x01", b"\x43", b"\x44", b"\x50\xff", b"\x55\xff", b"\x61\xff\xff", b"\x70\0\0\0\1",
    b"\x72\x3f\xc0\0\0", b"\x73\0\x01\xf6\x42", b"\x80" + bytes(8), b"\x82\x7f\xf0" + bytes(6), b"\x83" + bytes(8),
    b"\x94" + bytes(16), b"\x98" + bytes(16), b"\xa0\x01\xff", b"\xa1\x02ab", b"\xa3\x03sym", b"\xb0\0\0\0\1x",
    b"\xb1\0\0\0\1x", b"\xb3\0\0\0\1x", b"\x45", b"\xc0\x03\x02\x41\x42", b"\xd0\0\0\0\5\0\0\0\1\x40",
    b"\xc1\x05\x02\xa1\x01k\x41", b"\xd1\0\0\0\x08\0\0\0\2\xa1\x01k\x41", b"\xe0\x04\x02\x50\1\2",
    b"\xf0\0\0\0\6\0\0\0\1\x50\7", b"\0\xa3\x03xyz\x50\7",
)  # fmt: skip


def amqp() -> Sequence[bytes]:
    """Messages as we, rstream and RabbitMQ itself write them, and every type there is."""
    ours = encode_message(
        Outgoing(b'{"a": 1}', "a.b", "id-1", {"n": 1, "t": "x", "f": 0.5, "y": True}, "application/json")
    )
    theirs = bytes(
        AMQPMessage(
            body=b"{}",
            properties=Properties(message_id="id", subject="s", content_type="t"),
            application_properties={"k": "v"},
            message_annotations={"x-routing-key": "a.b", "x-other": 1},
        )
    )
    parts = [section(0x75, b"\xa0\1x"), section(0x75, b"\xb0\0\0\0\1y"), section(0x76, b"\xc0\3\2\x41\x42")]
    long_form = b"\0\x80" + (0x75).to_bytes(8, "big") + b"\xa0\2ab"
    symbol = b"\0\xa3\x10amqp:data:binary\xa0\2ab"
    return [
        ours, theirs, FROM_AN_EXCHANGE, *parts, parts[0] + parts[1], long_form, symbol,
        *(section(0x77, value) for value in VALUES),
        *(section(0x74, b"\xc1" + bytes((len(value) + 4, 2)) + b"\xa1\1h" + value) for value in VALUES),
    ]  # fmt: skip


def chunk() -> Sequence[bytes]:
    """Chunks of messages, of blocks in every way of compression, and of both."""
    single = entry(encode_message(Outgoing(b"{}", "a.b", "1")))
    record = single[4:]

    def made(entries: Sequence[bytes], records: int, *more: int) -> bytes:
        return struct.pack(">BH3B", len(entries), records, *(more or (0, 7, 0))) + b"".join(entries)

    return [
        made([single], 1), made([single] * 5, 5, 2, 1, 0), made([block([record] * 3)], 3),
        made([single, block([record] * 3, 1), single], 5, 2, 1, 0), made([block([b"a"] * 3, 2, b"?")], 3),
        made([single], 1, 0, 0, 1), made([single], 1, 0, 0, 2), made([], 0),
    ]  # fmt: skip


def event() -> Sequence[bytes]:
    """Bodies of events, and what is nearly one."""
    return [
        b"{}", b'{"a":1,"b":[{"c":null},"\\u003a\\"[{"],"d":{"a":-1.5e3}}', b'{"a":1,"a":2}',
        b'{"a":18446744073709551616}',
        b'{"n":-9223372036854775808,"f":1.1234567890123456789012}', b'{"a":' + b"[" * 25 + b"]" * 25 + b"}", b"[1]",
        b'{"\\u0061":1,"a":2}', b"\xef\xbb\xbf{}", b'{"a":1e400}', b'{"\\ud800":"\\u0000"}',
    ]  # fmt: skip


SEEDS: Mapping[str, Callable[[], Sequence[bytes]]] = {"amqp": amqp, "chunk": chunk, "event": event}


def plant(target: str, folder: Path) -> None:
    """Write the target's seeds into a folder."""
    for number, seed in enumerate(SEEDS[target]()):
        (folder / f"seed-{number}").write_bytes(seed)
