"""The check reports what a configuration means, or everything that is wrong with it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from pipeline.check import check, check_file
from tests.pipeline.config.fakes import CATALOG, SOUND, Folder

TEXT = """\
[broker]
url = "rabbit://u:secret@h"
[source.admin]
stream = "stream.admin"
group = "control"
[[route]]
match = ["admin.workflow.*", "wor*"]
key = "data.workflow_id"
when = "data.n > 1"
stages = ["control"]
finally = ["rows", "log"]
[stage.rows]
use = "audit"
when = "outcome == 'dead'"
policy = { timeout = "250ms", retry = { attempts = 1 } }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def test_a_report_shows_each_route_with_its_stages_and_their_effective_policies(folder: Folder) -> None:
    (route,) = check(folder.load(TEXT)).routes
    assert (route.name, route.source, route.match) == ("admin.workflow.*", "admin", ("admin.workflow.*", "wor*"))
    assert (route.key, route.when) == (("data.workflow_id",), "data.n > 1")
    (control,) = route.stages
    assert (control.use, control.resources) == ("control", ("temporal",))
    assert control.policy == "time-out 7s, 3 tries, waits 2s to 60s, 100 at once"
    rows, log = route.finally_
    assert (rows.name, rows.use, rows.when) == ("rows", "audit", "outcome == 'dead'")
    assert rows.policy == "time-out 0.25s, 1 try, 100 at once"
    assert log.use == "log"


def test_a_report_shows_where_values_came_from_and_no_secret(folder: Folder) -> None:
    report = check(folder.load(TEXT, DATABASE_URL="postgresql://u:secret@h/d", TEMPORAL_HOST="t:7233"))
    found = {value.path: (value.value, value.origin.removeprefix(f"{folder.path}/")) for value in report.values}
    assert found["broker.url"] == ("rabbit://u:***@h", "pipeline.toml:2")
    assert found["database.url"] == ("postgresql://u:***@h/d", "environment DATABASE_URL")
    assert found["jobs.url"] == ("", "default (inline)")
    assert found["resource.temporal.address"] == ("t:7233", "environment TEMPORAL_HOST")
    assert found["source.admin.start"] == ("first", "default")
    assert "secret" not in json.dumps(report.as_json())


def test_a_report_is_json(folder: Folder) -> None:
    report = json.loads(json.dumps(check(folder.load(TEXT)).as_json()))
    assert report["ok"] is True
    assert report["routes"][0]["finally"][0]["name"] == "rows"
    assert report["warnings"][0]["path"] == "route[0].match[1]"
    assert report["warnings"][0]["line"] == 7


def test_a_wrong_file_gives_a_report_of_its_problems(folder: Folder) -> None:
    folder.file.write_text(SOUND.replace("stages", "stagse"))
    report = check_file(folder.file, {}, CATALOG)
    assert not report.ok
    assert [(problem.line, problem.path) for problem in report.problems] == [(7, "route[0].stagse")]
    assert json.loads(json.dumps(report.as_json()))["problems"][0]["message"].startswith("unknown key 'stagse'")
    folder.file.write_text(SOUND)
    assert check_file(folder.file, {}, CATALOG).ok


JOBS = (
    TEXT
    + """\
[stage.log]
async = true
[stage.control]
async = "slow"
[jobs]
concurrency = 5
[jobs.queue.slow]
retry = { attempts = 1 }
keep_failed = 7
"""
)


def test_a_report_says_which_stages_are_async_and_on_which_queue(folder: Folder) -> None:
    report = check(folder.load(JOBS))
    (control,) = report.routes[0].stages
    rows, log = report.routes[0].finally_
    assert (control.policy, rows.policy) == (
        "time-out 7s, 3 tries, waits 2s to 60s", "time-out 0.25s, 1 try, 100 at once",
    )  # fmt: skip
    assert "concurrency" not in {value.path for value in control.policy_values}
    assert "concurrency" in {value.path for value in rows.policy_values}
    assert [(stage.is_async, stage.queues) for stage in (control, rows, log)] == [
        (True, ("slow",)), (False, ()), (True, ("stages",)),
    ]  # fmt: skip
    assert "at once" not in control.policy  # that is its queue's
    assert "100 at once" in rows.policy
    shown = json.loads(json.dumps(report.as_json()))["routes"][0]
    assert (shown["stages"][0]["async"], shown["finally"][0]["async"]) == (True, False)


def test_a_report_shows_the_queues_with_their_effective_settings(folder: Folder) -> None:
    report = check(folder.load(JOBS))
    slow, stages = json.loads(json.dumps(report.as_json()))["queues"]
    assert slow == {
        "name": "slow", "concurrency": 5, "attempts": 1, "backoff": 2.0, "max_backoff": 3600.0, "jitter": 0.0,
        "keep_completed": 100, "keep_failed": 7, "max_waiting": 100_000, "stages": ["control"],
        "tried_by_policy": True,
    }  # fmt: skip
    assert (stages["name"], stages["attempts"], stages["keep_failed"], stages["stages"]) == ("stages", 6, 1000, ["log"])
    assert report.use_queue
    inline = check(folder.load(TEXT + "[stage.log]\nasync = true\n"))
    assert ([queue.name for queue in inline.queues], inline.use_queue) == (["stages"], False)
