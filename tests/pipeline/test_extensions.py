"""Hooks that plugins add for other plugins: what they return reaches options; what could not work is refused."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, ValidationInfo, field_validator

from pipeline.config.catalog import Catalog
from pipeline.config.load import load
from pipeline.errors import ConfigError, PluginError
from pipeline.handlers import Handler
from pipeline.plugins import Plugins, load_plugins

HOOKS = """
from pipeline.hookspecs import hookspec

@hookspec
def colour_names():
    'Colours.'
"""
OWNER = """
import colours_hooks
from pipeline import hookimpl

@hookimpl
def pipeline_hookspecs():
    return [colours_hooks]

@hookimpl
def colour_names():
    return ["red"]
"""
GUEST = """
from pipeline import hookimpl

@hookimpl
def colour_names():
    return ["green", "blue"]
"""


class World:
    """A folder of modules that can be imported, one of which adds the hook `colour_names`."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.write("colours_hooks.py", HOOKS)
        self.write("owner.py", OWNER)

    def write(self, name: str, text: str) -> Path:
        path = self.path / name
        path.write_text(textwrap.dedent(text))
        return path

    def load(self, *local: str, installed: tuple[str, ...] = ()) -> Plugins:
        points = [EntryPoint(name, name, "pipeline") for name in installed]
        return load_plugins([self.path / name for name in local], installed=points)

    def error(self, text: str, name: str = "guest.py") -> str:
        self.write(name, text)
        with pytest.raises(PluginError) as caught:
            self.load("owner.py", name).require_sound()
        return str(caught.value)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    import sys

    monkeypatch.syspath_prepend(str(tmp_path))
    known = set(sys.modules)
    yield World(tmp_path)
    for name in set(sys.modules) - known:
        del sys.modules[name]


def test_what_installed_packages_and_local_files_return_is_gathered_by_hook(world: World) -> None:
    world.write("package_with_colours.py", GUEST)
    world.write("zlocal.py", GUEST.replace('"green", "blue"', '"pink"'))
    plugins = world.load("owner.py", "zlocal.py", installed=("package_with_colours",)).require_sound()
    extensions = plugins.catalog().extensions
    assert list(extensions) == ["colour_names"]
    assert list(extensions["colour_names"]) == ["green", "blue", "red", "pink"]


def test_a_plugin_may_implement_a_hook_that_is_added_by_one_loaded_after_it(world: World) -> None:
    world.write("aaa.py", GUEST)
    extensions = world.load("aaa.py", "owner.py").require_sound().catalog().extensions
    assert list(extensions["colour_names"]) == ["green", "blue", "red"]


def test_a_broken_plugin_brings_nothing_and_does_not_spoil_the_others(world: World) -> None:
    world.write("guest.py", GUEST + "raise RuntimeError('no')\n")
    plugins = world.load("owner.py", "guest.py")
    assert list(plugins.catalog().extensions["colour_names"]) == ["red"]
    assert [plugin.name for plugin in plugins.broken] == [str(world.path / "guest.py")]


def test_a_hook_is_called_when_it_is_first_asked_for_and_once(world: World) -> None:
    world.write("guest.py", "called = []\n" + GUEST.replace("    return", "    called.append(1)\n    return"))
    plugins = world.load("owner.py", "guest.py")
    called = vars(plugins.loaded[1].module)["called"]
    catalog = plugins.catalog()
    assert called == []
    assert catalog.extensions["colour_names"] == catalog.extensions["colour_names"]
    assert called == [1]
    assert "shape_names" not in catalog.extensions


def test_a_misspelled_hook_is_refused_and_the_added_hooks_are_named(world: World) -> None:
    message = world.error(GUEST.replace("colour_names", "color_names"))
    assert "guest.py" in message
    assert "color_names" in message
    assert message.endswith("pipeline_tables, colour_names")


