"""Every TOML block of the docs is a pipeline that could run, or a fragment of one."""

from __future__ import annotations

import re
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import pytest
import tomlkit

from pipeline.config.load import Loaded, load
from pipeline.plugins import Plugins, load_plugins
from tests.docs.blocks import Block, blocks, files_of

PIPELINES = [block for block in blocks("toml") if block.info in ("", "fragment", "pipeline.toml")]
STRANGER = Path(__file__).parents[1] / "third_party" / "acme_orders" / "src"


def completed(block: Block) -> str:
    """A fragment with what it lacks to be a pipeline: a source, and a route to the stages that it configures."""
    document: dict[str, Any] = tomlkit.parse(block.text).unwrap()
    if block.info != "fragment":
        return block.text
    stages = list(document.get("stage", {}))
    sources = "" if "source" in document else '[source.example]\nstream = "example"\ngroup = "example"\n'
    routes = "" if "route" in document else f'[[route]]\nmatch = "#"\nstages = {stages or ["log"]}\n'
    return f"{block.text}\n{sources}\n{routes}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder of local handlers; what the docs call ``rates.json`` and so on need not be there."""
    (tmp_path / "handlers.d").mkdir()
    return tmp_path


def plugins_for(block: Block, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Plugins:
    """What is installed, the stranger's package, and the files that the block's page shows beside it."""
    for name, text in files_of(block.page).items():
        if "/" in name:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_text(text)
    monkeypatch.syspath_prepend(STRANGER)
    stranger = EntryPoint("acme-orders", "acme_orders", "pipeline")
    return load_plugins([folder / "handlers.d"], installed=[*entry_points(group="pipeline"), stranger])


def loaded(block: Block, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Loaded:
    text = completed(block)
    file = folder / "pipeline.toml"
    file.write_text(text)
    variables = dict.fromkeys(re.findall(r"\$\{(\w+)\}", text), "secret")
    return load(file, variables, plugins_for(block, folder, monkeypatch).require_sound().catalog())


@pytest.mark.parametrize("block", PIPELINES, ids=str)
def test_it_is_sound(block: Block, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert loaded(block, folder, monkeypatch).warnings == ()


def test_there_are_blocks_of_both_kinds() -> None:
    kinds = [block.info for block in PIPELINES]
    assert kinds.count("fragment") > 5
    assert len(kinds) - kinds.count("fragment") > 4
