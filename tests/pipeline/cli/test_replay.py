"""`replay`: what it says, asks and refuses, and its exit codes."""

from __future__ import annotations

import fcntl
import json
import signal
from contextlib import closing
from pathlib import Path

import pytest

from tests.pipeline.cli.support import Terminal, process, run, write

PIPELINE = """
[pipeline]
name = "p"
handlers = "mine.py"
[source.events]
stream = "events"
group = "g"
[[route]]
name = "orders"
match = "order.*"
stages = ["any"]
finally = ["log"]
[[route]]
name = "bills"
match = "bill.*"
stages = ["no"]
"""
HANDLERS = """
from pipeline import Reject, handler

@handler("any")
async def any_(event):
    pass

@handler("no")
async def no(event):
    raise Reject("never")
"""
MISTAKES: list[tuple[list[str], str]] = [
    ([], "say where the replay begins"),
    (["--from", "soon"], "--from 'soon' is no place in a stream"),
    (["--from", "2", "--to", "1"], "--from 2 does not lie before --to 1"),
    (["--from", "9", "--yes"], "stream events ends at offset 0"),
    (["--from", "first", "--source", "event", "--yes"], "the sources are: events"),
    (["--from", "first", "--route", "order", "--yes"], "has no route 'order'; did you mean 'orders'?\n"),
    (["--from", "first", "--only", "lok", "--yes"], "has a stage 'lok'; did you mean 'log'?\n"),
    (["--from", "first", "--rate", "fast"], "as in 100/s"),
    (["--from", "first", "--rate", "0"], "as in 100/s"),
    (["--from", "first"], "say --yes where nobody can be asked"),
    (["--list", "--from", "first"], "--list runs nothing"),
    (["--forget", "x"], "there is no replay 'x'"),
]


def publish(*events: tuple[str, dict[str, object]]) -> None:
    lines = [json.dumps({"routing_key": key, "data": data, "id": f"e{n}"}) for n, (key, data) in enumerate(events)]
    assert run("publish", "--file", "-", "--source", "events", stdin="\n".join(lines)).code == 0


@pytest.fixture(autouse=True)
def pipeline() -> None:
    write(PIPELINE)
    Path("mine.py").write_text(HANDLERS)


def test_a_dry_run_shows_a_table_and_examples() -> None:
    publish(("order.a", {}), ("order.b", {}), ("bill.a", {}), ("no", {}))
    done = run("replay", "--from", "first", "--dry-run", "--show", "2", "--route", "orders")
    assert done.code == 0
    lines = [line.split() for line in done.out.splitlines()]
    assert ["orders", "2", "0", "0"] in lines
    assert ["finally", "log", "2", "0", "0"] in lines
    assert ["0", "e0", "order.a", "orders", "-", "any", "→", "log"] in lines
    assert "2 taken by none of these routes" in done.out
    assert not Path(".pipeline/pipeline.db").exists()


def test_a_dry_run_is_one_json_document_for_scripts() -> None:
    publish(("order.a", {}))
    found = run("replay", "--from", "0", "--to", "now", "--dry-run", "--json").json
    assert (found["first"], found["last"], found["messages"]) == (0, 0, 1)
    assert found["routes"][0]["stages"][0] | {"name": "any", "handled": 1} == found["routes"][0]["stages"][0]


def test_a_mistake_exits_2_and_says_what_there_is() -> None:
    publish(("order.a", {}))
    run("migrate")
    for options, says in MISTAKES:
        done = run("replay", *options)
        assert (done.code, done.out) == (2, ""), options
        assert says in done.err


@pytest.mark.slow
def test_a_replay_tells_scripts_what_it_did_and_exits_1_for_dead_letters() -> None:
    publish(("order.a", {}), ("bill.a", {}), ("no", {}))
    command = ("replay", "--from", "first", "--yes", "--json", "--name", "x")
    done = process(*command)
    summary = json.loads(done.stdout.splitlines()[-1])
    assert done.returncode == 1
    assert (summary["event"], summary["finished"], summary["dead"]) == ("summary", True, 1)
    assert summary["routes"] == {"bills": {"dead": 1}, "orders": {"handled": 1}}
    (listed,) = run("replay", "--list", "--json").json["replays"]
    assert (listed["name"], listed["state"], listed["done"], listed["dead"]) == ("x", "finished", 3, 1)
    assert run("replay", "--forget", "x").code == 0
    assert "0 replays" in run("replay", "--list").out


@pytest.mark.slow
def test_a_terminal_is_asked_shown_a_bar_and_told_how_to_go_on() -> None:
    publish(("bill.a", {}), *[("order.b", {})] * 11)
    with closing(Terminal("replay", "--from", "first", "--rate", "8/s")) as terminal:
        terminal.shows("Handle at most 12 messages again, with all effects?")
        terminal.type("y\n")
        terminal.shows("replaying")
        terminal.shows("offsets")
        terminal.shows("is dead at try 1")
        before, _, _ = terminal.shown.rpartition("is dead at try 1")
        line = before.rpartition("\n")[2]
        assert "replaying" not in line.rpartition("\x1b[2K")[2]  # the bar was wiped off the log's line
        terminal.process.send_signal(signal.SIGINT)
        assert terminal.ends() == 130
        assert "the same command goes on" in " ".join(terminal.shown.split())
    done = process("replay", "--from", "first", "--yes")
    assert done.returncode == 1
    assert "routes in this run:" in done.stdout
    assert "all runs of this replay: 11 handled, 1 dead" in done.stdout
    name = run("replay", "--list", "--json").json["replays"][0]["name"]
    hint = f"pipeline dead-letters list --source events --replay {name}"
    assert f"1 message dead in all runs: '{hint}' shows" in done.stderr
    assert run(*hint.split()[1:]).out.endswith("1 dead letter\n")
    assert done.stdout.count("order.b id=") < 12


@pytest.mark.slow
def test_what_cant_be_read_is_told_apart_and_is_no_failure_of_the_chosen_routes() -> None:
    publish(("order.a", {}), ("order.b", {"long": "x" * 5_000}), ("no", {}))
    write(PIPELINE + '[source.events.limits]\nevent = "2KiB"\n')
    done = process("replay", "--from", "first", "--yes", "--route", "orders")
    assert done.returncode == 0
    assert "this run: 3 messages (2 filtered, 1 handled) in " in done.stdout
    assert "1 filtered as it can't be read (without --route and --only it leaves a dead letter)" in done.stdout
    assert "0 dead letters" in run("dead-letters", "list").out


def test_the_embedded_broker_has_one_reader() -> None:
    publish(("order.a", {}))
    with Path(".pipeline/events.db.lock").open("w") as held:
        held.write("4242\n")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        done = run("replay", "--from", "first", "--yes")
    assert done.code == 2
    assert "is being read by process 4242: stop it" in done.err
