"""What a dry run of a replay found, as people and scripts are told."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pipeline.cli.console import count, say, show_json, show_table

if TYPE_CHECKING:
    from pipeline.replay import DryRunReport
    from pipeline.replay.dry_run import EventReport, RouteTally

__all__ = ["show_dry_run"]


def show_dry_run(report: DryRunReport, *, as_json: bool) -> None:
    """Print it."""
    if as_json:
        show_json(report.as_json())
        return
    if report.note:
        say(report.note, style="yellow", stderr=True)
    if report.last < report.first:
        say("nothing to replay")
        return
    before = f"; {count(report.done, 'offset')} of them done by earlier runs" if report.done else ""
    say(f"replay {report.name}, a dry run: {count(report.messages, 'message')} of {report.stream}, "
        f"offsets {report.first} to {report.last}{before}")  # fmt: skip
    say()
    rows = [row for route in report.routes for row in _rows(route)]
    show_table(("route", "stage", "handled", "filtered", "invalid data"), rows)
    say()
    say(f"{report.unrouted:,} taken by none of these routes, {report.undecodable:,} undecodable")
    if report.examples:
        say()
        rows = [row for event in report.examples for row in _event_rows(event)]
        show_table(("offset", "id", "routing key", "route", "key", "stages", "why not"), rows)
    say("Nothing was written. What the handlers themselves decide is not known before they are called.", style="dim")


def _rows(route: RouteTally) -> list[tuple[object, ...]]:
    rows: list[tuple[object, ...]] = [(route.name, "", route.handled, route.filtered, route.invalid)]
    for stage in route.stages:
        name = f"finally {stage.name}" if stage.closing else stage.name
        queue = f" (a job on {stage.queue})" if stage.queue else ""
        rows.append(("", f"{name}{queue}", stage.handled, stage.filtered, stage.invalid))
    return rows


def _event_rows(event: EventReport) -> list[tuple[object, ...]]:
    place = (event.offset, event.id or "-", event.routing_key or "-")
    if not event.routes:
        return [(*place, "-", "-", "-", event.reason)]
    return [
        (*place, route.route, route.key or "-", " → ".join(route.stages) or "-", route.reason) for route in event.routes
    ]
