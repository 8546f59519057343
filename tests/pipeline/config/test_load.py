"""A sound `pipeline.toml` becomes a complete configuration; a wrong one is told all that is wrong, with its place."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from pipeline.config.load import load, peek
from pipeline.errors import ConfigError, PipelineError
from tests.pipeline.config.fakes import SOUND, Audit, Control, Folder, Temporal

FULL = """\
[pipeline]
name = "platform-admin"
handlers = "./handlers.d"

[broker]
url = "rabbit://guest:guest@localhost"

[source.admin]
stream = "stream.admin"
group = "control"
start = 2026-01-31T12:00:00Z
dedupe = false

[source.other]
stream = "stream.other"
group = "control"

[[route]]
source = "admin"
match = ["admin.workflow.*", "admin.bom.*"]
key = ["data.workflow_id", "headers.x-tenant"]
stages = ["control"]
finally = ["rows", "log"]
when = "data.n > 1"

[[route]]
source = "other"
name = "rest"
match = "#"
stages = ["log"]

[stage.control]
policy = { timeout = "10s", retry = { attempts = 8, max_backoff = "1m30s" } }
signals = { "admin.workflow.paused" = "pause" }
when = "data.x"

[stage.rows]
use = "audit"
when = "outcome == 'dead'"

[[stage.rows.row]]
action = "'x'"
"""


def test_a_sound_file_becomes_a_frozen_configuration(folder: Folder) -> None:
    config = folder.load(FULL).config
    assert config.pipeline.handlers == ("./handlers.d",)
    assert config.source["admin"].start == datetime(2026, 1, 31, 12, tzinfo=UTC)
    assert config.source["admin"].dedupe is False
    assert config.source["other"].dedupe == 24 * 3600
    first, rest = config.route
    assert (first.name, first.source, first.match) == (
        "admin.workflow.*", "admin", ("admin.workflow.*", "admin.bom.*"),
    )  # fmt: skip
    assert (first.key, first.finally_) == (("data.workflow_id", "headers.x-tenant"), ("rows", "log"))
    assert (rest.name, rest.match) == ("rest", ("#",))
    with pytest.raises(ValueError, match="frozen"):
        config.route[0].name = "x"  # type: ignore[misc]


def test_stages_get_their_handler_options_policy_and_condition(folder: Folder) -> None:
    loaded = folder.load(FULL)
    assert [loaded.handler(name) for name in ("control", "rows")] == [Control, Audit]
    assert loaded.options("control").signals == {"admin.workflow.paused": "pause"}  # type: ignore[attr-defined]
    assert [row.action.text for row in loaded.options("rows").row] == ["'x'"]  # type: ignore[attr-defined]
    condition = loaded.when("rows")
    assert condition is not None
    assert condition.holds({"outcome": "dead"}) == (True, "")
    assert loaded.when("log") is None


def test_a_stage_without_a_table_is_the_handler_of_its_name_with_default_options(folder: Folder) -> None:
    loaded = folder.load(SOUND)
    assert loaded.config.stage["log"].use == "log"
    assert loaded.policy("log").retry.attempts == 5
    assert loaded.options("log").model_dump() == {}
    with pytest.raises(PipelineError, match="there is no stage 'lgo'; did you mean 'log'"):
        loaded.options("lgo")


def test_a_policy_replaces_only_what_it_names_in_that_of_the_handler(folder: Folder) -> None:
    policy = folder.load(FULL).policy("control")
    assert (policy.timeout, policy.retry.attempts, policy.retry.backoff, policy.retry.max_backoff) == (10, 8, 2, 90)


def test_a_route_without_a_source_takes_the_only_one(folder: Folder) -> None:
    assert folder.load(SOUND).config.route[0].source == "admin"


def test_a_resource_that_a_handler_needs_is_there_without_a_table(folder: Folder) -> None:
    loaded = folder.load(SOUND.replace('"log"', '"control"'))
    assert loaded.resources == ("temporal",)
    assert loaded.resource("temporal") is Temporal
    assert loaded.resource_options("temporal").namespace == "default"  # type: ignore[attr-defined]


def test_without_plugins_only_the_shape_is_checked(folder: Folder) -> None:
    loaded = folder.load(SOUND.replace('"log"', '"nosuch"'), None)
    assert loaded.config.stage["nosuch"].use == "nosuch"
    assert loaded.config.broker.url is None
    assert [problem.path for problem in folder.problems(SOUND.replace("match", "mtch"), None)] == [
        "route[0].match", "route[0].mtch",
    ]  # fmt: skip


WRONG = """\
[pipelin]
name = "x"

