"""The sample `pipeline.toml` is sound as it stands, and with each embedded part replaced."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

from jsonschema import Draft202012Validator

from pipeline.config.load import Loaded, load
from pipeline.config.schema import json_schema
from pipeline.plugins import load_plugins

SAMPLE = Path(__file__).parent.parent / "pipeline.toml"
REPLACEMENT = re.compile(r"^# ((?:url|address|namespace) = .*)$", re.MULTILINE)


def loaded(path: Path = SAMPLE) -> Loaded:
    return load(path, {}, load_plugins().require_sound().catalog())


def test_the_sample_is_sound_and_runs_on_embedded_parts() -> None:
    sample = loaded()
    assert sample.warnings == ()
    assert {sample.origins[f"{part}.url"] for part in ("broker", "database", "jobs")} == {"default (embedded)"}
    assert [(route.match, route.stages, route.finally_) for route in sample.config.route] == [
        (("admin.workflow.*",), ("workflow-control",), ("audit",)),
        (("hello.#",), ("log",), ()),
        (("governance.#",), ("governance",), ("audit",)),
    ]
    assert len(sample.queues) == 8
    assert "governance:policy" in sample.queues


def test_every_embedded_part_of_the_sample_can_be_replaced_by_the_line_that_stands_there(tmp_path: Path) -> None:
    text, count = REPLACEMENT.subn(r"\1", SAMPLE.read_text())
    assert count == 5
    replaced = tmp_path / "pipeline.toml"
    replaced.write_text(text)
    origins = loaded(replaced).origins
    for path in ("broker.url", "database.url", "jobs.url", "resource.temporal.address", "resource.temporal.namespace"):
        assert origins[path].startswith(f"{replaced}:")


def test_the_sample_fits_the_schema() -> None:
    schema = json_schema(load_plugins().require_sound().catalog())
    assert list(Draft202012Validator(schema).iter_errors(tomllib.loads(SAMPLE.read_text()))) == []
