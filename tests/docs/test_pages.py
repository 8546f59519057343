"""The pages hang together: generated sections are fresh, links lead somewhere, and nothing that exists is left out."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any, get_args

import pytest
from pydantic import BaseModel

import pipeline
from pipeline import hookspecs
from pipeline.cli.letters_chosen import KINDS
from pipeline.config.models import PipelineConfig, Policy, ResourceTable, StageTable
from pipeline.config.problems import keys_of
from pipeline.plugins import Plugins, load_plugins
from pipeline.stats import InstanceStats
from tests.docs.blocks import PAGES, ROOT, name_of, section
from tests.docs.commands import every_command

DOCS = ROOT / "docs"
OWN = "pipeline-runner"
LINK = re.compile(r"\[[^\]\n]+\]\(([^)\s]+)\)")
CODE = re.compile(r"^```.*?^```$|`[^`\n]*`", re.DOTALL | re.MULTILINE)


@cache
def read(name: str) -> str:
    return (DOCS / name).read_text()


@cache
def everything() -> str:
    return "\n".join(page.read_text() for page in PAGES)


@cache
def plugins() -> Plugins:
    return load_plugins().require_sound()


@pytest.mark.slow
def test_generated_sections_are_up_to_date() -> None:
    check = [sys.executable, str(DOCS / "generate.py"), "--check"]
    done = subprocess.run(check, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# Links


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.*)$", re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.M | re.S), re.M):
        slug = re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")
        found.add(slug)
    return found


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    lost = []
    for target in LINK.findall(CODE.sub("code", page.read_text())):
        if target.startswith("https://"):
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        if not file.exists() or (anchor and anchor not in anchors(file)):
            lost.append(target)
    assert not lost


def test_the_readme_leads_to_every_page() -> None:
    readme = (ROOT / "README.md").read_text()
    missing = [page.name for page in DOCS.glob("*.md") if f"(docs/{page.name})" not in readme]
    assert not missing


# Completeness


def test_every_hook_is_documented() -> None:
    hooks = [name for name in vars(hookspecs) if name.startswith("pipeline_")]
    assert len(hooks) >= 5
    assert [hook for hook in hooks if f"`{hook}()`" not in read("plugins.md")] == []


def test_every_command_has_its_help_in_the_docs() -> None:
    names = [" ".join(path) for path, command in every_command() if not hasattr(command, "commands")]
    assert len(names) >= 11
    assert [name for name in names if f"<!-- generated: command {name} -->" not in read("commands.md")] == []


def test_every_command_has_a_heading() -> None:
    names = {path[0] for path, _ in every_command() if path}
    assert [name for name in names if f"## `pipeline {name}`" not in read("commands.md")] == []


def tables(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    """The models within a model's fields, and itself."""
    yield model
    for field in model.model_fields.values():
        for inner in models_in(field.annotation):
            yield from tables(inner)


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for argument in get_args(annotation):
        yield from models_in(argument)


def undocumented(models: Sequence[type[BaseModel]], page: str) -> list[str]:
    rows = re.findall(r"^\| `([^`]+)` \|", page, re.MULTILINE)
    return [f"{model.__name__}.{key}" for model in models for key in keys_of(model) if key not in rows]


def test_every_key_of_the_file_is_documented() -> None:
    ours = [model for model in tables(PipelineConfig) if model is not PipelineConfig]
    assert {"BrokerTable", "SourceTable", "RouteTable", "StageTable"} <= {model.__name__ for model in ours}
    missing = undocumented([*ours, *tables(Policy)], read("configuration.md"))
    assert missing == [f"{model.__name__}.options" for model in (ResourceTable, StageTable)]  # which are no keys
    for table in PipelineConfig.model_fields:
        assert re.search(rf"^### `\[{{1,2}}{table}\b", read("configuration.md"), re.MULTILINE), table


def test_every_option_of_a_handler_that_comes_with_it_is_documented() -> None:
    handlers = [handler for plugin in plugins().loaded if plugin.origin.startswith(OWN) for handler in plugin.handlers]
    assert {handler.name for handler in handlers} >= {"audit", "log", "workflow-control"}
    for handler in handlers:
        assert f"## `{handler.name}`" in read("handlers-included.md")
        pages = read("handlers-included.md") + read("governance.md")
        assert undocumented(list(tables(handler.Options)), pages) == []


def test_every_option_of_a_resource_that_comes_with_it_is_documented() -> None:
    for plugin in plugins().loaded:
        for resource in plugin.resources if plugin.origin.startswith(OWN) else ():
            assert f"`[resource.{resource.name}]`" in read("configuration.md")
            assert undocumented(list(tables(resource.Options)), read("configuration.md")) == []


def test_every_scheme_of_a_broker_is_documented() -> None:
    schemes = [scheme for plugin in plugins().loaded for connector in plugin.connectors for scheme in connector.schemes]
    assert [scheme for scheme in schemes if f"`{scheme}://" not in read("configuration.md")] == []


def test_every_variable_that_is_read_is_documented() -> None:
    sources = [*(ROOT / "pipeline" / "config").glob("*.py"), *(ROOT / "plugins").rglob("*.py")]
    text = "\n".join(source.read_text() for source in sources)
    names = set(re.findall(r'"((?:PIPELINE|DATABASE|REDIS|RABBITMQ|TEMPORAL)_[A-Z_]*[A-Z])"', text))
    assert {"PIPELINE_BROKER_URL", "DATABASE_URL", "REDIS_URL", "RABBITMQ_HOST", "TEMPORAL_HOST"} <= names
    assert [name for name in sorted(names) if f"`{name}`" not in read("configuration.md")] == []


def test_every_public_name_is_used_somewhere() -> None:
    assert [name for name in pipeline.__all__ if not re.search(rf"\b{name}\b", everything())] == []


def test_every_figure_of_the_stats_is_documented() -> None:
    assert [field.name for field in fields(InstanceStats) if f"| `{field.name}` |" not in read("library.md")] == []


def test_every_state_of_a_source_is_documented() -> None:
    source = (ROOT / "pipeline" / "supervisor.py").read_text()
    states = set(re.findall(r'(?:_tell\(|stats\.state[^=\n]*= )"(\w+)"', source)) | {"starting"}
    assert len(states) >= 6
    assert [state for state in states if f"| `{state}` |" not in read("commands.md")] == []


def test_every_kind_of_dead_letter_of_the_engine_is_documented() -> None:
    table = section(DOCS / "guide.md", "Dead letters")
    assert [kind for kind in KINDS if f"`{kind}`" not in table] == []


def test_no_page_is_unfinished() -> None:
    assert re.findall(r"(?i)\b(?:TODO|FIXME|TBD|coming soon)\b[^\n]*", everything()) == []
