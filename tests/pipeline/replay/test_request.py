"""What a request for a replay means for a pipeline, and which mistakes it can hold."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from pipeline.errors import UserError
from pipeline.replay.request import Choice, ReplayRequest, choose
from tests.pipeline.replay.site import PIPELINE, Site


def chosen(site: Site, **asked: Any) -> Choice:
    return choose(site.loaded[0], ReplayRequest(**{"begin": "first", **asked}))


def test_everything_runs_where_nothing_is_chosen(site: Site) -> None:
    choice = chosen(site)
    assert [route.name for route in choice.routes] == ["orders", "all"]
    assert choice.stages == ("strict", "note", "audit", "later", "last")
    assert (choice.table.stream, choice.table.dedupe, choice.live_group) == ("st", False, "g")


def test_only_names_the_stages_that_run_wherever_they_stand(site: Site) -> None:
    choice = chosen(site, only=["audit", "note"])
    (route,) = choice.routes
    assert (route.name, route.stages, route.finally_) == ("orders", ("note",), ("audit",))


def test_only_without_a_finally_stage_leaves_finally_out(site: Site) -> None:
    (route,) = chosen(site, only=["strict"]).routes
    assert route.finally_ == ()


def test_a_route_is_chosen_by_its_name(site: Site) -> None:
    assert chosen(site, routes=["all"]).stages == ("later", "last")


def test_the_same_request_has_the_same_name_and_another_one_another(site: Site) -> None:
    requests: list[dict[str, Any]] = [
        {}, {"begin": 1}, {"end": 5}, {"routes": ["all"]}, {"only": ["audit"]}, {"only": ["note"]},
        {"begin": datetime(2026, 1, 1, tzinfo=UTC)},
    ]  # fmt: skip
    names = [chosen(site, **request).name for request in requests]
    assert len(set(names)) == len(names)
    assert [chosen(site, **request).name for request in requests] == names
    assert chosen(site, only=["note", "audit"]).name == chosen(site, only=["audit", "note"]).name


def test_a_name_is_part_of_the_group(site: Site) -> None:
    assert chosen(site, name="fix-1842").group == "g.replay.fix-1842"


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"source": "x"}, "there is no [source.x]; the sources are: s"),
        ({"routes": ["order"]}, "has no route 'order'"),
        ({"routes": ["order"]}, "did you mean 'orders'?"),
        ({"only": ["adit"]}, "has a stage 'adit'"),
        ({"only": ["adit"]}, "did you mean 'audit'?"),
        ({"routes": ["all"], "only": ["audit"]}, "there are: last, later"),
        ({"name": "a b"}, "--name 'a b'"),
        ({"name": ""}, "--name ''"),
        ({"begin": 5, "end": 4}, "--from 5 does not lie before --to 4"),
        ({"begin": datetime(2026, 1, 1)}, "has no zone"),
    ],
)
def test_a_mistake_is_refused_with_what_there_is(site: Site, asked: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError) as error:
        chosen(site, **asked)
    assert says in str(error.value)


def test_a_source_must_be_named_where_there_are_several(site: Site) -> None:
    site.write(PIPELINE.replace("[[route]]\n", '[[route]]\nsource = "s"\n') + '[source.t]\nstream = "t"\ngroup = "g"\n')
    with pytest.raises(UserError, match="the sources are: s, t"):
        chosen(site)
    with pytest.raises(UserError, match="source 't' has no routes"):
        chosen(site, source="t")
