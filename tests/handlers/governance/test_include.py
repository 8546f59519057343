"""What `include` promises: workflows in files of their own are as good as those in the pipeline's file."""

from __future__ import annotations

from pathlib import Path

import pytest

from pipeline_handlers.governance.options import GovernanceOptions
from tests.handlers.governance.kit import context, options, workflow
from tests.handlers.governance.test_options import problems_of

REVIEW = """
[[workflow]]
name = "{name}"
entity = "policy"
trigger = "on_create"
actions = [{{ use = "note", text = "hello" }}]
"""


def write(folder: Path, name: str, *texts: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(texts))
    return path


def names(found: GovernanceOptions) -> list[str]:
    return [one.name for one in found.workflows]


def test_included_files_add_their_workflows_in_order(tmp_path: Path) -> None:
    write(tmp_path, "workflows/b.toml", REVIEW.format(name="b1"), REVIEW.format(name="b2"))
    write(tmp_path, "workflows/a.toml", REVIEW.format(name="a"))
    write(tmp_path, "one.toml", REVIEW.format(name="one"))
    found = options(workflow(name="own"), base=tmp_path, include=["workflows/*.toml", "one.toml"])
    assert names(found) == ["own", "a", "b1", "b2", "one"]
    assert found.queues == ("governance:policy",)


def test_one_file_may_be_named_without_a_list(tmp_path: Path) -> None:
    write(tmp_path, "one.toml", REVIEW.format(name="one"))
    assert names(options(base=tmp_path, include="one.toml")) == ["one"]


def test_two_stars_reach_all_folders_below(tmp_path: Path) -> None:
    write(tmp_path, "w/x/y/deep.toml", REVIEW.format(name="deep"))
    write(tmp_path, "w/top.toml", REVIEW.format(name="top"))
    assert sorted(names(options(base=tmp_path, include=["w/**/*.toml"]))) == ["deep", "top"]


def test_an_absolute_path_is_taken_as_it_is(tmp_path: Path) -> None:
    path = write(tmp_path, "far/one.toml", REVIEW.format(name="one"))
    assert names(options(base="elsewhere", include=[str(path)])) == ["one"]


def test_a_file_that_two_patterns_name_counts_once(tmp_path: Path) -> None:
    write(tmp_path, "one.toml", REVIEW.format(name="one"))
    assert names(options(base=tmp_path, include=["*.toml", "./one.toml"])) == ["one"]


def test_variables_are_replaced_in_included_files_too(tmp_path: Path) -> None:
    write(tmp_path, "one.toml", REVIEW.format(name="${WHICH}"))
    found = GovernanceOptions.model_validate(
        {"include": ["one.toml"]}, context=context(tmp_path, environ={"WHICH": "of-the-variable"})
    )
    assert names(found) == ["of-the-variable"]


def test_a_pattern_that_matches_nothing_is_an_error(tmp_path: Path) -> None:
    [first, second] = problems_of({"include": ["*.toml", "one.toml"]}, tmp_path)
    assert first == f"include[0]: no file matches '{tmp_path}/*.toml': paths are relative to the pipeline's file"
    assert second == f"include[1]: there is no file '{tmp_path}/one.toml': paths are relative to the pipeline's file"


def test_what_is_wrong_in_an_included_file_is_told_with_file_line_and_key(tmp_path: Path) -> None:
    path = write(tmp_path, "w/a.toml", REVIEW.format(name="fine"), REVIEW.format(name="a").replace("text =", "tetx ="))
    [found] = problems_of({"include": ["w/*.toml"]}, tmp_path)
    assert found == (
        f"include[0]: {path}:12: workflow[1].actions[0].text: the key is missing\n"
        f"  {path}:12: workflow[1].actions[0].tetx: action 'note' has no option 'tetx'; did you mean 'text'?"
    )


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            REVIEW.format(name="a").replace('"on_create"', '"on_birth"'),
            ":5: workflow[0].trigger: it must be 'on_create'",
        ),
        (REVIEW.format(name="a") + 'when = "data."\n', ":7: workflow[0].when: "),
        ("[[workflow]\n", ":1: no valid TOML: "),
        ("", ": workflow: the key is missing"),
        ("workflow = []\n", ":1: workflow: it must not be empty"),
        ("[stage]\n", ":1: stage: unknown key 'stage'"),
        (REVIEW.format(name="${NOWHERE}"), ":3: workflow[0].name: "),
    ],
)
def test_an_included_file_is_checked_as_the_pipelines_own(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, "a.toml", text)
    [found] = problems_of({"include": ["a.toml"]}, tmp_path, environ={})
    assert f"{path}{said}" in found


def test_the_problems_of_all_files_are_told_at_once(tmp_path: Path) -> None:
    write(tmp_path, "a.toml", REVIEW.format(name="a").replace("note", "nope"))
    write(tmp_path, "b.toml", REVIEW.format(name="b").replace("note", "nope"))
    [found] = problems_of({"include": ["*.toml"]}, tmp_path)
    assert found.count("there is no action 'nope'") == 2


def test_an_included_workflow_may_not_have_the_name_of_another(tmp_path: Path) -> None:
    path = write(tmp_path, "a.toml", REVIEW.format(name="review"), REVIEW.format(name="twice"))
    other = write(tmp_path, "b.toml", REVIEW.format(name="twice"))
    [found] = problems_of({"workflow": [workflow()], "include": ["*.toml"]}, tmp_path)
    assert f"{path}:3: there are two workflows named 'review' (the first: workflow[0])" in found
    assert f"{other}:3: there are two workflows named 'twice' (the first: {path}:9)" in found
