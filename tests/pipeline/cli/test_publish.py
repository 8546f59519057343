"""`publish`: what ends up in which stream, and what is refused."""

from __future__ import annotations

import asyncio
import json
import os
import threading
import uuid
from pathlib import Path

import pytest

from pipeline.connectors import Message, Start
from pipeline.errors import PipelineError
from pipeline_plugins.embedded import EmbeddedConnector
from tests.pipeline.cli.support import HELLO, TWO_SOURCES, eventually, run, write

BROKER = "embedded://.pipeline/events.db"


def published(stream: str) -> list[Message]:
    """What the stream holds."""

    async def read() -> list[Message]:
        connector = EmbeddedConnector(BROKER)
        await connector.connect()
        try:
            last = (await connector.bounds(stream)).last
            if last is None:
                return []
            found: list[Message] = []
            async for batch in connector.read(stream, Start("first"), name="test"):
                found += batch
                if found[-1].offset == last:
                    return found
            return found
        finally:
            await connector.close()

    return asyncio.run(read())


def test_an_event_is_published_as_it_was_given() -> None:
    write(HELLO)
    done = run(
        "publish", "hello.you", '{"name": "you", "n": 1.5}', "--id", "a-1", "--header", "t=x=y", "--header", "u="
    )
    assert (done.code, done.err) == (0, "")
    assert done.out == f"published event a-1 to events on {BROKER}\n"
    (message,) = published("events")
    assert json.loads(message.body) == {"name": "you", "n": 1.5}
    assert (message.routing_key, message.id, message.headers) == ("hello.you", "a-1", {"t": "x=y", "u": ""})
    assert message.content_type == "application/json"


def test_without_json_the_data_is_empty_and_without_id_it_is_a_new_uuid() -> None:
    write(HELLO)
    first, second = (run("publish", "hello.you", "--json").json for _ in range(2))
    assert [message.body for message in published("events")] == [b"{}", b"{}"]
    assert uuid.UUID(first["id"]) != uuid.UUID(second["id"])
    assert first == {"published": 1, "streams": {"events": 1}, "id": first["id"], "broker": BROKER}


def test_the_data_may_come_from_standard_input() -> None:
    write(HELLO)
    assert run("publish", "hello.you", "-", stdin='{"a":\n 1}\n').code == 0
    assert json.loads(published("events")[0].body) == {"a": 1}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('{"a": 1', "not JSON: Expecting ',' delimiter at column 8"),
        ('{\n"a": 1,}', "at line 2, column 8"),
        ("[1]", "this is a list"),
        ("null", "this is null"),
        ('{"a": NaN}', "NaN is no JSON number"),
        ('{"a": [-1e400]}', "the number -1e400 is too great"),
        ('{"a": "\\ud800"}', "can't be published"),
        ("[" * 100_000, "not JSON"),
        ('{"a": 1, "a": 2}', "JSON: an object has the key 'a' twice"),
        ('{"b": [{"a": 1, "a": 2}]}', "the key 'a' twice"),
    ],
)
def test_what_is_no_json_object_is_refused_with_its_place(text: str, words: str) -> None:
    write(HELLO)
    done = run("publish", "hello.you", text)
    assert (done.code, done.out) == (2, "")
    assert words in done.err
    assert not Path(".pipeline").exists()


@pytest.mark.parametrize("line", ['{"a": 1, "a": 2}', '{"b": {"a": 1, "a": 2}}', '{"a": 1, "a": 2, "b": "\\u003a"}'])
def test_a_line_with_a_key_twice_is_refused_with_its_place(line: str) -> None:
    write(HELLO)
    Path("plain.jsonl").write_text(f'{{"ok": ":"}}\n{line}\n')
    Path("events.jsonl").write_text(f'{{"routing_key": "hello.a", "data": {line}}}\n')
    done = run("publish", "hello.a", "-f", "plain.jsonl")
    assert (done.code, "plain.jsonl:2: an object has the key 'a' twice" in done.err) == (2, True)
    done = run("publish", "-f", "events.jsonl")
    assert (done.code, "events.jsonl:1: an object has the key 'a' twice" in done.err) == (2, True)
    assert not Path(".pipeline").exists()


def test_a_file_in_the_place_of_json_is_told_how_to_be_published() -> None:
    write(HELLO)
    Path("body.json").write_text('{"a": 1}')
    done = run("publish", "hello.a", "body.json")
    assert done.code == 2
    assert "body.json is a file: write - in its place, and < body.json at the end" in done.err


def test_an_event_goes_to_the_stream_of_the_source_whose_routes_take_it() -> None:
    write(TWO_SOURCES)
    assert run("publish", "order.paid", "--json").json["streams"] == {"stream.sales": 1}
    assert run("publish", "admin.x", "--json").json["streams"] == {"stream.admin": 1}