[pipeline]
name = ""
grace = "soon"

[source.admin]
steam = "s"
group = "g"
start = "yesterday"
dedupe = true
batch = 0

[[route]]
source = "admn"
match = ["admin.*",
   5]
key = ["data.workflow_id",
  "workflow_id"]
stagse = ["control"]
finally_ = ["audit"]
when = "1 + 'a'"

[[route]]
source = "admin"
match = "a"
stages = [ "contrl",
  "log", 5 ]
finally = "audi"

[stage.control]
policy = { timeout = "10x", retry = { atempts = 8 } }
singals = { "a" = "b" }
in_flight = 0
async = 5

[[stage.audit.row]]
action = "'workflow_' +"
metadata = { workflow_id = "dta.x" }

[[stage.audit.row]]
actin = "1"

[stage.lgo]
when = "outcome == 'x'"
"""


def test_a_wrong_file_is_told_every_error_at_once_in_order_with_line_path_and_nearest_name(folder: Folder) -> None:
    problems = folder.problems(WRONG)
    assert [(problem.line, problem.path, problem.message) for problem in problems] == [
        (1, "pipelin", "unknown table 'pipelin'; did you mean 'pipeline'?"),
        (5, "pipeline.name", "it must not be empty"),
        (6, "pipeline.grace",
         "'soon' is not a duration: write a number and ms, s, m, h or d, as in '10s' or '1m30s'"),
        (8, "source.admin.stream", "the key is missing: the stream's name"),
        (9, "source.admin.steam", "unknown key 'steam'; did you mean 'stream'?"),
        (11, "source.admin.start", "'yesterday' is none of 'first', 'last', 'next', an offset, or a time"),
        (12, "source.admin.dedupe", "write how long ids are remembered, as in '24h', or false"),
        (13, "source.admin.batch", "it must be greater than or equal to 1, not 0"),
        (16, "route[0].source", "there is no [source.admn]; did you mean 'admin'?"),
        (18, "route[0].match[1]", "it must be a text in quotes, not 5"),
        (20, "route[0].key[1]",
         "'workflow_id' is no path: write id, routing_key, or a field as in data.id or headers.tenant"),
        (21, "route[0].stagse", "unknown key 'stagse'; did you mean 'stages'?"),
        (22, "route[0].finally_", "unknown key 'finally_'; did you mean 'finally'?"),
        (23, "route[0].when", """'+' does not take (int, string) (column 3 of "1 + 'a'")"""),
        (28, "route[1].stages[0]", "there is no stage and no handler 'contrl'; did you mean 'control'?"),
        (29, "route[1].stages[2]", "it must be a text in quotes, not 5"),
        (30, "route[1].finally", "there is no stage and no handler 'audi'; did you mean 'audit'?"),
        (33, "stage.control.policy.timeout",
         "'10x' is not a duration: write a number and ms, s, m, h or d, as in '10s' or '1m30s'"),
        (33, "stage.control.policy.retry.atempts", "unknown key 'atempts'; did you mean 'attempts'?"),
        (34, "stage.control.singals", "handler 'control' has no option 'singals'; did you mean 'signals'?"),
        (35, "stage.control.in_flight", "it must be greater than or equal to 1, not 0"),
        (36, "stage.control.async", "write true, false, or the name of a queue"),
        (39, "stage.audit.row[0].action", """the expression ends too early (column 14 of "'workflow_' +")"""),
        (40, "stage.audit.row[0].metadata.workflow_id",
         "unknown name 'dta.x': did you mean 'data'? (column 4 of 'dta.x')"),
        (42, "stage.audit.row[1].action", "the key is missing"),
        (43, "stage.audit.row[1].actin", "unknown key 'actin'; did you mean 'action'?"),
        (45, "stage.lgo", "there is no handler 'lgo' (name one with 'use'); did you mean 'log'?"),
        (46, "stage.lgo.when",
         """'outcome' is known in 'finally' stages only (column 1 of "outcome == 'x'")"""),
    ]  # fmt: skip


def test_an_error_reads_like_a_compilers(folder: Folder) -> None:
    with pytest.raises(ConfigError) as caught:
        folder.load(SOUND.replace("stages", "stagse"))
    assert str(caught.value) == f"{folder.file}:7: route[0].stagse: unknown key 'stagse'; did you mean 'stages'?"


@pytest.mark.parametrize(
    ("text", "line"),
    [("[a]\nb = \n", 2), ('a = "x\n', 1), ("a = 1\n\na = 2\n", 3), ('[a]\nb = """\n\n', 2), ("[[a]\n", 1), ("x", 1)],
)
def test_what_is_no_toml_is_told_its_line(folder: Folder, text: str, line: int) -> None:
    found, _, message = folder.only_problem(text)
    assert found == line
    assert message.startswith("no valid TOML: ")


