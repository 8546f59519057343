"""`dead-letters groups`, `redrive` and `discard`: what people see of failures, and what they decide."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pipeline.ledger.dead_letters import DeadLetters
from tests.pipeline.cli.support import HELLO, run, write
from tests.pipeline.cli.test_database import insert, letter

NOW = datetime.now(UTC)


@pytest.fixture(autouse=True)
def database() -> None:
    """Three open dead letters of this pipeline; the third is overtaken."""
    write(HELLO)
    assert run("migrate").code == 0
    insert(
        letter(offset=1, reason="no w1", fingerprint="aaaaaaaaaa", order_known=True),
        letter(offset=2, reason="no w2", fingerprint="aaaaaaaaaa", order_known=True, last_at=NOW),
        letter(offset=3, reason="gone", fingerprint="bbbbbbbbbb", order_known=True, overtaken_by="e-9"),
    )


def states() -> list[str]:
    listed = run("dead-letters", "list", "--state", "all", "--json").json["dead_letters"]
    return [row["state"] for row in reversed(listed)]


def test_groups_show_failures_and_choose_their_dead_letters() -> None:
    biggest, smallest = run("dead-letters", "groups", "--json").json["groups"]
    assert (biggest["id"], biggest["count"], biggest["reason"], biggest["example"]) == ("aaaaaaaaaa", 2, "no …", 2)
    assert (smallest["count"], smallest["reason"]) == (1, "gone")
    header, first, _, count = run("dead-letters", "groups").out.splitlines()
    assert header.split()[:2] == ["id", "count"]
    assert first.endswith("no …")
    assert count == "2 groups"
    assert run("dead-letters", "list", "--group", "aaaaaaaaaa", "--json").json["total"] == 2


def test_groups_show_where_in_the_code_their_dead_letters_failed() -> None:
    insert(
        letter(offset=5, reason="no acme", fingerprint="cccccccccc", place="orders.py:check"),
        letter(offset=6, reason="no bolt", fingerprint="cccccccccc", place="orders.py:check"),
    )
    groups = {group["id"]: group for group in run("dead-letters", "groups", "--json").json["groups"]}
    assert (groups["cccccccccc"]["where"], groups["cccccccccc"]["reason"]) == ("orders.py:check", "no …")
    assert groups["aaaaaaaaaa"]["where"] is None
    _, *lines, _ = run("dead-letters", "groups").out.splitlines()
    assert [line.split()[-3:] for line in lines if line.startswith("c")] == [["orders.py:check", "no", "…"]]
    assert [line.split()[-3:] for line in lines if line.startswith("a")] == [["-", "no", "…"]]


def test_times_are_moments_or_how_long_ago() -> None:
    assert run("dead-letters", "list", "--since", "1h", "--json").json["total"] == 1
    assert run("dead-letters", "list", "--until", (NOW - timedelta(hours=1)).isoformat(), "--json").json["total"] == 2
    assert (
        run("dead-letters", "list", "--since", (NOW - timedelta(days=1)).date().isoformat(), "--json").json["total"]
        == 1
    )
    assert "is no time" in run("dead-letters", "list", "--since", "yesterday").err


def test_a_redrive_by_id_says_whom_it_reached_and_keeps_who_asked_and_why() -> None:
    done = run("dead-letters", "redrive", "1", "2", "--reason", "fixed in 1.2", "--by", "ann")
    assert (done.code, done.out) == (0, "2 dead letters to be redriven\n")
    assert states() == ["redriving", "redriving", "open"]
    shown = run("dead-letters", "show", "1").out
    assert "redrive by ann (from=stage): fixed in 1.2" in shown
    (act,) = run("dead-letters", "show", "1", "--json").json["history"]
    assert (act["actor"], act["action"], act["reason"], act["from"]) == ("ann", "redrive", "fixed in 1.2", "stage")


def test_one_that_was_overtaken_is_refused_with_its_successor_unless_forced() -> None:
    done = run("dead-letters", "redrive", "--all", "--yes", "--reason", "x")
    assert done.code == 2
    assert "dead letter 3: a later event of its key was handled after it: e-9" in done.err
    assert done.out == "2 dead letters to be redriven\n"
    forced = run("dead-letters", "redrive", "3", "--force", "--from-start", "--reason", "x", "--json").json
    assert (forced["count"], forced["refused"]) == (1, [])
    (act,) = run("dead-letters", "show", "3", "--json").json["history"]
    assert (act["from"], act["forced"]) == ("start", True)


def test_many_need_a_yes_a_choice_needs_to_be_made_and_a_reason_given() -> None:
    assert "confirm that with --yes" in run("dead-letters", "redrive", "--all", "--reason", "x").err
    assert "name dead letters by their ids" in run("dead-letters", "redrive", "--reason", "x").err
    assert "--reason" in run("dead-letters", "discard", "1").err
    assert states() == ["open"] * 3
    dry = run("dead-letters", "redrive", "--group", "aaaaaaaaaa", "--dry-run")
    assert (dry.code, dry.out) == (0, "2 dead letters would be redriven\n")
    assert states() == ["open"] * 3


def test_of_a_file_whose_sources_are_wrong_dead_letters_are_named_by_their_ids() -> None:
    write(HELLO.replace('stream = "events"', "stream = 3"))
    assert "name dead letters by their ids" in run("dead-letters", "discard", "--all", "--yes", "--reason", "x").err
    assert run("dead-letters", "discard", "1", "--reason", "x").code == 0


def test_those_of_replays_say_so_and_are_chosen_with_their_source() -> None:
    insert(letter(offset=1, group="hello.replay.fix", order_known=True))
    lines = run("dead-letters", "list").out.splitlines()
    assert ["events (replay fix)" in line for line in lines[1:-1]] == [True, False, False, False]
    dry = run("dead-letters", "redrive", "--all", "--dry-run")
    assert dry.out == "2 dead letters would be redriven\n"
    assert "nor is such a replay known: replay it anew, from 1 to 1, under another name" in dry.err


def test_those_of_one_replay_are_chosen_by_its_name() -> None:
    insert(letter(offset=1, group="hello.replay.fix", order_known=True))
    assert run("dead-letters", "list", "--replay", "fix", "--json").json["total"] == 1
    (group,) = run("dead-letters", "groups", "--replay", "fix", "--json").json["groups"]
    assert group["count"] == 1
    by_group = run("dead-letters", "list", "--group", "hello.replay.fix")
    assert (by_group.code, "choose its dead letters with --replay fix" in by_group.err) == (2, True)
    nowhere = run("dead-letters", "list", "--replay", "fux")
    assert (nowhere.code, "there is no replay 'fux'" in nowhere.err) == (2, True)
    assert "would be redriven" in run("dead-letters", "redrive", "--replay", "fix", "--dry-run").out
    assert run("dead-letters", "discard", "--replay", "fix", "--reason", "x").out == "1 dead letter now discarded\n"
    assert run("dead-letters", "list", "--replay", "fix").code == 0
    assert states() == ["open", "open", "open", "discarded"]


def test_what_no_source_reads_is_refused() -> None:
    insert(letter(offset=4, stream="other", order_known=True))
    done = run("dead-letters", "redrive", "4", "--reason", "x")
    assert (done.code, "no source reads the stream 'other'" in done.err) == (2, True)


def test_what_is_discarded_is_no_longer_listed() -> None:
    done = run("dead-letters", "discard", "--since", "1h", "--reason", "a test", "--json").json
    assert (done["count"], done["refused"]) == (1, [])
    assert states() == ["open", "discarded", "open"]
    assert run("dead-letters", "list", "--json").json["total"] == 2
    again = run("dead-letters", "discard", "2", "77", "--reason", "x")
    assert again.code == 2
    assert "dead letter 2: it is discarded, and not open" in again.err
    assert "dead letter 77: there is no such dead letter" in again.err
    assert "there is no state" in run("dead-letters", "list", "--state", "lost").err


def test_a_name_that_is_nowhere_is_a_mistake_and_not_good_news() -> None:
    for command, words in [
        (("list", "--route", "hello"), "there is no route 'hello'; did you mean 'hello.*'?"),
        (("list", "--source", "nope"), "there is no source 'nope'; there are: events"),
        (("groups", "--kind", "undecodeable"), "there is no kind 'undecodeable'; did you mean 'undecodable'?"),
        (("redrive", "--stage", "lgo", "--reason", "x"), "there is no stage 'lgo'; did you mean 'log'?"),
        (
            ("redrive", "--group", "nosuch", "--reason", "x"),
            "there is no group 'nosuch': 'pipeline dead-letters groups'",
        ),
        (("discard", "--stage", "lgo", "--dry-run"), "there is no stage 'lgo'"),
    ]:
        ran = run("dead-letters", *command)
        assert (ran.code, ran.out) == (2, ""), command
        assert words in ran.err
    assert run("dead-letters", "list", "--kind", "undecodable").out == "0 dead letters\n"


def test_a_route_that_the_file_has_no_more_is_still_reached_and_so_it_is_once_it_has_none_that_are_open() -> None:
    insert(letter(offset=5, route="gone", order_known=True))
    assert run("dead-letters", "list", "--route", "gone", "--json").json["total"] == 1
    assert run("dead-letters", "discard", "--route", "gone", "--reason", "x").code == 0
    again = run("dead-letters", "list", "--route", "gone")
    assert (again.code, again.out) == (0, "0 dead letters\n")


def test_those_of_other_pipelines_are_listed_only_where_it_is_said() -> None:
    insert(
        letter(offset=1, group="other", source="theirs", fingerprint="cccccccccc"),
        letter(offset=1, group="hello.replay.x", fingerprint="dddddddddd"),
    )
    assert run("dead-letters", "list", "--json").json["total"] == 4
    assert run("dead-letters", "list", "--any-source", "--json").json["total"] == 5
    assert len(run("dead-letters", "groups", "--json").json["groups"]) == 3
    assert len(run("dead-letters", "groups", "--any-source", "--json").json["groups"]) == 4
    theirs = run("dead-letters", "list", "--source", "theirs")
    assert (theirs.code, theirs.out) == (0, "0 dead letters\n")
    assert "1 of sources that are not in pipeline.toml: --any-source shows them" in theirs.err


def test_a_redrive_whose_outcome_is_a_failure_exits_1(monkeypatch: pytest.MonkeyPatch) -> None:
    async def outcomes(*_: Any) -> dict[str, int]:
        return {"waiting": 0, "handled": 1, "failed": number}

    monkeypatch.setattr(DeadLetters, "outcomes", outcomes)
    number = 1
    done = run("dead-letters", "redrive", "1", "--reason", "x", "--wait")
    assert (done.code, done.out.splitlines()[-1]) == (1, "1 handled, 1 failed")
    number = 0
    assert run("dead-letters", "redrive", "2", "--reason", "x", "--wait").code == 0


def test_a_redrive_is_waited_for_until_its_job_has_ended_and_for_whom_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    came = [{"waiting": 1}, {"waiting": 1}, {"waiting": 0, "left": 1}, {"waiting": 0, "left": 1}]

    async def outcomes(*_: Any) -> dict[str, int]:
        return came.pop(0) if came else {"waiting": 0, "failed": 1}

    monkeypatch.setattr(DeadLetters, "outcomes", outcomes)
    monkeypatch.setattr("pipeline.cli.redriving._PATIENCE", 2)
    monkeypatch.setattr("pipeline.cli.redriving._LOOK_SECONDS", 0)

    done = run("dead-letters", "redrive", "1", "--reason", "x", "--wait")

    assert (done.code, done.out.splitlines()[-1]) == (1, "1 failed")
    assert done.err.splitlines() == [
        "waiting for their runner: 'pipeline stats' shows whether it runs, or why it is paused; Ctrl-C ends only this",
        "waiting for workers to run what was left as jobs: 'pipeline queues' shows how they get on; "
        "Ctrl-C ends only this",
    ]


def test_force_is_advised_only_to_whom_it_helps() -> None:
    again = run("dead-letters", "redrive", "3", "--reason", "x")
    assert again.err.endswith("error: 1 dead letter was left as it was: --force runs it all the same\n")
    assert run("dead-letters", "redrive", "1", "--reason", "x").code == 0
    again = run("dead-letters", "redrive", "1", "--reason", "x")
    assert again.err.endswith("error: 1 dead letter was left as it was\n")
    again = run("dead-letters", "redrive", "1", "3", "--reason", "x")
    assert again.err.endswith("2 dead letters were left as they were: --force runs 1 of them all the same\n")


def test_ids_all_and_other_options_contradict_each_other() -> None:
    for which in (["1", "--all"], ["1", "--route", "hello.*"], ["--all", "--since", "1h"]):
        ran = run("dead-letters", "redrive", *which, "--reason", "x")
        assert (ran.code, "contradict each other" in ran.err) == (2, True), which
    assert states() == ["open"] * 3