def test_the_source_option_chooses_the_stream_and_warns_where_no_route_takes_the_event() -> None:
    write(TWO_SOURCES)
    done = run("publish", "order.paid", "--source", "admin", "--json")
    assert done.json["streams"] == {"stream.admin": 1}
    assert done.err == "warning: no route of source 'admin' takes 'order.paid': the event will be filtered\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["who.knows"], "no route takes 'who.knows': choose a stream with --source, one of admin, sales"),
        (["order.paid", "--source", "nope"], "there is no [source.nope]"),
        (["order.paid", "--header", "x"], "write NAME=VALUE"),
        ([], "name a routing key"),
        (["order.paid", "{}", "--file", "x"], "stand in the file"),
        (["--file", "nowhere.jsonl"], "nowhere.jsonl can't be read: No such file"),
    ],
)
def test_mistakes_are_told(arguments: list[str], words: str) -> None:
    write(TWO_SOURCES)
    done = run("publish", *arguments)
    assert (done.code, done.out) == (2, "")
    assert words in done.err


def test_a_key_that_several_sources_take_needs_the_source_option() -> None:
    write(TWO_SOURCES.replace('"admin.#"', '"#"'))
    done = run("publish", "order.paid")
    assert done.code == 2
    assert "routes of admin, sales take 'order.paid'" in done.err


def test_a_file_is_published_line_by_line_in_order() -> None:
    write(TWO_SOURCES)
    lines = [
        {"routing_key": "order.paid", "id": "o-1", "headers": {"n": 1}, "data": {"total": 1}},
        {"routing_key": "admin.x"},
        {"routing_key": "order.paid", "data": {"total": 2}},
    ]
    Path("events.jsonl").write_text("\n\n".join(map(json.dumps, lines)))
    done = run("publish", "--file", "events.jsonl", "--header", "all=1", "--json")
    assert (done.json["published"], done.json["streams"]) == (3, {"stream.sales": 2, "stream.admin": 1})
    assert done.json["id"] is None
    first, second = published("stream.sales")
    assert (first.id, first.headers, json.loads(first.body)) == ("o-1", {"n": 1, "all": "1"}, {"total": 1})
    assert json.loads(second.body) == {"total": 2}


def test_a_long_file_of_plain_data_arrives_whole_and_in_order() -> None:
    write(HELLO)
    pad = "x" * 300
    Path("events.jsonl").write_text("".join(f'{{"n": {number}, "pad": "{pad}"}}\r\n' for number in range(3_210)))
    done = run("publish", "hello.you", "-f", "events.jsonl")
    assert done.out == f"published 3,210 events to events on {BROKER}\n"
    messages = published("events")
    assert [json.loads(message.body)["n"] for message in messages] == list(range(3_210))
    assert {message.routing_key for message in messages} == {"hello.you"}
    assert len({message.id for message in messages}) == 3_210


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('{"routing_key": "hello.a", "data": ', "events.jsonl:1201: not JSON"),
        ('{"data": {}}', "events.jsonl:1201: it has no 'routing_key'"),
        ('{"routing_key": "hello.a", "dta": {}}', "events.jsonl:1201: 'dta' is none of"),
        ('{"routing_key": "hello.a", "data": []}', "'data' and 'headers' are JSON objects"),
        ('{"routing_key": "hello.a", "id": 5}', "'id' is a text"),
        ("\udcff", "events.jsonl:1201: not UTF-8"),
    ],
)
def test_a_file_with_a_wrong_line_is_refused_before_anything_is_published(line: str, words: str) -> None:
    write(HELLO)
    good = '{"routing_key": "hello.a"}\n' * 1_200
    Path("events.jsonl").write_text(good + line + "\n", errors="surrogateescape")
    done = run("publish", "--file", "events.jsonl")
    assert (done.code, done.out) == (2, "")
    assert words in done.err
    assert not Path(".pipeline").exists()


def test_an_empty_file_publishes_nothing() -> None:
    write(HELLO)
    Path("events.jsonl").write_text("\n")
    done = run("publish", "--file", "events.jsonl")
    assert (done.code, done.out) == (0, "there was nothing to publish\n")


def test_a_wrong_line_in_standard_input_says_how_many_were_published_before() -> None:
    write(HELLO)
    done = run("publish", "hello.a", "--file", "-", stdin='{"n": 1}\n' * 600 + "oops\n")
    assert done.code == 2
    assert done.err.splitlines() == [
        "500 events published before this:",
        "error: standard input:601: not JSON: Expecting value at column 1",
    ]
    assert len(published("events")) == 500


def test_what_a_pipe_gives_is_published_as_it_comes() -> None:
    write(HELLO)
    os.mkfifo("pipe")
    held_back = True

    def is_there() -> bool:
        try:
            return len(published("events")) == 1
        except PipelineError:  # there is no stream yet
            return False

    def feed() -> None:
        nonlocal held_back
        with Path("pipe").open("w") as pipe:
            print('{"n": 1}', file=pipe, flush=True)
            eventually(is_there, "the first line is published")
            held_back = False
            print('{"n": 2}', file=pipe, flush=True)

    feeder = threading.Thread(target=feed)
    feeder.start()
    done = run("publish", "hello.a", "--file", "pipe", "--json")
    feeder.join()
    assert not held_back
    assert done.json["published"] == 2


def test_a_broker_that_is_away_exits_1() -> None:
    write(HELLO + '[broker]\nurl = "rabbitmq-stream://guest:secret@127.0.0.1:1"\n')
    done = run("publish", "hello.a")
    assert (done.code, done.out) == (1, "")
    assert "broker is unavailable" in done.err
    assert "secret" not in done.err