def test_an_empty_file_is_told_what_to_write(folder: Folder) -> None:
    assert folder.only_problem("") == (
        None, "route", "there are no routes: write [[route]] with 'match' and 'stages', or nothing will be handled",
    )  # fmt: skip


def test_a_missing_file_a_folder_and_bytes_that_are_no_text_are_told_apart(folder: Folder) -> None:
    with pytest.raises(ConfigError, match=r"nosuch\.toml: there is no such file: name one"):
        load(folder.path / "nosuch.toml", {})
    with pytest.raises(ConfigError, match="this is a folder"):
        load(folder.path, {})
    folder.file.write_bytes(b"\n\na = '\xff'\n")
    with pytest.raises(ConfigError, match=r"pipeline\.toml:3: this is not UTF-8"):
        load(folder.file, {})


def test_a_byte_order_mark_and_windows_line_ends_do_no_harm(folder: Folder) -> None:
    folder.file.write_bytes(b"\xef\xbb\xbf" + SOUND.replace("\n", "\r\n").replace("match", "mtch").encode())
    with pytest.raises(ConfigError) as caught:
        load(folder.file, {}, None)
    assert [(problem.line, problem.path) for problem in caught.value.problems] == [
        (5, "route[0].match"), (6, "route[0].mtch"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("[[route]]", "[route]", (5, "route", "routes are a list: write [[route]], with two brackets")),
        ("[[route]]", "[[routes]]", (5, "routes", "unknown table 'routes'; did you mean 'route'?")),
        ("[source.admin]", "[source]", (2, "source.stream", "it must be a table: write [source.stream]: keys stand")),
        ("[source.admin]", "[[source]]", (1, "source", "it must be a table with a name: write [source.some-name]")),
        ("[source.admin]", "broker = 5\n[source.admin]", (1, "broker", "it must be a table: write [broker]")),
        ('["log"]', '["lost"]', (5, "route[0]", "the handler 'lost' needs the resource 'nowhere', which no")),
        ('["log"]', '["log", "log"]', (7, "route[0].stages[1]", "'log' is listed twice")),
        ('"admin.#"', f'"{"a" * 256}"', (6, "route[0].match", "a pattern has at most 255 bytes, and this one has 256")),
        ('["log"]', '["log"]\nwhen = "\'a\'"', (8, "route[0].when", "it gives string, and true or false is wanted")),
        ("[[route]]", "[resource.tempral]\n[[route]]", (5, "resource.tempral", "there is no kind of resource")),
        ('["log"]', '["log"]\n[stage.log]\nasync = " "', (9, "stage.log.async", "write true, false, or the name of a")),
        ('["log"]', '["log"]\n[jobs.queue.inline]', (8, "jobs.queue.inline", "'inline' is the runner's own queue")),
    ],
)
def test_a_mistake_is_told_what_to_write(folder: Folder, old: str, new: str, expected: tuple[int, str, str]) -> None:
    line, path, message = expected
    found = folder.problems(SOUND.replace(old, new))[0]
    assert (found.line, found.path) == (line, path)
    assert found.message.startswith(message)


