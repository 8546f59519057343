"""`run`: a runner in a process of its own, from the banner to the exit code."""

from __future__ import annotations

import json
import os
import shlex
import signal
from contextlib import closing
from pathlib import Path

import pytest

from tests.pipeline.cli.support import HELLO, Terminal, eventually, process, run, running, write

pytestmark = pytest.mark.slow  # each starts processes

UP = "another terminal"
SLOW = """
import asyncio
from pipeline import Reject, handler

@handler("slow")
async def slow(event):
    print("began", flush=True)
    await asyncio.sleep(event.data["seconds"])

@handler("no")
async def no(event):
    raise Reject("never")
"""
MINE = HELLO.replace('name = "hello"', 'name = "hello"\nhandlers = "mine.py"')


def test_an_event_published_by_another_process_is_handled_and_sigterm_ends_in_good_order() -> None:
    write(HELLO)
    with running() as runner:
        runner.says(UP)
        assert process("publish", "hello.you", '{"name": "you"}', "--id", "a-1").returncode == 0
        runner.says('id=a-1 {"name":"you"}')
        eventually(lambda: run("stats", "--json").json["instances"][0]["messages_processed"] == 1, "the heartbeat")
        runner.signal(signal.SIGTERM)
        assert runner.ends() == 0
    assert "hello.you id=a-1" in runner.out
    assert "SIGTERM: stopping; 0 in flight, grace 25 s" in runner.err
    assert ": 1 processed (1 handled)" in runner.err.splitlines()[-1]
    assert run("stats").code == 1


def test_the_banner_says_where_everything_is_and_its_command_works() -> None:
    write(HELLO)
    with running() as runner:
        runner.says(UP)
        runner.says("pipeline publish hello.example")
        assert "  broker    embedded://.pipeline/events.db  [default (embedded)]" in runner.err
        assert "  database  sqlite:///.pipeline/pipeline.db  [default (embedded)]" in runner.err
        assert "  route     events: hello.* → log" in runner.err
        (command,) = (line for line in runner.err.splitlines() if " publish " in line)
        assert process(*shlex.split(command.partition("pipeline ")[2])).returncode == 0
        runner.says('{"message":"hello"}')
    assert UP not in runner.out


def test_a_second_runner_on_the_embedded_broker_exits_2_and_names_the_process() -> None:
    write(HELLO)
    with running() as runner:
        runner.says(UP)
        second = process("run")
        assert (second.returncode, second.stdout) == (2, "")
        assert f"process {runner.process.pid}" in second.stderr
        assert "Traceback" not in second.stderr


def test_the_totals_tell_outcomes_apart() -> None:
    write(MINE + '[[route]]\nmatch = "no.#"\nstages = ["no"]\n')
    Path("mine.py").write_text(SLOW)
    lines = ['{"routing_key": "hello.a", "id": "1"}'] * 2 + ['{"routing_key": "no"}', '{"routing_key": "unknown"}']
    assert run("publish", "--file", "-", stdin="\n".join(lines)).code == 0
    with running() as runner:
        runner.says(UP)
        eventually(lambda: run("stats", "--json").json["instances"][0]["messages_processed"] == 4, "four events")
        runner.signal(signal.SIGINT)
        assert runner.ends() == 0
    assert ": 4 processed (1 handled, 1 filtered, 1 duplicate, 1 dead)" in runner.err
    assert run("dead-letters", "list", "--json").json["dead_letters"][0]["reason"] == "never"


def test_what_is_in_flight_finishes_before_it_ends() -> None:
    write(MINE.replace('"log"', '"slow"'))
    Path("mine.py").write_text(SLOW)
    run("publish", "hello.a", '{"seconds": 1}')
    with running() as runner:
        runner.says("began")
        runner.signal(signal.SIGTERM)
        assert runner.ends() == 0
    assert "1 in flight" in runner.err
    assert ": 1 processed (1 handled)" in runner.err


def test_a_second_interrupt_ends_it_at_once() -> None:
    write(MINE.replace('"log"', '"slow"'))
    Path("mine.py").write_text(SLOW)
    run("publish", "hello.a", '{"seconds": 600}')
    with running() as runner:
        runner.says("began")
        runner.signal(signal.SIGINT)
        runner.says("SIGINT: stopping; 1 in flight")
        runner.signal(signal.SIGINT)
        assert runner.ends() == 130


def test_an_interrupt_while_it_starts_ends_it() -> None:
    Path("mine.py").write_text(
        "import asyncio\nfrom pipeline import Handler, hookimpl\n"
        "class Stuck(Handler):\n    name = 'stuck'\n"
        "    async def start(self, setup):\n        print('starting', flush=True)\n        await asyncio.sleep(600)\n"
        "    async def handle(self, event, context): ...\n"
        "@hookimpl\ndef pipeline_handlers():\n    return [Stuck]\n"
    )
    write(MINE.replace('"log"', '"stuck"'))
    with running() as runner:
        runner.says("starting")
        runner.signal(signal.SIGINT)
        assert runner.ends() == 0
    assert "Traceback" not in runner.err


def test_json_logs_are_nothing_but_json_on_standard_error() -> None:
    write(HELLO)
    with running("--log-format", "json") as runner:
        runner.says("is running")
        run("publish", "hello.you")
        runner.says("hello.you id=")
        runner.signal(signal.SIGTERM)
        assert runner.ends() == 0
    records = [json.loads(line) for line in runner.err.splitlines()]
    assert records[-1]["messages_processed"] == records[-1]["messages_succeeded"] == 1


def test_quiet_says_nothing_while_all_is_well() -> None:
    write(HELLO)
    run("publish", "hello.you")
    with running("-q") as runner:
        runner.says("hello.you id=")
        runner.signal(signal.SIGTERM)
        assert runner.ends() == 0
    assert runner.err == ""


def test_a_terminal_is_told_what_was_done() -> None:
    write(HELLO)
    run("publish", "hello.you")
    with closing(Terminal("run")) as terminal:
        terminal.shows("  1 handled")
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.ends() == 0


def test_a_source_that_the_broker_refuses_ends_it_with_2(rabbitmq: object, stream_name: str) -> None:
    url = rabbitmq.stream_url  # type: ignore[attr-defined]
    write(HELLO.replace('"events"', f'"{stream_name}"'))
    done = process("run", env=os.environ | {"PIPELINE_BROKER_URL": url})
    assert done.returncode == 2
    assert stream_name in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("file", ["", "[pipeline\n", HELLO.replace("log", "lgo")])
def test_a_wrong_file_exits_2_without_a_traceback(file: str) -> None:
    write(file)
    done = process("run")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines()[-1] in ("1 problem", "2 problems")
