"""`plugins`: what is installed, and what is broken."""

from __future__ import annotations

from pathlib import Path

from tests.pipeline.cli.support import HELLO, run, write


def test_every_installed_plugin_is_listed_with_what_it_brings() -> None:
    done = run("plugins", "--json")
    assert (done.code, done.json["broken"]) == (0, 0)
    by_name = {plugin["name"]: plugin for plugin in done.json["plugins"]}
    assert by_name["log"]["handlers"] == ["log"]
    assert by_name["memory"]["connectors"] == ["memory"]
    assert by_name["temporal"]["resources"] == ["temporal"]
    assert by_name["audit"]["tables"] == ["audit"]
    assert by_name["log"]["distribution"].startswith("pipeline-runner ")
    shown = run("plugins").out.splitlines()
    assert len(shown) == 1 + len(by_name)
    kinds = ["handlers", "connectors", "resources", "tables", "commands", "extensions"]
    assert shown[0].split() == ["plugin", "distribution", *kinds]


def test_local_handlers_are_listed_and_a_broken_one_is_explained() -> None:
    write(HELLO.replace('name = "hello"', 'handlers = "mine"'))
    Path("mine").mkdir()
    Path("mine/good.py").write_text("from pipeline import handler\n@handler('good')\nasync def good(event): pass\n")
    Path("mine/bad.py").write_text("x = 1\nx.y\n")
    done = run("plugins")
    assert done.code == 1
    assert "good" in done.out
    assert "mine/bad.py:2" in done.err
    assert done.err.endswith("1 broken plugin\n")
    broken = [plugin for plugin in run("plugins", "--json").json["plugins"] if plugin["error"]]
    assert [plugin["name"] for plugin in broken] == ["mine/bad.py"]


def test_a_named_file_that_is_not_there_is_a_mistake() -> None:
    assert run("plugins", "-c", "nope.toml").code == 2


HOOKS = """
import sys
from pipeline import hookimpl
from pipeline.hookspecs import hookspec

class Hooks:
    @hookspec
    def colour_names(): ...

@hookimpl
def pipeline_hookspecs():
    return [Hooks]
"""
COLOURS = """
from pipeline import hookimpl

@hookimpl
def colour_names():
    return ["red", "green"]
"""


def test_what_plugins_offer_to_other_plugins_is_listed_and_a_failure_to_say_so_is_explained() -> None:
    write(HELLO.replace('name = "hello"', 'handlers = "mine"'))
    Path("mine").mkdir()
    Path("mine/hooks.py").write_text(HOOKS)
    Path("mine/colours.py").write_text(COLOURS)
    done = run("plugins")
    assert done.code == 0, done.err
    assert "colour_names: red, green" in done.out
    by_name = {plugin["name"]: plugin for plugin in run("plugins", "--json").json["plugins"]}
    assert by_name["mine/colours.py"]["extensions"] == {"colour_names": ["red", "green"]}
    assert by_name["mine/hooks.py"]["extensions"] == {}
    Path("mine/colours.py").write_text(COLOURS.replace('["red", "green"]', "5"))
    done = run("plugins")
    assert done.code == 1
    assert "mine/colours.py" in done.err
    assert "colour_names() returned 5: return a list" in done.err
