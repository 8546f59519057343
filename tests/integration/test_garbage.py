"""Everything that a stream may hold and no one meant, end to end: a dead letter of its kind each, and nothing stops."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pipeline.connectors import Outgoing
from pipeline_plugins.rabbitmq_streams.amqp_writer import encode_message
from tests.fuzz.seeds import section
from tests.integration.rig.site import Site
from tests.plugins.rabbitmq_streams.chunk_frames import block, entry
from tests.plugins.rabbitmq_streams.raw_entries import publish_entries

PIPELINE = """
[source.all]
stream = "{stream}"
group = "proof"
journal = true
limits = {{ event = "256KiB", nesting = 32, headers = 20, header_bytes = "4KiB" }}

[[route]]
match = "#"
key = ["data.key", "id"]
stages = ["log"]
finally = ["audit"]

[[stage.audit.row]]
match = "#"
action = "routing_key"
entity_type = "'thing'"
entity_id = "data.key"
metadata = {{ value = "data.value", id = "id", header = "headers.h" }}
"""
GOOD = b'{"key":"k","value":1}'


def written(
    body: bytes = GOOD, key: str = "a.b", headers: dict[str, Any] | None = None, id_: str = ""
) -> Callable[[int], bytes]:
    """A well-formed message, with an id of its own where none is given."""
    return lambda number: entry(encode_message(Outgoing(body, key, id_ or f"id-{number}", headers or {})))


def raw(data: bytes) -> Callable[[int], bytes]:
    return lambda number: entry(data)


def data(body: bytes) -> bytes:
    return section(0x75, b"\xb0" + len(body).to_bytes(4, "big") + body)


CASES: dict[str, tuple[str, Callable[[int], bytes]]] = {
    # JSON
    "empty": ("undecodable", written(b"")),
    "a byte order mark": ("undecodable", written(b"\xef\xbb\xbf" + GOOD)),
    "no UTF-8": ("undecodable", written(b'{"key":"\xff"}')),
    "a lone surrogate": ("undecodable", written(b'{"key":"\\ud800"}')),
    "not a number": ("undecodable", written(b'{"key":NaN}')),
    "infinite": ("undecodable", written(b'{"key":1e400}')),
    "100,000 digits": ("undecodable", written(b'{"key":' + b"9" * 100_000 + b"}")),
    "30 digits": ("huge_number", written(b'{"key":' + b"9" * 30 + b"}")),
    "deep": ("too_deep", written(b'{"key":' + b"[" * 40 + b"]" * 40 + b"}")),
    "very deep": ("too_deep", written(b'{"a":' * 20_000)),
    "a key twice": ("duplicate_keys", written(b'{"key":1,"value":{"a":1,"a":2}}')),
    "large": ("too_big", written(json.dumps({"key": "x" * 300_000}).encode())),
    "30,000 keys": ("", written(json.dumps({f"{number}": 1 for number in range(20_000)}).encode())),
    "a long list": ("", written(json.dumps({"value": [0] * 80_000}).encode())),
    "a long text": ("", written(json.dumps({"value": "x" * 250_000}).encode())),
    "a small number": ("", written(b'{"key":1e-400,"value":-0.0}')),
    "the largest number": ("", written(b'{"key":18446744073709551615,"value":1.7976931348623157e308}')),
    # NUL, which neither PostgreSQL's text nor its jsonb can hold
    "NUL in a value": ("", written(b'{"key":"k\\u0000","value":{"a":["\\u0000"]}}')),
    "NUL in a key": ("", written(b'{"key":"k","value":{"a\\u0000":1}}')),
    "NUL in the id": ("", written(id_="id\0")),
    "NUL in the routing key": ("", written(key="a.\0.b")),
    "NUL in a header": ("", written(headers={"h": "\0", "n\0": "x\0"})),
    "NUL everywhere, and dead": ("undecodable", written(b"\0", "\0", {"h\0": "\0"}, "dead\0")),
    # headers and routing keys
    "30 headers": ("too_many_headers", written(headers={f"h{number}": number for number in range(30)})),
    "a long header": ("headers_too_big", written(headers={"h": "x" * 5_000})),
    "a long id": ("headers_too_big", written(id_="i" * 5_000)),
    "an id of 2,000": ("", written(id_="j" * 2_000)),
    "a long routing key": ("routing_key_too_long", written(key="k" * 300)),
    # AMQP
    "no AMQP": ("undecodable", raw(GOOD)),
    "nothing": ("undecodable", raw(b"")),
    "cut short": ("undecodable", raw(data(GOOD)[:-1])),
    "an unknown section": ("undecodable", raw(section(0x79, b"\x45") + data(GOOD))),
    "sections out of order": ("undecodable", raw(data(GOOD) + section(0x73, b"\x45"))),
    "a section twice": ("undecodable", raw(section(0x73, b"\x45") * 2 + data(GOOD))),
    "two kinds of body": ("undecodable", raw(data(GOOD) + section(0x77, b"\xa1\2ab"))),
    "a count of 2**31": ("undecodable", raw(section(0x77, b"\xd0\0\0\0\5\x80\0\0\0\x40"))),
    "a size of 2**31": ("undecodable", raw(section(0x75, b"\xb0\x80\0\0\0") + GOOD)),
    "100,000 nested lists": ("undecodable", raw(section(0x77, b"\xd0\0\0\xff\xff\0\0\0\1" * 100_000))),
    "100,000 descriptors": ("undecodable", raw(section(0x77, b"\0" * 100_000))),
    "100,000 nulls": ("undecodable", raw(section(0x77, b"\xd0\0\1\x86\xa4\0\1\x86\xa0" + b"\x40" * 100_000))),
    "1,500 bodies": ("undecodable", raw(data(b" ") * 1_500 + data(GOOD))),
    "a body in ten parts": ("", raw(data(b" ") * 9 + data(GOOD))),
    # blocks
    "an unknown compression": ("undecodable", lambda number: block([b"a"], 2, b"??")),
    "no gzip": ("undecodable", lambda number: block([b"a"], 1, b"??")),
}
"""What is published, by what it is: the kind of its dead letter, empty where it is an event."""


async def test_each_kind_of_garbage_is_a_dead_letter_with_its_bytes_and_good_events_go_on(site: Site) -> None:
    entries = [made(number) for number, (_, made) in enumerate(CASES.values())]
    good = [written(b'{"key":"%d"}' % number, id_=f"good-{number}")(0) for number in range(len(entries))]
    published = [each for pair in zip(entries, good, strict=True) for each in pair]
    await site.lay_out(PIPELINE.format(stream=site.stream))
    async with site.by_amqp(), site.books() as books:
        await publish_entries(site.stream_url, site.stream, published)
        runner = site.run()
        await site.until_processed(books, len(published), 30, runner)
        letters = {letter["message_offset"]: letter for letter in await books.dead_letters()}
        expected = {2 * number: kind for number, (kind, _) in enumerate(CASES.values()) if kind}
        names = list(CASES)
        found = {names[offset // 2]: letter["kind"] for offset, letter in letters.items()}
        assert found == {names[offset // 2]: kind for offset, kind in expected.items()}
        for offset, letter in letters.items():
            sent = published[offset]
            assert letter["body"] in sent
            assert letter["body"] or names[offset // 2] in ("empty", "nothing"), names[offset // 2]
        assert await books.outcomes() == {"handled": len(published) - len(letters), "dead": len(letters)}
        rows = await books.rows("SELECT event_id, action, entity_id, metadata FROM audit_logs")
        assert len(rows) == len(published) - len(letters)
        assert {row["event_id"] for row in rows} >= {f"good-{number}" for number in range(len(entries))}
        by_id = {row["event_id"]: row for row in rows}
        number = names.index("NUL in a value")
        assert json.loads(by_id[f"id-{number}"]["metadata"])["value"] == {"a": ["\\u0000"]}
        assert by_id[f"id-{number}"]["entity_id"] == "k\\u0000"
        assert any(row["action"] == "a.\\u0000.b" for row in rows)
        await runner.stop()
