"""The JSON Schema takes what the loader takes, and refuses what editors should mark."""

from __future__ import annotations

import tomllib
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from pipeline.config.schema import json_schema
from tests.pipeline.config.fakes import CATALOG, SOUND
from tests.pipeline.config.test_load import FULL


def errors(text: str) -> list[str]:
    schema: dict[str, Any] = json_schema(CATALOG)
    parsed = tomllib.loads(text.replace("2026-01-31T12:00:00Z", '"2026-01-31T12:00:00Z"'))
    return [error.json_path for error in Draft202012Validator(schema).iter_errors(parsed)]


VARIABLES = SOUND + '[stage.control]\nin_flight = "${N}"\npolicy = { retry = { attempts = "${N:-3}" } }\n'


def test_it_is_a_schema_itself() -> None:
    Draft202012Validator.check_schema(json_schema(CATALOG))


@pytest.mark.parametrize("text", [SOUND, FULL, VARIABLES])
def test_a_sound_file_fits_the_schema(text: str) -> None:
    assert errors(text) == []


@pytest.mark.parametrize(
    ("old", "new", "path"),
    [
        ("stages", "stagse", "$.route[0]"),
        ("match =", "mtch =", "$.route[0]"),
        ("[source.admin]", "[broker]\nport = 1\n[source.admin]", "$.broker"),
        ("[[route]]", "[x]\n[[route]]", "$"),
        ('["log"]', '["log"]\n[stage.control]\nin_flight = 0', "$.stage.control"),
        ('["log"]', '["log"]\n[stage.control]\nsingals = {}', "$.stage.control"),
        ('["log"]', '["log"]\n[stage.mine]\nsignals = {}', "$.stage.mine"),
        ('["log"]', '["log"]\n[stage.mine]\nuse = "audit"\npolicy = { timeout = "soon" }', "$.stage.mine"),
        ('["log"]', '["log"]\n[resource.temporal]\nadress = "x"', "$.resource.temporal"),
    ],
)
def test_a_mistake_does_not_fit_the_schema(old: str, new: str, path: str) -> None:
    assert path in errors(SOUND.replace(old, new))


def test_a_stage_of_another_name_fits_with_use() -> None:
    assert errors(SOUND + '[stage.mine]\nuse = "control"\nin_flight = 3\n') == []


def test_without_plugins_stages_take_any_options() -> None:
    parsed = tomllib.loads(SOUND + "[stage.x]\ny = 1\n")
    assert list(Draft202012Validator(json_schema()).iter_errors(parsed)) == []
