"""Policies in the file: their forms, their mistakes, and where each value came from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, ClassVar

import pytest

from pipeline.check import check
from pipeline.config.catalog import Catalog
from pipeline.config.models import Policy
from pipeline.config.policies import RateLimit
from pipeline.handlers import Handler
from tests.pipeline.config.fakes import CATALOG, SOUND, ControlOptions, Folder
from tests.pipeline.config.test_schema import errors


class Slow(Handler[ControlOptions]):
    name = "slow"
    Options = ControlOptions
    policy: ClassVar[Policy] = Policy(timeout=7)

    @classmethod
    def default_policy(cls, options: ControlOptions) -> Policy:
        return Policy(timeout=9, rate_limit=(RateLimit(rate=options.in_flight, burst=1, key="data.k"),))


PLUGINS = Catalog(
    handlers={**CATALOG.handlers, "slow": Slow}, resources=CATALOG.resources, connectors=CATALOG.connectors
)


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path)


def with_policy(policy: str, stage: str = "log", more: str = "") -> str:
    return SOUND + f"[stage.{stage}]\n{more}policy = {policy}\n"


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ('{ rate_limit = "5/s" }', [(5.0, 5, None)]),
        ("{ rate_limit = 0.5 }", [(0.5, 1, None)]),
        ('{ rate_limit = { rate = "300/m", burst = 2, key = "data.k" } }', [(5.0, 2, "data.k")]),
        ('{ rate_limit = ["100/s", { rate = "10/h", key = "headers.tenant" }] }',
         [(100.0, 100, None), (10 / 3600, 1, "headers.tenant")]),
        ("{ rate_limit = false }", []),
    ],
)  # fmt: skip
def test_a_rate_limit_is_a_rate_a_table_or_a_list(folder: Folder, text: str, limits: list[Any]) -> None:
    found = folder.load(with_policy(text)).policy("log").rate_limit
    assert [(limit.rate, limit.size, limit.key) for limit in found] == limits


def test_concurrency_is_a_number_or_a_table(folder: Folder) -> None:
    plain = folder.load(with_policy("{ concurrency = 7 }")).policy("log")
    assert (plain.limit, plain.per_key) == (7, None)
    text = with_policy('{ concurrency = { per_key = 1, key = "data.tenant" } }')
    keyed = folder.load(text).policy("log")
    assert (keyed.limit, keyed.per_key.per_key if keyed.per_key else 0) == (100, 1)


def test_the_schema_takes_every_form_and_marks_mistakes() -> None:
    forms = [
        '{ rate_limit = "5/s", circuit = {}, coalesce = { window = "2s", match = "a.#" }, concurrency = 3 }',
        '{ rate_limit = { rate = 5, key = "data.k" }, circuit = false, concurrency = { per_key = 1, key = "id" } }',
        '{ rate_limit = ["5/s", { rate = "300/m" }, 0.5], coalesce = false, circuit = { ratio = "${RATIO}" } }',
        "{ rate_limit = 0.5 }",
    ]
    mistakes = ['{ rate_limit = "fast" }', "{ circuit = { x = 1 } }", "{ coalesce = {} }", "{ concurrency = 0 }"]
    tables = [f'[stage.s{number}]\nuse = "log"\npolicy = {form}\n' for number, form in enumerate(forms + mistakes)]
    assert sorted(errors(SOUND + "".join(tables))) == ["$.stage.s4", "$.stage.s5", "$.stage.s6", "$.stage.s7"]


@pytest.mark.parametrize("policy", ["circuit", "coalesce", "rate_limit"])
def test_a_policy_of_the_handler_is_switched_off_by_false(folder: Folder, policy: str) -> None:
    loaded = folder.load(with_policy(f"{{ {policy} = false }}", "slow"), PLUGINS)
    assert not getattr(loaded.policy("slow"), policy)


def test_a_limit_of_each_key_leaves_the_handlers_limit_as_it_is(
    folder: Folder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Slow, "default_policy", lambda options: Policy(concurrency=20))
    text = with_policy("{ concurrency = { per_key = 2, key = 'id' } }", "slow").replace('["log"]', '["slow"]')
    (slow,) = check(folder.load(text, PLUGINS)).routes[0].stages
    found = {value.path: (value.value, value.origin) for value in slow.policy_values}
    assert found["concurrency.limit"] == ("20", "handler slow")
    assert found["concurrency.per_key"][0] == "2"


def test_the_default_policy_may_depend_on_the_options(folder: Folder) -> None:
    loaded = folder.load(with_policy("{ retry = { attempts = 2 } }", "slow", "in_flight = 3\n"), PLUGINS)
    policy = loaded.policy("slow")
    assert (policy.timeout, policy.retry.attempts, [str(limit) for limit in policy.rate_limit]) == (
        9, 2, ["3/s for each data.k"],
    )  # fmt: skip


@pytest.mark.parametrize(
    ("policy", "key", "message"),
    [
        ('{ rate_limit = "fast" }', "rate_limit",
         "'fast' is not a rate: write a number and a unit of time, as in '5/s', '300/m' or '10/h'"),
        ('{ rate_limit = { rate = "5/s", burts = 2 } }', "rate_limit.burts",
         "unknown key 'burts'; did you mean 'burst'?"),
        ('{ rate_limit = { burst = 2 } }', "rate_limit.rate",
         "the key is missing: how many events in a unit of time: 5/s, 300/m, 10/h"),
        ('{ rate_limit = ["5/s", { rate = "0/s" }] }', "rate_limit[1].rate", "it must be greater than 0, not '0/s'"),
        ('{ rate_limit = { rate = "5/s", key = "data." } }', "rate_limit.key", "data."),
        ('{ rate_limit = { rate = "5/s", key = "tenant" } }', "rate_limit.key", "tenant"),
        ("{ concurrency = { per_key = 1 } }", "concurrency", "per_key needs a key"),
        ("{ concurrency = 0 }", "concurrency", "it must be greater than or equal to 1, not 0"),
        ("{ rate_limit = true }", "rate_limit", "write a rate, as in '5/s', or false"),
        ("{ concurrency = true }", "concurrency", "write how many, as in 20"),
        ("{ retry = { backoff = true } }", "retry.backoff", "write a duration, as in '10s' or '1m30s'"),
        ('{ retry = { backoff = "5s", max_backoff = "1s" } }', "retry",
         "max_backoff (1 s) is shorter than backoff (5 s): no wait is longer"),
        ('{ concurrency = { limit = 2, per_key = 3, key = "data.id" } }', "concurrency",
         "per_key (3) is greater than limit (2), so it limits nothing"),
        ("{ circuit = { ratio = 2 } }", "circuit.ratio", "it must be less than or equal to 1, not 2"),
        ("{ circuit = { open = 2 } }", "circuit.open", "unknown key 'open'; did you mean 'open_for'?"),
        ('{ coalesce = { window = "2s" } }', "coalesce.match", "the key is missing: a topic pattern, or a list"),
        ('{ coalesce = { window = "soon", match = "#" } }', "coalesce.window", "'soon' is not a duration"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_policy_is_told_with_its_key_and_line(
    folder: Folder, policy: str, key: str, message: str
) -> None:
    line, path, told = folder.only_problem(with_policy(policy))
    assert (line, path) == (9, f"stage.log.policy.{key}")
    assert message in told


COALESCE = '{ coalesce = { window = "2s", match = "admin.#" } }'
KEYED = SOUND.replace("stages", 'key = "data.id"\nstages')


def test_events_are_coalesced_only_where_a_route_has_a_key(folder: Folder) -> None:
    assert folder.only_problem(with_policy(COALESCE)) == (
        9,
        "stage.log.policy.coalesce",
        "the route 'admin.#' has no key, so no event of it stands for another: give it a 'key'",
    )
    assert folder.load(KEYED + f"[stage.log]\npolicy = {COALESCE}\n").policy("log").coalesce is not None


def test_an_async_stage_does_not_coalesce(folder: Folder) -> None:
    line, _, message = folder.only_problem(KEYED + f"[stage.log]\nasync = true\npolicy = {COALESCE}\n")
    assert line == 11
    assert message.startswith("an async stage can't coalesce events")


def test_a_finally_stage_does_not_coalesce(folder: Folder) -> None:
    text = KEYED.replace('stages = ["log"]', 'finally = ["log"]') + f"[stage.log]\npolicy = {COALESCE}\n"
    _, _, message = folder.only_problem(text)
    assert message.startswith("'finally' of the route 'admin.#' names this stage")


EXPLAINED = with_policy(
    '{ timeout = "${T:-3s}", concurrency = { per_key = 2, key = "id" }, circuit = {}, retry = { jitter = 0 } }', "slow"
).replace('["log"]', '["slow", "log"]')


def test_a_report_says_of_each_value_of_a_policy_where_it_came_from(folder: Folder) -> None:
    slow, log = check(folder.load(EXPLAINED, PLUGINS)).routes[0].stages
    found = {value.path: (value.value, value.origin.removeprefix(f"{folder.path}/")) for value in slow.policy_values}
    assert found == {
        "timeout": ("3s", "pipeline.toml:9 (default of T)"),
        "retry.attempts": ("5", "default"),
        "retry.backoff": ("1s", "default"),
        "retry.max_backoff": ("1m", "default"),
        "retry.jitter": ("0.0", "pipeline.toml:9"),
        "concurrency.limit": ("100", "default"),
        "concurrency.per_key": ("2", "pipeline.toml:9"),
        "concurrency.key": ("id", "pipeline.toml:9"),
        "rate_limit[0].rate": ("50/s", "handler slow"),
        "rate_limit[0].burst": ("1", "handler slow"),
        "rate_limit[0].key": ("data.k", "handler slow"),
        "circuit.ratio": ("0.5", "default"),
        "circuit.window": ("10s", "default"),
        "circuit.minimum": ("20", "default"),
        "circuit.open_for": ("5s", "default"),
        "circuit.half_open": ("1", "default"),
    }
    assert {value.origin for value in log.policy_values} == {"default"}


def test_a_report_tells_a_policy_in_a_line_and_as_json(folder: Folder) -> None:
    report = check(folder.load(EXPLAINED, PLUGINS))
    assert report.routes[0].stages[0].policy == (
        "time-out 3s, 5 tries, waits 1s to 60s, 100 at once, 2 at once for each id, at most 50/s for each data.k, "
        "circuit opens at 50% of 20 or more calls failed in 10s"
    )
    on_workers = check(folder.load(EXPLAINED.replace("[stage.slow]\n", "[stage.slow]\nasync = true\n"), PLUGINS))
    assert on_workers.routes[0].stages[0].policy == (
        "time-out 3s, 5 tries, waits 1s to 60s, 2 at once for each id on each worker, at most 50/s for each data.k on "
        "each worker, circuit opens at 50% of 20 or more calls failed in 10s"
    )
    shown = json.loads(json.dumps(report.as_json()))["routes"][0]["stages"][0]["policy_values"]
    assert shown[-1] == {"path": "circuit.half_open", "value": "1", "origin": "default"}


def test_a_rate_in_the_file_is_told_also_in_its_short_forms(folder: Folder) -> None:
    for text in ('"7/s"', '{ rate = "7/s" }', '[{ rate = "7/s" }]', '["7/s"]'):
        (log,) = check(folder.load(with_policy(f"{{ rate_limit = {text} }}"), PLUGINS)).routes[0].stages
        (rate,) = [value for value in log.policy_values if value.path == "rate_limit[0].rate"]
        assert (rate.value, rate.origin.rpartition(":")[2]) == ("7/s", "9")


def test_a_word_that_looks_like_a_wildcard_is_warned_of_where_events_are_coalesced(folder: Folder) -> None:
    text = KEYED + '[stage.log]\npolicy = { coalesce = { window = "2s", match = "order.foo*" } }\n'
    (warning,) = folder.load(text).warnings
    assert (warning.path, warning.message) == (
        "stage.log.policy.coalesce.match", "'foo*' matches only itself: '*' and '#' are wildcards only as whole words",
    )  # fmt: skip
