"""An event takes every route of its source that matches, in file order; its ordering key is the first found."""

from __future__ import annotations

from typing import Any

import pytest

from pipeline.config.models import RouteTable
from pipeline.events import Event
from pipeline.routing import CACHED_KEYS, KeyPathError, Router, compile_key


def table(*match: str, source: str = "admin", **more: Any) -> RouteTable:
    return RouteTable.model_validate({"match": list(match), "source": source, **more})


def event(data: dict[str, Any], headers: dict[str, Any] | None = None) -> Event:
    return Event("m-1", "a.b", data, headers or {})


def test_all_matching_routes_of_the_source_run_in_file_order() -> None:
    router = Router([
        table("admin.#", name="everything"),
        table("admin.workflow.*", name="other source", source="governance"),
        table("admin.bom.*", "admin.workflow.*", name="two patterns"),
        table("admin.bom.*", name="another key"),
    ])  # fmt: skip
    found = router.routes_for("admin", "admin.workflow.paused")
    assert [(route.index, route.name) for route in found] == [(0, "everything"), (2, "two patterns")]
    assert router.routes_for("admin", "hello") == ()
    assert router.routes_for("nosuch", "admin.workflow.paused") == ()


def test_a_routing_key_seen_before_is_not_matched_again() -> None:
    router = Router([table("a.#")])
    assert router.routes_for("admin", "a.b") is router.routes_for("admin", "a.b")


def test_the_memory_of_routing_keys_is_bounded() -> None:
    router = Router([table("a.#")])
    for number in range(CACHED_KEYS * 2 + 10):
        assert len(router.routes_for("admin", f"a.{number}")) == 1
    assert len(router._known) <= CACHED_KEYS


def test_a_route_keeps_its_stages_and_compiles_its_condition() -> None:
    route = Router([table("a", stages=["x", "y"], **{"finally": "audit"}, when="data.n > 1")]).routes[0]
    assert (route.stages, route.finally_) == (("x", "y"), ("audit",))
    assert route.when is not None
    assert route.when.holds(event({"n": 2}).variables()) == (True, "")
    assert Router([table("a")]).routes[0].when is None


@pytest.mark.parametrize(
    ("paths", "data", "headers", "key"),
    [
        (["data.workflow_id"], {"workflow_id": "w-1"}, {}, "w-1"),
        (["data.order.id"], {"order": {"id": 7}}, {}, "7"),
        (["data.order.id"], {"order": "x"}, {}, None),
        (["data.a", "data.b"], {"b": "second"}, {}, "second"),
        (["data.a", "data.b"], {"a": None, "b": "second"}, {}, "second"),
        (["data.a", "data.b"], {"a": "first", "b": "second"}, {}, "first"),
        (["data.a", "data.b"], {}, {}, None),
        (["headers.x-tenant"], {}, {"x-tenant": "acme"}, "acme"),
        (["data.a"], {"a": True}, {}, "true"),
        (["data.a"], {"a": 1.5}, {}, "1.5"),
        (["data.a"], {"a": {}}, {}, None),
        (["data.a"], {"a": []}, {}, None),
        (["data.a"], {"a": ""}, {}, ""),
        (["id"], {}, {}, "m-1"),
        (["data.a", "routing_key"], {}, {}, "a.b"),
        ([], {"a": 1}, {}, None),
    ],
)
def test_the_ordering_key_is_the_first_path_that_exists(
    paths: list[str], data: dict[str, Any], headers: dict[str, Any], key: str | None
) -> None:
    assert compile_key(paths)(event(data, headers)) == key


@pytest.mark.parametrize("path", ["", "data", "headers", "datax.a", "data.", "data..a", "time", "workflow_id", "id.x"])
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(KeyPathError, match="is no path"):
        compile_key([path])


def test_a_route_without_a_name_is_called_by_its_first_pattern() -> None:
    assert Router([table("a.*", "b.*")]).routes[0].name == "a.*"


def test_an_explanation_tells_for_each_route_which_pattern_matched_or_why_none_did() -> None:
    router = Router([
        table("hello.#", name="hello"),
        table("admin.bom.*", "admin.workflow.*", name="control"),
        table("#", name="elsewhere", source="governance"),
    ])  # fmt: skip
    hello, control = router.explain("admin.workflow.paused", "admin")
    assert (hello.matched, hello.reason) == (False, "'hello.#': word 1 is 'admin', not 'hello'")
    assert (control.matched, control.pattern, control.reason) == (True, "admin.workflow.*", "")
    assert [item.route.name for item in router.explain("x") if item.matched] == ["elsewhere"]