def test_with_several_sources_a_route_must_name_one(folder: Folder) -> None:
    text = SOUND + '[source.b]\nstream = "b"\ngroup = "g"\n'
    assert folder.only_problem(text) == (
        5, "route[0].source", "there are several sources, so the route must name one of: admin, b",
    )  # fmt: skip


def test_two_sources_of_one_stream_and_group_are_refused(folder: Folder) -> None:
    text = (
        SOUND.replace("match", 'source = "admin"\nmatch') + '[source.b]\nstream = "stream.admin"\ngroup = "control"\n'
    )
    line, path, message = folder.only_problem(text)
    assert (line, path) == (11, "source.b.group")
    assert "[source.admin] reads the stream 'stream.admin' as group 'control' already" in message


def test_routes_have_names_of_their_own(folder: Folder) -> None:
    again = '[[route]]\nmatch = "admin.#"\nstages = ["audit"]\n'
    line, path, message = folder.only_problem(SOUND + again)
    assert (line, path) == (8, "route[1]")
    assert "another route is called 'admin.#' already: give this one a 'name'" in message
    named = again.replace("match", 'name = "admin.#"\nmatch')
    assert folder.only_problem(SOUND + named)[:2] == (9, "route[1].name")


def test_options_of_a_plugin_that_forgot_to_refuse_unknown_keys_are_refused_all_the_same(folder: Folder) -> None:
    text = SOUND.replace('"log"', '"lax"') + '[stage.lax]\nfromat = "line"\n'
    assert folder.only_problem(text) == (
        9, "stage.lax.fromat", "handler 'lax' has no option 'fromat'; did you mean 'format'?",
    )  # fmt: skip


def test_a_plugin_whose_options_model_fails_is_named(folder: Folder) -> None:
    text = SOUND.replace('"log"', '"lax"') + '[stage.lax]\nformat = "xml"\n'
    assert folder.only_problem(text) == (
        8, "stage.lax", "the options of handler 'lax' could not be checked: KeyError: 'xml'",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "line", "warning"),
    [
        ('"admin.#"', '"admin.work*"', 6, "'work*' matches only itself: '*' and '#' are wildcards only as whole words"),
        ('"admin.#"', '["a", "a"]', 6, "the pattern 'a' is listed twice"),
        ('"admin.#"', '""', 6, "the empty pattern matches only the empty routing key: write '#' for all keys"),
        ('["log"]', "[]", 5, "the route has no stages: its events count as handled, and nothing happens"),
        ('["log"]', '["log"]\n[stage.audit]', 8, "no route names this stage; there are: log"),
        (
            '["log"]',
            '["log"]\nsource = "admin"\n[source.b]\nstream = "b"\ngroup = "b"',
            9,
            "no route takes events from",
        ),
    ],
)
def test_what_is_probably_a_mistake_is_a_warning(folder: Folder, old: str, new: str, line: int, warning: str) -> None:
    ((found_line, message),) = folder.warnings(SOUND.replace(old, new))
    assert found_line == line
    assert message.startswith(warning)


def test_the_table_pipeline_can_be_read_before_plugins_are_known(folder: Folder) -> None:
    folder.file.write_text('[pipeline]\nhandlers = ["${DIR:-x}/h"]\n[[route]]\nwrong = 1\n')
    assert peek(folder.file, {"DIR": "d"}).handlers == ("d/h",)
    folder.file.write_text("[pipeline]\nhandlers = 5\n")
    assert peek(folder.file, {}).handlers == ()
    with pytest.raises(ConfigError):
        peek(Path("nosuch.toml"), {})