def test_an_implementation_with_arguments_is_refused_and_its_own_plugin_named(world: World) -> None:
    message = world.error(GUEST.replace("colour_names()", "colour_names(app)"))
    assert message.startswith(f"plugin '{world.path / 'guest.py'}'")
    assert "app" in message
    assert "owner.py" not in message


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("return 5", "colour_names() returned 5: return a list"),
        ("raise KeyError('x')", "colour_names() failed: KeyError: 'x'"),
    ],
)
def test_an_implementation_that_gives_no_list_is_named_when_it_is_asked(world: World, text: str, said: str) -> None:
    world.write("guest.py", GUEST.replace('return ["green", "blue"]', text))
    extensions = world.load("owner.py", "guest.py").require_sound().catalog().extensions
    with pytest.raises(PluginError) as caught:
        extensions["colour_names"]
    assert said in str(caught.value)
    assert "guest.py" in str(caught.value)


SPECS = "from pipeline.hookspecs import hookspec\nimport sys\n"
RETURN = "@hookimpl\ndef pipeline_hookspecs(): return {}\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (RETURN.format(5), "pipeline_hookspecs() returned 5: return a list"),
        (RETURN.format("[5]"), "returned 5: return modules with hooks"),
        ("import json\n" + RETURN.format("[json]"), "'json', which has no hooks: mark them with @hookspec"),
        ("@hookimpl\ndef pipeline_hookspecs(): raise KeyError('x')\n", "pipeline_hookspecs() failed: KeyError: 'x'"),
        (
            "class Own:\n  @hookspec\n  def colour_names(): ...\n" + RETURN.format("[Own]"),
            "owner.py' (local file) adds",
        ),
        ("class Own:\n  @hookspec\n  def pipeline_own(): ...\n" + RETURN.format("[Own]"), "begins with 'pipeline_'"),
        (
            "class Own:\n  @hookspec\n  def own(a, b): ...\n" + RETURN.format("[Own]"),
            "takes a, b, and must take nothing",
        ),
        (
            "import pluggy\nclass Own:\n  @pluggy.HookspecMarker('pipeline')(firstresult=True)\n  def own(): ...\n"
            + RETURN.format("[Own]"),
            "must be marked with @hookspec alone",
        ),
    ],
)
def test_hooks_that_could_not_work_are_refused_and_their_plugin_named(world: World, text: str, said: str) -> None:
    message = world.error("from pipeline import hookimpl\n" + SPECS + text)
    assert said in message
    assert message.startswith(f"plugin '{world.path / 'guest.py'}'")


class PaintOptions(BaseModel):
    model_config = ConfigDict(extra="forbid")

    colour: str = "red"

    @field_validator("colour")
    @classmethod
    def _known(cls, value: str, info: ValidationInfo) -> str:
        assert info.context is not None
        colours = info.context["extensions"]["colour_names"]
        if value not in colours:
            raise ValueError(f"there is no colour {value!r} in {info.context['base']}; there are: {', '.join(colours)}")
        return value


class Paint(Handler[PaintOptions]):
    name = "paint"
    Options = PaintOptions


FILE = """\
[source.s]
stream = "s"
group = "g"
[[route]]
match = "#"
stages = ["paint"]
[stage.paint]
colour = "pink"
"""


def test_options_are_checked_against_what_other_plugins_offer_and_know_the_files_folder(world: World) -> None:
    world.write("guest.py", GUEST)
    catalog = world.load("owner.py", "guest.py").catalog()
    with_paint = Catalog(handlers={"paint": Paint}, connectors={}, extensions=catalog.extensions)
    file = world.write("pipeline.toml", FILE)
    with pytest.raises(ConfigError) as caught:
        load(file, {"PIPELINE_BROKER_URL": "memory://x"}, with_paint)
    problem = next(problem for problem in caught.value.problems if problem.path == "stage.paint.colour")
    assert problem.line == 8
    assert problem.message == f"there is no colour 'pink' in {world.path}; there are: red, green, blue"


def test_a_plugin_that_fails_while_options_are_checked_is_named_itself(world: World) -> None:
    world.write("guest.py", GUEST.replace('return ["green", "blue"]', "return 5"))
    extensions = world.load("owner.py", "guest.py").catalog().extensions
    file = world.write("pipeline.toml", FILE)
    with pytest.raises(PluginError, match=r"guest\.py.*colour_names\(\) returned 5"):
        load(file, {}, Catalog(handlers={"paint": Paint}, extensions=extensions))
