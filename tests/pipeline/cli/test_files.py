"""`init`, `check` and `routes`: what a file says, before anything runs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.pipeline.cli.support import HELLO, TWO_SOURCES, run, write


def test_init_writes_a_file_that_is_fine() -> None:
    assert run("init").code == 0
    assert run("check").code == 0


def test_the_commands_in_the_starter_file_work() -> None:
    run("init")
    assert run("publish", "hello.world", '{"name": "you"}').code == 0
    text = Path("pipeline.toml").read_text()
    for line in ("pipeline check", "pipeline run", 'pipeline publish hello.world \'{"name": "you"}\''):
        assert line in text


def test_every_commented_out_line_of_the_starter_file_is_fine_too(monkeypatch: pytest.MonkeyPatch) -> None:
    run("init", "starter.toml")
    monkeypatch.setenv("DB_PASS", "x")
    monkeypatch.setenv("RABBITMQ_PASS", "y")
    Path("handlers.d").mkdir()
    lines = Path("starter.toml").read_text().splitlines()
    shown = [line[2:] if line.startswith("# ") and ("=" in line or line[2] == "[") else line for line in lines]
    write("\n".join(shown))
    assert sum(line != shown[number] for number, line in enumerate(lines)) == 12
    done = run("check")
    assert done.code == 0, done.err


def test_init_leaves_an_existing_file_alone() -> None:
    write("# mine\n")
    done = run("init")
    assert done.code == 2
    assert "exists already" in done.err
    assert Path("pipeline.toml").read_text() == "# mine\n"


def test_init_says_why_it_cannot_write() -> None:
    done = run("init", "no/such/folder.toml")
    assert done.code == 2
    assert "can't be written" in done.err


def test_check_shows_routes_stages_policies_and_where_values_came_from(monkeypatch: pytest.MonkeyPatch) -> None:
    write(TWO_SOURCES)
    monkeypatch.setenv("DATABASE_URL", "postgresql://me:hunter2@db/x")
    done = run("check")
    assert (done.code, done.err) == (0, "")
    assert "big (log): time-out 30s, 5 tries" in done.out
    assert "environment DATABASE_URL" in done.out
    assert "hunter2" not in done.out
    assert done.out.rstrip().endswith("pipeline.toml is fine: 2 routes")


def test_check_tells_every_problem_at_once_and_exits_1() -> None:
    write(HELLO.replace("log", "lgo").replace('"hello.*"', "5"))
    done = run("check")
    assert (done.code, done.out) == (1, "")
    assert "did you mean 'log'" in done.err
    assert "route[0].match" in done.err


def test_check_as_json_has_one_shape_for_good_and_bad_files() -> None:
    write(HELLO)
    good = run("check", "--json")
    write(HELLO.replace("log", "lgo"))
    bad = run("check", "--json")
    assert (good.code, good.json["ok"], bad.code, bad.json["ok"]) == (0, True, 1, False)
    assert good.json.keys() == bad.json.keys()
    assert bad.json["problems"][0].keys() == {"message", "path", "file", "line"}
    assert bad.json["problems"][0]["line"] == 11


def test_check_tells_of_a_file_that_is_no_toml() -> None:
    write("[pipeline\n")
    done = run("check")
    assert done.code == 1
    assert done.err.startswith("pipeline.toml:1: ")


def test_check_tells_of_broken_local_handlers_together_with_the_rest() -> None:
    write(HELLO.replace('name = "hello"', 'handlers = "mine.py"').replace("stages", "stagse"))
    Path("mine.py").write_text("import nothing_of_that_name\n")
    done = run("check")
    assert done.code == 1
    assert "nothing_of_that_name" in done.err
    assert "stagse" in done.err


def test_check_tells_of_local_handlers_that_are_not_there() -> None:
    write(HELLO.replace('name = "hello"', 'handlers = "nowhere"'))
    done = run("check")
    assert done.code == 1
    assert "nowhere" in done.err


def test_warnings_do_not_fail_a_check() -> None:
    write(HELLO + '[stage.unused]\nuse = "log"\n')
    done = run("check")
    assert done.code == 0
    assert "warning: pipeline.toml:12: stage.unused" in done.err
    assert "1 warning" in done.out


def test_the_schema_is_one_json_document_with_the_options_of_local_handlers() -> None:
    write(HELLO.replace('name = "hello"', 'handlers = "mine.py"'))
    Path("mine.py").write_text("from pipeline import handler\n@handler('mine')\nasync def mine(event): pass\n")
    schema = run("check", "--schema").json
    assert schema["title"] == "pipeline.toml"
    assert "mine" in json.dumps(schema)


def test_routes_lists_them_all() -> None:
    write(TWO_SOURCES)
    routes = run("routes", "--json").json["routes"]
    assert [(route["name"], route["source"]) for route in routes] == [("admin.#", "admin"), ("order.*", "sales")]
    assert routes[1]["stages"] == [
        {"name": "big", "handler": "log", "async": False, "queue": None,
         "when": {"expression": "has(data.customer)", "holds": None, "reason": None}}
    ]  # fmt: skip
    shown = run("routes").out.splitlines()
    assert shown[0].split() == ["route", "source", "match", "key", "when", "stages", "finally"]
    assert "order.*, refund.*" in shown[2]


def test_routes_of_a_key_say_which_take_it_and_why() -> None:
    write(TWO_SOURCES)
    done = run("routes", "refund.asked")
    assert done.code == 0
    assert "sales: order.* takes it: 'refund.*' matches" in done.out
    assert "admin: admin.# does not: 'admin.#':" in done.out
    assert "finally  log" in done.out


def test_routes_of_a_key_that_none_takes_exit_1() -> None:
    write(TWO_SOURCES)
    assert run("routes", "nobody.knows").code == 1
    assert run("routes", "admin.x", "--source", "sales").code == 1
    assert run("routes", "admin.x", "--source", "admin").code == 0


@pytest.mark.parametrize(
    ("data", "route_holds", "stage_holds", "key"),
    [
        ('{"total": 11, "customer": 1, "order": {"id": 7}}', True, True, "7"),
        ('{"total": 10}', False, False, None),
        ("{}", False, False, None),
    ],
)
def test_conditions_and_keys_are_worked_out_for_given_data(
    data: str, route_holds: bool, stage_holds: bool, key: str | None
) -> None:
    write(TWO_SOURCES)
    taken = run("routes", "order.paid", "--data", data, "--json").json["routes"][1]
    assert taken["matched"]
    assert taken["when"]["holds"] is route_holds
    assert taken["stages"][0]["when"]["holds"] is stage_holds
    assert taken["key_value"] == key


def test_a_condition_that_fails_says_why() -> None:
    write(TWO_SOURCES)
    shown = run("routes", "order.paid", "--data", "{}").out
    assert "data.total > 10  → does not hold: " in shown


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["order.paid", "--data", "{"], "--data: not JSON"),
        (["--data", "{}"], "--data needs a routing key"),
        (["x", "--source", "nope"], "there is no [source.nope]"),
    ],
)
def test_mistakes_in_routes_are_told(arguments: list[str], words: str) -> None:
    write(TWO_SOURCES)
    done = run("routes", *arguments)
    assert (done.code, done.out) == (2, "")
    assert words in done.err


ASYNC = (
    HELLO
    + """
