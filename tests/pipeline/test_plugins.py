"""Plugins: what is found, and what is said of one that can't be used."""

from __future__ import annotations

import sys
import textwrap
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from pipeline.errors import PluginError
from pipeline.plugins import Plugins, load_plugins


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


def local(folder: Path, text: str, name: str = "mine.py") -> Plugins:
    write(folder, name, text)
    return load_plugins([folder], installed=())


def error_of(plugins: Plugins) -> str:
    with pytest.raises(PluginError) as caught:
        plugins.require_sound()
    return str(caught.value)


def test_the_built_in_plugins_are_installed_like_any_other() -> None:
    catalog = load_plugins().require_sound().catalog()
    assert {"log", "audit", "workflow-control"} <= set(catalog.handlers)
    assert {"rabbitmq-stream", "embedded", "memory"} <= set(catalog.connectors)
    assert "temporal" in catalog.resources


def test_loading_every_built_in_plugin_imports_no_heavy_library() -> None:
    import subprocess

    script = (
        "import sys; from pipeline.plugins import load_plugins; load_plugins().require_sound().catalog()\n"
        "print(sorted({'faststream', 'sqlalchemy', 'sqlmodel', 'temporalio', 'arq', 'rstream'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_marked_function_in_a_local_file_is_a_handler(tmp_path: Path) -> None:
    plugins = local(
        tmp_path,
        """
        from pipeline import Event, handler

        @handler("greet")
        async def greet(event: Event) -> None:
            print("hello", event.data["name"])
        """,
    )
    assert list(plugins.require_sound().catalog().handlers) == ["greet"]
    assert plugins.loaded[0].origin == "local file"


def test_a_local_file_may_implement_hooks(tmp_path: Path) -> None:
    plugins = local(
        tmp_path,
        """
        from pipeline import Handler, hookimpl

        class Mine(Handler):
            name = "mine"

            async def handle(self, event, context): ...

        @hookimpl
        def pipeline_handlers():
            return [Mine]
        """,
    )
    assert list(plugins.require_sound().catalog().handlers) == ["mine"]


def test_files_that_begin_with_an_underscore_are_left_out(tmp_path: Path) -> None:
    write(tmp_path, "_helper.py", "raise RuntimeError")
    assert load_plugins([tmp_path], installed=()).loaded == ()


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(PluginError, match=r"no such folder or \.py file"):
        load_plugins([tmp_path / "nowhere"], installed=())


def test_a_file_that_fails_to_load_is_named_with_its_line(tmp_path: Path) -> None:
    message = error_of(local(tmp_path, "import os\n\nimport no_such_library\n"))
    assert "No module named 'no_such_library'" in message
    assert f"{tmp_path / 'mine.py'}:3" in message


def test_a_syntax_error_is_named_with_its_line(tmp_path: Path) -> None:
    assert "mine.py:2" in error_of(local(tmp_path, "x = 1\ndef broken(:\n"))


def test_a_misspelled_hook_is_refused_and_the_hooks_are_listed(tmp_path: Path) -> None:
    message = error_of(
        local(
            tmp_path,
            """
            from pipeline import hookimpl

            @hookimpl
            def pipeline_handler():
                return []
            """,
        )
    )
    assert "pipeline_handler" in message
    assert "pipeline_handlers, pipeline_hookspecs" in message


def test_two_plugins_with_a_misspelled_hook_are_both_named(tmp_path: Path) -> None:
    for name in ("one.py", "two.py"):
        write(tmp_path, name, "from pipeline import hookimpl\n@hookimpl\ndef pipeline_wrong():\n    return []\n")
    message = error_of(load_plugins([tmp_path], installed=()))
    assert "one.py" in message
    assert "two.py" in message


def test_a_hook_with_a_wrong_argument_is_refused(tmp_path: Path) -> None:
    message = error_of(local(tmp_path, "from pipeline import hookimpl\n@hookimpl\ndef pipeline_handlers(app): ...\n"))
    assert "app" in message


def test_a_hook_that_returns_no_list_is_refused(tmp_path: Path) -> None:
    message = error_of(local(tmp_path, "from pipeline import hookimpl\n@hookimpl\ndef pipeline_handlers(): return 5\n"))
    assert "pipeline_handlers() returned 5: return a list" in message


def test_a_hook_that_returns_something_else_than_handlers_is_refused(tmp_path: Path) -> None:
    message = error_of(
        local(tmp_path, "from pipeline import hookimpl\n@hookimpl\ndef pipeline_handlers(): return [dict]\n")
    )
    assert "return subclasses of pipeline's Handler" in message


def test_two_handlers_of_one_name_are_refused_and_both_plugins_named(tmp_path: Path) -> None:
    text = "from pipeline import handler\n@handler('same')\nasync def one(event): ...\n"
    write(tmp_path, "one.py", text)
    write(tmp_path, "two.py", text)
    message = error_of(load_plugins([tmp_path], installed=()))
    assert "'same'" in message
    assert "one.py" in message
    assert "two.py" in message


def test_a_handler_that_is_not_async_is_refused(tmp_path: Path) -> None:
    message = error_of(local(tmp_path, "from pipeline import handler\n@handler('h')\ndef h(event): ...\n"))
    assert "is not async: write 'async def'" in message


def test_a_handler_with_too_many_arguments_is_refused(tmp_path: Path) -> None:
    message = error_of(local(tmp_path, "from pipeline import handler\n@handler('h')\nasync def h(a, b, c): ...\n"))
    assert "takes 3 arguments: write (event) or (event, context)" in message


def test_an_entry_point_that_fails_to_import_names_plugin_distribution_and_remedy() -> None:
    plugins = load_plugins(installed=[EntryPoint("gone", "no_such_module_here", "pipeline")])
    message = error_of(plugins)
    assert "plugin 'gone'" in message
    assert "no_such_module_here" in message
    assert "Mend it" in message


def test_a_broken_plugin_leaves_the_sound_ones_listed(tmp_path: Path) -> None:
    write(tmp_path, "bad.py", "raise RuntimeError('no')")
    write(tmp_path, "good.py", "from pipeline import handler\n@handler('g')\nasync def g(event): ...\n")
    plugins = load_plugins([tmp_path], installed=())
    assert [plugin.error is None for plugin in plugins.loaded] == [False, True]
    assert list(plugins.catalog().handlers) == ["g"]


def test_two_files_of_one_name_in_two_folders_are_two_plugins(tmp_path: Path) -> None:
    for folder, name in (("a", "one"), ("b", "two")):
        (tmp_path / folder).mkdir()
        write(
            tmp_path / folder, "same.py", f"from pipeline import handler\n@handler('{name}')\nasync def h(event): ...\n"
        )
    catalog = load_plugins([tmp_path / "a", tmp_path / "b"], installed=()).require_sound().catalog()
    assert sorted(catalog.handlers) == ["one", "two"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("@handler\nasync def h(event): ...", "write @handler('h')"),
        ("@handler('h', policy={'timeot': 3})\nasync def h(event): ...", "its policy is wrong: timeot"),
        ("@handler('h', resources='temporal')\nasync def h(event): ...", "write ('temporal',)"),
        ("@handler('h', models={'a.*': 3})\nasync def h(event): ...", "models['a.*'] is 3: name a pydantic model"),
        ("@handler('h', models=['x'])\nasync def h(event): ...", "write a routing-key pattern for each model"),
        (
            "class Mine(Handler):\n    name = 'mine'\n    async def handle(self, event, context): ...",
            "is not registered",
        ),
        (
            "class Mine(Handler):\n    name = 'mine'\n@hookimpl\ndef pipeline_handlers(): return [Mine]",
            "defines neither handle nor handle_batch",
        ),
    ],
)
def test_a_handler_that_could_not_work_is_refused_when_it_is_loaded(tmp_path: Path, text: str, said: str) -> None:
    message = error_of(local(tmp_path, f"from pipeline import Handler, handler, hookimpl\n{text}\n"))
    assert said in message
    assert "mine.py" in message


def test_a_policy_may_be_written_as_in_the_file(tmp_path: Path) -> None:
    plugins = local(
        tmp_path, "from pipeline import handler\n@handler('h', policy={'timeout': '3s'})\nasync def h(event): ...\n"
    )
    assert plugins.require_sound().catalog().handlers["h"].policy.timeout == 3
