"""A dry run of a replay: what it says, and that it leaves no trace."""

from __future__ import annotations

from tests.pipeline.replay.site import Site
from tests.pipeline.replay.test_replay import live, orders


async def test_it_says_what_each_route_and_stage_would_get(site: Site) -> None:
    site.publish(*orders(3), ("order.paid", {"n": "x"}), ("order.paid", {"draft": 1}), ("bill", {}), ("no", {}), b"[]")
    report = await site.dry_run()
    assert (report.messages, report.undecodable, report.unrouted) == (8, 1, 1)
    told = {
        (route.name, stage.name): (stage.handled, stage.filtered, stage.invalid)
        for route in report.routes
        for stage in route.stages
    }
    assert told == {
        ("orders", "strict"): (3, 0, 1),
        ("orders", "note"): (3, 0, 0),
        ("orders", "audit"): (4, 0, 0),
        ("all", "later"): (4, 2, 0),
        ("all", "last"): (6, 0, 0),
    }
    assert [(route.handled, route.filtered, route.invalid) for route in report.routes] == [(3, 1, 1), (6, 0, 0)]
    assert [stage.queue for stage in report.routes[1].stages] == ["stages", None]


async def test_it_says_what_the_replay_then_does(site: Site) -> None:
    site.publish(*orders(8), ("order.paid", {"n": "x"}), ("order.paid", {"draft": 1}), ("no", {}), b"no json")
    report = await site.dry_run(3, routes=["orders"])
    summary = await site.run(3, routes=["orders"])
    (route,) = report.routes
    assert summary.routes["orders"] == {"handled": route.handled, "filtered": route.filtered, "dead": route.invalid}
    assert summary.processed == report.messages
    assert (summary.dead, summary.unreadable) == (route.invalid, report.undecodable)


async def test_it_shows_so_many_events(site: Site) -> None:
    site.publish(("no", {}), ("order.paid", {"n": "x", "key": "k"}), *orders(3), b"no json")
    first, *_ = shown = (await site.dry_run(show=3, routes=["orders"])).examples
    assert [event.offset for event in shown] == [1, 2, 3]
    (route,) = first.routes
    assert (first.id, first.routing_key, route.route, route.key, route.stages) == (
        "e1", "order.paid", "orders", "k", ["audit"],
    )  # fmt: skip
    assert "the data does not fit Order" in route.reason
    (last,) = (await site.dry_run(5)).examples
    assert (last.offset, last.id, last.routes) == (5, "e5", ())
    assert "not valid JSON" in last.reason


async def test_a_model_that_fails_in_a_way_of_its_own_is_told_as_what_it_will_be(site: Site) -> None:
    site.publish(("order.paid", {"n": "none"}), ("order.paid", {"n": "one"}))
    report = await site.dry_run(routes=["orders"])
    (route,) = report.routes
    assert (route.handled, route.invalid) == (1, 1)
    assert report.examples[0].routes[0].reason == "strict: KeyError: 'none'"


async def test_it_writes_nothing(site: Site) -> None:
    site.publish(*orders(20))
    await live(site, 20)
    before, calls = await site.everything(), site.calls
    assert before["progress"]
    assert before["audit_logs"]
    await site.dry_run()
    await site.dry_run(3, 7, only=["note"])
    assert await site.everything() == before
    assert site.calls == calls


async def test_it_needs_no_database(site: Site) -> None:
    site.publish(*orders(2))
    (site.folder / "pipeline.db").unlink()
    assert (await site.dry_run()).messages == 2
    assert not (site.folder / "pipeline.db").exists()


async def test_it_leaves_out_what_an_earlier_run_has_done(site: Site) -> None:
    site.publish(*orders(5))
    await site.run(only=["audit"])
    report = await site.dry_run(only=["audit"])
    assert (report.messages, report.done) == (0, 5)


async def test_it_ends_before_what_comes_after_the_range(site: Site) -> None:
    site.publish(*orders(9))
    report = await site.dry_run(2, 4)
    assert report.messages == 3