[stage.log]
async = true

[jobs]
concurrency = 7

[jobs.queue.stages]
retry = { attempts = 2 }
"""
)


def test_check_shows_the_queues_and_the_stages_that_use_them() -> None:
    write(ASYNC)
    shown = run("check").out.splitlines()
    assert "  stages   log: time-out 30s, 5 tries, waits 1s to 60s; async on stages" in shown
    at = shown.index("queue stages")
    assert shown[at + 1 : at + 4] == [
        "  stages   log",
        "  jobs     tried as their stages say, 7 at once on each worker; sources pause at 100,000 that wait",
        "  keeps    100 completed and 1,000 failed runs",
    ]
    assert any(line.split()[:3] == ["jobs.concurrency", "7", "pipeline.toml:17"] for line in shown)


def test_check_says_where_there_are_no_workers_for_jobs_and_nothing_of_jobs_where_there_are_none() -> None:
    write(HELLO + "[stage.log]\nasync = true\n")
    assert (
        "jobs are run by the runner itself: write [jobs] to have them run by workers\nqueue stages\n"
        in run("check").out
    )
    write(HELLO)
    assert "jobs" not in run("check").out


def test_check_explains_the_policy_of_each_stage_on_request() -> None:
    write(HELLO + '[stage.log]\npolicy = { rate_limit = "5/s" }\n')
    assert "policy of log" not in run("check").out
    shown = run("check", "--explain").out.splitlines()
    at = shown.index("policy of log")
    rows = {row[0]: row[1:] for row in (line.split() for line in shown[at + 2 :]) if len(row) == 3}
    assert rows["retry.attempts"] == ["5", "default"]
    assert rows["rate_limit[0].rate"] == ["5/s", f"pipeline.toml:{len(HELLO.splitlines()) + 2}"]


def test_check_warns_of_a_queue_that_nothing_uses() -> None:
    write(ASYNC.replace("queue.stages", "queue.stagse"))
    done = run("check")
    assert done.code == 0
    assert "jobs.queue.stagse: no stage uses this queue; did you mean 'stages'?" in done.err


def test_routes_say_which_stages_are_async_and_on_which_queue() -> None:
    write(ASYNC)
    assert "    stages   log async on stages" in run("routes", "hello.x").out.splitlines()
    (stage,) = run("routes", "--json").json["routes"][0]["stages"]
    assert (stage["async"], stage["queue"]) == (True, "stages")


def test_the_schema_takes_async_queues_and_their_keys() -> None:
    import tomllib

    from jsonschema import Draft202012Validator

    write(HELLO)
    fits = Draft202012Validator(run("check", "--schema").json).is_valid
    assert fits(tomllib.loads(ASYNC))
    assert fits(tomllib.loads(ASYNC.replace("async = true", 'async = "slow"')))
    for wrong in ("attempts = 0", "atempts = 1"):
        assert not fits(tomllib.loads(ASYNC.replace("attempts = 2", wrong)))
    assert not fits(tomllib.loads(ASYNC.replace("async = true", "async = 5")))


def test_a_folder_of_handlers_that_is_missing_is_told_with_its_line() -> None:
    write(HELLO.replace("[source", 'handlers = ["./nosuch.d"]\n[source', 1))
    done = run("check")
    assert done.code == 1
    assert "pipeline.toml:5: pipeline.handlers: local handlers 'nosuch.d': there is no such folder" in done.err
